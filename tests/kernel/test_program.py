# SPDX-License-Identifier: Apache-2.0
"""Programs in the kernel: loaded, refused, read, run on bytes, registered, closed; through both doors."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import eventually

from toolkit import UMEM, Socket
from toolkit.abi.xsk_meta import XSK_META, XSK_META_MAGIC, XSK_META_SIZE
from toolkit.errors import ArgumentError, ClosedError, LibraryError, PrivilegeError, VerifierError
from toolkit.lab import Lab
from toolkit.program import Program, import_bcc, load, source_text
from toolkit.program import bcc as bcc_door

XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4
ROOT = Path(__file__).resolve().parents[2]
FRAME = bytes(range(14)) + bytes(50)
COUNTERS = ("redirected", "passed", "no_socket", "untimed", "dropped", "counted", "sampled_out", "matched", "bytes")


def by_build(source: str, **options: Any) -> Program:
    """The first door: BCC compiles in a process of its own."""
    return Program.build(source, **options)


def by_bcc(source: str, **options: Any) -> Program:
    """The other door: BCC compiles and loads in this process."""
    from toolkit.program import directory

    bcc = import_bcc()
    bpf = bcc.BPF(text=source_text(source, **options).encode(), cflags=[f"-I{directory()}"])
    name = source.removesuffix(".c")
    bpf.load_func(name.encode(), bcc.BPF.XDP)
    program = Program.from_bcc(bpf, name)
    bpf.cleanup()
    return program


DOORS = pytest.mark.parametrize("door", [by_build, by_bcc])


@DOORS
def test_a_program_describes_itself(door: Any) -> None:
    with door("xsk_redirect.c") as program:
        assert program.name == "xsk_redirect"
        assert program.id > 0
        assert set(program.maps) == {"xsks_map", "counters"}
        table = program.maps["xsks_map"]
        assert (table.type, table.key_size, table.value_size, table.max_entries) == (17, 4, 4, 256)
        assert program.maps["counters"].dtype.names == COUNTERS
        assert program.maps["counters"].max_entries == 2, "one for the filter, one for what it does not match"
        assert repr(program) == f"<Program xsk_redirect: id {program.id}, not attached>"
    assert "closed" in repr(program)


@DOORS
def test_counters_tell_what_was_matched(door: Any) -> None:
    udp = (
        bytes(12) + bytes.fromhex("0800 45000032 00000000 4011 0000 0a000001 0a000002 0035 0035 001e 0000") + bytes(22)
    )
    with door("xsk_redirect.c", filter="udp port 53") as program:
        assert program.counters == dict.fromkeys(COUNTERS, 0)
        assert program.test_run(FRAME) == (XDP_PASS, FRAME)
        # Matched without a socket: on to the kernel, with nothing put in front.
        assert program.test_run(udp, repeat=5) == (XDP_PASS, udp)
        counted = {"passed": 1, "no_socket": 5, "matched": 5, "bytes": 5 * len(udp)}
        assert program.counters == dict.fromkeys(COUNTERS, 0) | counted


@DOORS
def test_drop_and_pass(door: Any) -> None:
    with door("xdp_drop.c", filter="ether[0] = 0") as program:
        assert program.test_run_many([FRAME, b"\1" + FRAME]).tolist() == [XDP_DROP, XDP_PASS]
        assert program.counters == {"dropped": 1, "passed": 1}
    with door("xdp_pass.c") as program:
        assert program.test_run(FRAME)[0] == XDP_PASS
        with pytest.raises(ArgumentError, match="no counters"):
            _ = program.counters
        with pytest.raises(ArgumentError, match="0 XSKMAPs"):
            program.register(0, queue=0)


@DOORS
def test_packets_reach_a_socket_with_their_arrival_time(door: Any, lab: Lab) -> None:
    count = 20
    with (
        UMEM(frames=256) as umem,
        door("xsk_redirect.c", filter="udp port 9") as program,
        Socket(lab.interface, 0, umem, netns=lab.netns, prefill=64) as sock,
    ):
        link = program.attach(lab.interface, netns=lab.netns)
        assert link.mode == "native"
        program.register(sock)
        before = time.monotonic_ns()
        with lab.far.entered():
            import socket

            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for i in range(count):
            sender.sendto(bytes([i]) * 40, (lab.ip, 9))
        sender.close()
        seen = []
        while len(seen) < count and sock.wait(timeout=5):
            n, index = sock.rx.peek()
            for i in range(n):
                desc = sock.rx.get(index + i)
                packet = umem.get(desc)
                meta = umem.memory[desc.addr - XSK_META_SIZE : desc.addr].view(XSK_META)[0]
                assert meta["magic"] == XSK_META_MAGIC
                assert meta["queue"] == 0
                assert before <= meta["time"] <= time.monotonic_ns()
                seen.append(bytes(packet)[-1])
                del packet, meta
                umem.free_frame(desc.addr)
            sock.rx.release(n)
        assert seen == list(range(count))
        assert program.counters["redirected"] == count
        assert program.counters["untimed"] == program.counters["no_socket"] == 0


@DOORS
def test_a_socket_that_closes_leaves_no_queue_without_end(door: Any, lab: Lab) -> None:
    with UMEM(frames=256) as umem, door("xsk_redirect.c") as program:
        first = Socket(lab.interface, 0, umem, netns=lab.netns, prefill=64)
        program.register(first)
        assert program.test_run(FRAME)[0] == XDP_REDIRECT
        program.unregister(0)
        program.unregister(0)
        assert program.test_run(FRAME)[0] == XDP_PASS
        program.register(first)
        first.close()
        assert program.test_run(FRAME)[0] == XDP_PASS


def test_a_socket_by_descriptor(lab: Lab) -> None:
    with (
        UMEM(frames=256) as umem,
        Program.build() as program,
        Socket(lab.interface, 0, umem, netns=lab.netns) as sock,
    ):
        program.register(sock.fileno(), queue=0)
        assert program.test_run(FRAME)[0] == XDP_REDIRECT
        with pytest.raises(ArgumentError, match="queue="):
            program.register(sock.fileno())
        program.unregister(0)
        assert program.test_run(FRAME)[0] == XDP_PASS


class Closing:
    """A socket that says when it is about to close, while its descriptor, and so the kernel's entry, lives on."""

    def __init__(self, sock: Socket) -> None:
        self.queue, self.fileno = 0, sock.fileno
        self.callbacks: list[Any] = []
        self.on_close = self.callbacks.append


