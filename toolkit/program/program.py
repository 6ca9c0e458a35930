# SPDX-License-Identifier: Apache-2.0
"""Program: an XDP program in the kernel with its maps, its links, and the sockets registered in its XSKMAP."""

from __future__ import annotations

import contextlib
import functools
import os
import time
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import one_of
from toolkit._base.descriptor import Descriptor
from toolkit._base.netns import NetNS
from toolkit._base.uninterrupted import uninterrupted
from toolkit.abi import libbpf as abi
from toolkit.errors import ArgumentError, ToolkitError, explained
from toolkit.program import link as links
from toolkit.program import load, query, run
from toolkit.program.link import Link, Mode, Replace
from toolkit.program.loss import Location, Loss, detached
from toolkit.program.maps import Map
from toolkit.program.rules import Action, Filtering, Rule, RuleCounters

__all__ = ["Program"]

_ELSEWHERE = 0.5  # seconds between two questions (50 us each) about an attachment that is not by a link of ours


class Program:
    """An XDP program that the kernel has accepted.

    Made by `Program.build(source)`, which compiles with BCC in another process, or by `Program.from_bcc(bpf, function)`
    from a BPF object of your own. Closing it detaches it from every interface. One Program may be attached to several
    interfaces, but its XSKMAP has an entry for each queue number only, so their sockets need Programs of their own.
    """

    def __init__(self, fd: int, name: str, maps: Mapping[str, Map], rules: Iterable[Rule] = ()) -> None:
        """Take over `fd`, a loaded program, and its maps. Use `build` or `from_bcc`."""
        self.name = name
        self.rules = tuple(rules)
        """The rules in it, in order, if they are known. Batch.rule_numbers has their indices."""
        self._descriptor = Descriptor(fd, f"the XDP program {name}")
        self._maps = dict(maps)
        self._links: list[Link] = []
        # queue -> weak reference to its Socket, or a token for a bare descriptor; written by register()
        self._registered: dict[int, object] = {}
        self._elsewhere: dict[Location, tuple[float, bool, Loss | None]] = {}  # by _lost_elsewhere()
        info = query.program_info(fd)
        self.id = info.id
        """The kernel's id of the program."""

    @classmethod
    def build(
        cls,
        source: str | os.PathLike[str] = "xsk_redirect.c",
        *,
        function: str | None = None,
        filter: str | None = None,
        rules: Iterable[Rule] | None = None,
        on_match: Action = "redirect",
        sample: float = 1,
        snaplen: int | None = None,
        defines: Mapping[str, str | int] | None = None,
        frags: bool = False,
        map_entries: Mapping[str, int] | None = None,
        cache: bool = True,
    ) -> Program:
        """Compile and load a program.

        `source` is the name of one of the toolkit's programs, a path, or C text (anything with a newline), in the C
        that BCC compiles. `function` names the XDP program where the source has several. `filter` is a tcpdump
        expression, by default "all"; the source sees it as `match()` of xsk_filter.h. `on_match`, `sample` and
        `snaplen` make a Rule with it, and `rules` are several in its place: see Rule. The source sees those as
        `decide()` of xsk_rules.h. `defines` are macros. `frags` is for packets of several buffers (jumbo frames): the
        program is loaded for them, and the filter sees all of them, not only the first buffer. `map_entries` overrides
        the sizes of maps. Without `cache` it is compiled anew.

        Raises CompileError, VerifierError, FilterError, LibraryError (no BCC), PrivilegeError, ArgumentError.
        """

        from toolkit.program import build, sources

        def work() -> Program:
            one_of("frags", frags, True, False)
            filtering = Filtering.of(filter, rules, on_match, sample, snaplen)
            with explained(f"cannot build the XDP program {os.fspath(source)[:80]!r}"):
                found = sources.read(source)
                text = sources.assemble(found, filtering.rules, defines or {}, frags)
                image = build.choose(build.build_images(found, text, cache=cache), function, found.name)
            maps = load.create_maps(image, map_entries or {})
            try:
                fd = load.load_program(image, maps, frags=frags, source=found.name)
            except BaseException:
                for one in maps.values():
                    one.close()
                raise
            return cls(fd, image.function, maps, filtering.rules)

        # Uninterrupted: otherwise an interrupt could leave file descriptors without an owner, or clang running.
        return uninterrupted(work, dispose=Program.close)

    @classmethod
    def from_bcc(cls, bpf: Any, function: Any = None, *, rules: Iterable[Rule] = ()) -> Program:
        """Take over from a `bcc.BPF` object of your own. function: a name, or what `bpf.load_func` returned.

        A function that is not loaded yet is loaded. The Program has file descriptors of its own: either object may be
        closed first. It does not change what `bpf.attach_xdp` attached. rules: those given to source_text(), if any,
        for the names in rule_counters().
        """
        from toolkit.program import bcc

        known = Filtering.of(rules=rules).rules if rules else ()
        fd, name, maps = bcc.adopt(bpf, function)
        return cls(fd, name, maps, known)

    @property
    def fd(self) -> int:
        """The program's file descriptor. ClosedError after close()."""
        return self._descriptor.fd

    def fileno(self) -> int:
        """The program's file descriptor."""
        return self.fd

    @property
    def maps(self) -> Mapping[str, Map]:
        """The program's maps by their names in the source."""
        return types.MappingProxyType(self._maps)

    @property
    def links(self) -> tuple[Link, ...]:
        """The open links: where the program is attached."""
        return tuple(link for link in self._links if not link.closed)

    @property
    def closed(self) -> bool:
        """Whether close() was called, or this is a forked child."""
        return self._descriptor.closed

    def attach(self, interface: str, *, mode: Mode = "auto", replace: Replace = False, netns: NetNS = None) -> Link:
        """Attach the program to `interface` until the Link or the Program is closed, or the process ends in any way.

        mode: "auto" tries native mode first and falls back to generic; `Link.mode` has the result and
        `Link.fallback_reason` the reason. replace: False refuses if another program is attached, and names it. True
        replaces one that was attached by netlink, such as a firewall; it is restored when the Link ends
        (`Link.replaced` names it; the end is logged). "link" also replaces a program that is held by a link, which
        cannot be restored.
        netns: the interface's network namespace, if it is not this thread's.
        """

        def work() -> Link:
            link = links.attach(
                self.fd,
                self.name,
                interface,
                mode,
                replace,
                netns,
                filters=any(rule.filter != "all" for rule in self.rules),
            )
            self._links = [*self.links, link]
            return link

        # Uninterrupted: otherwise an interrupt could leave a program attached without an object that detaches it.
        return uninterrupted(work, dispose=Link.close)

    def loss(self, location: Location, within: float = 0.0) -> Loss | None:
        """Return why the program is not attached at `location` any more, if neither this object nor its Link detached
        it.

        None otherwise. See Link.loss().
        """
        mine = [link for link in self._links if link.location == location]
        if not mine:
            return self._loss_elsewhere(location, within)
        found = [link.loss(within) for link in mine if not link.closed]
        return None if None in found or not found else found[-1]

    def _loss_elsewhere(self, location: Location, within: float) -> Loss | None:
        """Do loss() for a program that others attached: by netlink (BCC, `ip link`), or in the process that made it.

        A loss is known only after the program was once seen there.
        """
        asked, ran, found = self._elsewhere.get(location, (0.0, False, None))
        if found is None and (now := time.monotonic()) >= asked + max(within, _ELSEWHERE):
            runs = location.runs(self.id)
            if ran and runs is False and not self._ended_by_owner():
                found = detached(location, self.name, "it was attached by netlink or another process")
                links.wait_for_readers()
            self._elsewhere[location] = now, ran or bool(runs), found
        return found

    def _ended_by_owner(self) -> bool:
        """Return whether its owner detached it: the process that shares it with this one."""
        return False

    @functools.cached_property
    def xsks_map(self) -> Map:
        """The map of AF_XDP sockets, by queue. ArgumentError if the program has none, or several."""
        found = [one for one in self._maps.values() if one.type == abi.BPF_MAP_TYPE_XSKMAP]
        named = [one for one in found if one.name == "xsks_map"]
        if len(found) == 1 or named:
            return (named or found)[0]
        raise ArgumentError(
            f"the program {self.name} has {len(found)} XSKMAPs, so no socket can be registered. "
            "Next step: declare one, `BPF_XSKMAP(xsks_map, 64);`."
        )

    def register(self, sock: Any, queue: int | None = None) -> None:
        """Redirect the packets of a queue to `sock`: write the XSKMAP entry.

        sock: a `toolkit.Socket`, which has its queue and removes itself when it closes; or any object with `fileno()`,
        or a file descriptor, which need `queue`. ArgumentError when the queue is taken, or the map has no room for it.
        """
        number = getattr(sock, "queue", None) if queue is None else queue
        if not isinstance(number, int):
            raise ArgumentError(f"of which queue is {sock!r}? Next step: register(sock, queue=...).")
        table = self.xsks_map
        if not 0 <= number < table.max_entries:
            raise ArgumentError(
                f"the map {table.name} has no room for queue {number}: it has {table.max_entries} entries. "
                f'Next step: Program.build(..., map_entries={{"{table.name}": {number + 1}}}).'
            )
        holder = self._registered.get(number)
        other = holder() if isinstance(holder, weakref.ref) else None
        if other is not None and other is not sock and not getattr(other, "closed", True):
            raise ArgumentError(
                f"queue {number} of the program {self.name} is taken by {other!r}: its XSKMAP knows queues, not "
                "interfaces, and packets of both would go to one socket. Next step: close that socket, or build a "
                "Program for each interface."
            )
        update = getattr(sock, "update_xskmap", None)
        if update is not None and number == getattr(sock, "queue", number):
            update(table.fd)
        else:
            table.update(number, sock if isinstance(sock, int) else sock.fileno())
        on_close = getattr(sock, "on_close", None)
        token = self._registered[number] = object() if on_close is None else weakref.ref(sock)
        if on_close is not None:
            # Weak, so that a socket does not keep the program attached.
            on_close(functools.partial(_socket_closes, weakref.ref(self), number, token))
        if (feed := getattr(sock, "feed", None)) is not None:
            feed.begin(self)

    def unregister(self, queue: int) -> None:
        """Remove a queue's entry: its packets go on to the kernel. Repeatable."""
        holder = self._registered.pop(queue, None)
        sock = holder() if isinstance(holder, weakref.ref) else None
        if (feed := getattr(sock, "feed", None)) is not None:
            feed.end(self)
        self.xsks_map.delete(queue)

    def counters(self) -> dict[str, int]:
        """Return the counters, summed over the CPUs: the members of the struct in its per-CPU array `counters`.

        Where that array has several entries (one a rule, and one for packets that no rule takes), over all of them.
        Empty where the program has no such array, which
        `struct counters { u64 redirected; }; BPF_PERCPU_ARRAY(counters, struct counters, 1);` declares.
        """
        if (rows := self._counted()) is None:
            return {}
        return {name: int(rows[name].sum(dtype=np.uint64)) for name in rows.dtype.names or ()}

    def rule_counters(self) -> tuple[RuleCounters, ...]:
        """Return the counters of each rule, in the order of `rules`; Batch.rule_numbers has their indices."""
        rows = self._counted()
        if rows is None or "matched" not in (rows.dtype.names or ()):
            raise ArgumentError(f"the program {self.name} counts no rules. Next step: see progs/xsk_redirect.c.")
        names = [str(rule) for rule in self.rules] or [f"rule {i}" for i in range(len(rows) - 1)]
        if len(names) != len(rows) - 1:
            raise ArgumentError(
                f"the program {self.name} has {len(rows) - 1} rules, and {len(names)} were named: {'; '.join(names)}. "
                "Next step: give from_bcc() the rules that source_text() was given."
            )
        totals = {name: rows[name].sum(axis=1, dtype=np.uint64).tolist() for name in rows.dtype.names or ()}
        fields = ("matched", *RuleCounters._fields[2:])
        return tuple(RuleCounters(rule, *(totals[one][i] for one in fields)) for i, rule in enumerate(names))

    def _counted(self) -> npt.NDArray[Any] | None:
        """The map `counters`: shape (entries, CPUs), of its struct; None where there is none."""
        _ = self.fd  # raises once it is closed
        table = self._maps.get("counters")
        names = table.dtype.names if table is not None and table.type == abi.BPF_MAP_TYPE_PERCPU_ARRAY else None
        if table is None or names is None:
            return None
        return np.stack([table.per_cpu(i) for i in range(table.max_entries)])

    def test_run(self, packet: bytes, repeat: int = 1) -> tuple[int, bytes]:
        """Run the program on bytes, without an interface; return (XDP action, packet afterwards)."""
        return run.run_once(self.fd, packet, repeat)

    def test_run_many(self, packets: Sequence[bytes]) -> npt.NDArray[np.uint32]:
        """Run the program on each packet; return the XDP actions: shape (len(packets),), uint32."""
        return run.run_many(self.fd, packets)

    def close(self) -> None:
        """Detach the program from its interfaces and sockets, and release everything. Repeatable."""
        for link in self._links:
            link.close()
        self._links = []
        if not self.closed:
            for queue in list(self._registered):
                with contextlib.suppress(ToolkitError, OSError):
                    self.unregister(queue)
        self._registered = {}
        for one in self._maps.values():
            one.close()
        self._descriptor.close()

    def __enter__(self) -> Program:
        """Close at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return f"<Program {self.name}: closed>"
        where = ", ".join(f"{link.interface} ({link.state})" for link in self.links) or "not attached"
        return f"<Program {self.name}: id {self.id}, {where}>"


def _socket_closes(program: weakref.ref[Program], queue: int, token: object) -> None:
    """Remove the entry of a socket that is about to close, unless another socket has the queue now."""
    alive = program()
    if alive is not None and not alive.closed and alive._registered.get(queue) is token:
        alive.unregister(queue)
