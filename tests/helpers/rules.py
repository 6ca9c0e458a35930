# SPDX-License-Identifier: Apache-2.0
"""An Interface whose program has rules, through either door and in either mode, and what the kernel gets beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import Wire, eventually
from toolkit.lab import Lab
from toolkit.program import Program, directory, import_bcc, source_text

ways = pytest.mark.parametrize(
    ("door", "mode"),
    [("build", "native"), ("build", "generic"), ("from_bcc", "native"), ("from_bcc", "generic")],
)
SHARES = ("no_socket", "dropped", "counted", "passed", "sampled_out", "redirected")


@contextlib.contextmanager
def opened(lab: Lab, door: str, mode: Any, *, queues: Any = "all", **rules: Any) -> Iterator[toolkit.Interface]:
    """toolkit.open() with `rules` (filter=, on_match=, rules=, ...); "from_bcc": by a BPF object of this process."""
    if door == "build":
        with toolkit.open(lab.interface, mode=mode, queues=queues, netns=lab.netns, **rules) as interface:
            yield interface
        return
    text = source_text(**rules).encode()
    bpf = import_bcc().BPF(text=text, cflags=[f"-I{directory()}"])
    try:
        with (
            Program.from_bcc(bpf, "xsk_redirect", rules=rules.get("rules", ())) as program,
            toolkit.open(lab.interface, mode=mode, queues=queues, netns=lab.netns, program=program) as interface,
        ):
            yield interface
    finally:
        bpf.cleanup()


def seen(interface: toolkit.Interface) -> int:
    """How many packets the program has seen."""
    counters = interface.counters()
    return sum(counters[name] for name in SHARES)


def send(interface: toolkit.Interface, wire: Wire, frames: list[bytes]) -> None:
    """Send frames, and return when the program has seen them all. None other may be under way."""
    before = seen(interface)
    wire.send(frames)
    assert eventually(lambda: seen(interface) >= before + len(frames))
    assert seen(interface) == before + len(frames)


def check_shares(interface: toolkit.Interface) -> None:
    """For each rule: what it took = what became of it, packet by packet."""
    for one in interface.rule_counters():
        assert one.packets == sum(getattr(one, name) for name in SHARES), one