def test_a_socket_that_is_about_to_close_is_unregistered_once(lab: Lab) -> None:
    with (
        UMEM(frames=256) as umem,
        Program.build() as program,
        Socket(lab.interface, 0, umem, netns=lab.netns) as sock,
    ):
        first, second = Closing(sock), Closing(sock)
        program.register(first)
        first.callbacks[0]()
        assert program.test_run(FRAME)[0] == XDP_PASS
        program.register(first)
        program.register(second)  # another one has the queue now
        first.callbacks[0]()
        first.callbacks[1]()
        assert program.test_run(FRAME)[0] == XDP_REDIRECT
        second.callbacks[0]()
        assert program.test_run(FRAME)[0] == XDP_PASS
        program.register(second)
        program.close()
        second.callbacks[1]()  # nothing to do any more, and no error


def test_a_queue_that_the_map_has_no_room_for() -> None:
    with Program.build(map_entries={"xsks_map": 4}) as program:
        assert program.maps["xsks_map"].max_entries == 4
        with pytest.raises(ArgumentError, match=r"queue 4.*map_entries=\{\"xsks_map\": 5\}"):
            program.register(0, queue=4)
    with pytest.raises(ArgumentError, match="no map sockets"):
        Program.build(map_entries={"sockets": 4})
    with pytest.raises(ArgumentError, match="cannot have 0"):
        Program.build(map_entries={"xsks_map": 0})


def test_the_program_s_end_unregisters_even_if_bcc_keeps_its_map(lab: Lab) -> None:
    from toolkit.program import directory

    bcc = import_bcc()
    bpf = bcc.BPF(text=source_text("xsk_redirect.c").encode(), cflags=[f"-I{directory()}"])
    try:
        other = Program.from_bcc(bpf, "xsk_redirect")
        with UMEM(frames=256) as umem, Socket(lab.interface, 0, umem, netns=lab.netns) as sock:
            with Program.from_bcc(bpf, bpf.load_func(b"xsk_redirect", bcc.BPF.XDP)) as program:
                program.register(sock)
                assert other.test_run(FRAME)[0] == XDP_REDIRECT
            assert other.test_run(FRAME)[0] == XDP_PASS
        other.close()
    finally:
        bpf.cleanup()


def test_from_bcc_wants_an_open_bpf_object_and_a_function_that_is_there() -> None:
    with pytest.raises(ArgumentError, match=r"not an open bcc\.BPF"):
        Program.from_bcc(object(), "x")
    bcc = import_bcc()
    bpf = bcc.BPF(text=b"int one(struct xdp_md *ctx) { return 1; }\nint two(struct xdp_md *ctx) { return 2; }\n")
    with pytest.raises(ArgumentError, match="'three'"):
        Program.from_bcc(bpf, "three")
    with pytest.raises(ArgumentError, match="one, two"):
        Program.from_bcc(bpf)
    with Program.from_bcc(bpf, "two") as two:
        assert two.test_run(FRAME)[0] == 2
    bpf.cleanup()
    with pytest.raises(ArgumentError, match=r"not an open bcc\.BPF"):
        Program.from_bcc(bpf, "one")


def test_import_bcc_passes_by_the_package_of_pypi(tmp_path: Path) -> None:
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("__version__ = '1.0'\n")
    script = "import bcc; assert not hasattr(bcc, 'BPF')\nfrom toolkit.program import import_bcc\nimport_bcc().BPF\n"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


def test_import_bcc_without_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc_door, "PLACES", ())
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(LibraryError, match="python3-bpfcc"):
        import_bcc()


WILD = """
int wild(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(unsigned long)ctx->data;

	return data[1000];
}
"""


def test_the_verifier_s_log_is_in_the_error() -> None:
    with pytest.raises(VerifierError, match=r"wild.*invalid access to packet") as refused:
        Program.build(WILD)
    assert "invalid access to packet" in refused.value.log
    assert refused.value.log.count("\n") > 3
    assert refused.value.errno > 0
    bpf = import_bcc().BPF(text=WILD.encode())
    with pytest.raises(VerifierError) as again:
        Program.from_bcc(bpf, "wild")
    assert "invalid access to packet" in again.value.log
    bpf.cleanup()


def test_a_refused_program_leaves_no_map_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VerifierError):
        Program.build(
            "BPF_ARRAY(table, u64, 4);\n" + WILD.replace("data[1000]", "data[1000] + (long)table.lookup(&(int){0})")
        )
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_interrupt_while_a_program_is_loaded_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    Program.build().close()  # what stays open from the first use on
    before = len(os.listdir("/proc/self/fd"))

    def interrupted(*arguments: Any, **options: Any) -> int:
        fd = load_program(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        return fd

    load_program = load.load_program
    monkeypatch.setattr(load, "load_program", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Program.build()
    assert eventually(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_frags_reach_the_kernel() -> None:
    """A veth with jumbo frames runs natively only programs that said they can take packets of several buffers."""
    with Lab(mtu=9000) as lab:
        for frags, mode in ((True, "native"), (False, "generic")):
            with Program.build(frags=frags) as program:
                link = program.attach(lab.interface, netns=lab.netns)
                assert link.mode == mode
                assert (link.fallback_reason is None) == frags


def test_a_packet_that_is_no_frame() -> None:
    with Program.build("xdp_pass.c") as program:
        with pytest.raises(ArgumentError, match="14 B"):
            program.test_run(bytes(13))
        with pytest.raises(ArgumentError, match="14 B"):
            program.test_run_many([FRAME, b""])


@DOORS
def test_after_close_everything_says_so(door: Any) -> None:
    program = door("xsk_redirect.c")
    table = program.maps["xsks_map"]
    program.close()
    program.close()
    for call in (
        lambda: program.fd,
        lambda: program.attach("lo"),
        lambda: program.register(0, queue=0),
        lambda: program.unregister(0),
        lambda: program.counters,
        lambda: program.test_run(FRAME),
        lambda: table.read(0),
        lambda: table.fd,
    ):
        with pytest.raises(ClosedError):
            call()


@DOORS
def test_forgotten_programs_give_everything_back(door: Any, lab: Lab) -> None:
    import_bcc()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    program = door("xsk_redirect.c")
    program.attach(lab.interface, netns=lab.netns)
    del program
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
    with Program.build("xdp_pass.c") as other:
        other.attach(lab.interface, netns=lab.netns)  # nothing is left attached


def test_maps_can_be_read_and_written() -> None:
    text = """
    struct pair { u32 low; u16 high; };
    BPF_ARRAY(plain, u32, 4);
    BPF_PERCPU_ARRAY(each, struct pair, 2);
    BPF_HASH(named, u64, u64, 8);
    int any(struct xdp_md *ctx) { return XDP_PASS; }
    """
    with Program.build(text) as program:
        plain, each, named = (program.maps[name] for name in ("plain", "each", "named"))
        plain.update(1, 7)
        assert plain.read(1) == (7).to_bytes(4, sys.byteorder)
        with pytest.raises(OSError, match="entry 9 of the map plain"):
            plain.update(9, 7)
        assert each.dtype.names == ("low", "high")
        values = each.per_cpu(1)
        assert values.dtype.names == ("low", "high")
        assert values.shape == (len(os.sched_getaffinity(0)),) or values.size >= 1
        assert not values["low"].any()
        assert named.read(5) is None
        named.update(5, 6)
        assert named.read(5) == (6).to_bytes(8, sys.byteorder)
        assert named.delete(5)
        assert not named.delete(5)
        for wrong in (lambda: plain.update(1, b"123"), lambda: plain.read(b"1"), lambda: plain.read(1 << 40)):
            with pytest.raises(ArgumentError):
                wrong()
        with pytest.raises(ArgumentError, match="per-CPU"):
            plain.per_cpu()


def test_without_privilege_the_capabilities_are_named() -> None:
    """A process of root's without capabilities, which still may read this tree."""
    script = (
        "from toolkit.program import Program\n"
        "from toolkit.errors import PrivilegeError\n"
        "import sys\n"
        "for cache in (False, True):\n"
        "    try:\n"
        "        Program.build(cache=cache)\n"
        "    except PrivilegeError as refused:\n"
        "        print(refused)\n"
    )
    with Program.build():
        pass  # so that the second attempt finds it in the cache
    shown = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.splitlines()
    assert len(shown) == 2
    assert all("CAP_BPF" in line and "EPERM" in line for line in shown)
    assert PrivilegeError  # the class that the script catches


def test_in_a_forked_child_the_program_is_dead_and_the_parent_s_lives(lab: Lab) -> None:
    with Program.build() as program:
        program.attach(lab.interface, netns=lab.netns)
        fds = {program.fd, program.links[0].fd, *(one.fd for one in program.maps.values())}
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            verdict = b"?"
            try:
                open_fds = {int(name) for name in os.listdir("/proc/self/fd")}
                calls = (lambda: program.fd, lambda: program.attach("lo"), lambda: program.counters)
                dead = 0
                for call in calls:
                    try:
                        call()
                    except ClosedError as error:
                        dead += "forked child" in str(error)
                program.close()
                verdict = b"dead" if dead == len(calls) and not fds & open_fds else b"alive"
            finally:
                os.write(writer, verdict)
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 16) == b"dead"
        os.close(reader)
        os.waitpid(pid, 0)
        assert program.links[0].mode == "native"
        with lab.netns.entered():
            import socket

            from toolkit.program import attached

            present = attached(socket.if_nametoindex(lab.interface))
        assert present is not None
        assert present.program.id == program.id
        assert program.test_run(FRAME)[0] == XDP_PASS
