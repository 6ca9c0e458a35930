# SPDX-License-Identifier: Apache-2.0
"""Programs in the kernel: loaded, refused, read, closed; through both doors."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.helpers import ROOT
from tests.helpers.programs import DOORS, FRAME, XDP_DROP, XDP_PASS
from tests.helpers.wire import eventually
from toolkit.errors import ArgumentError, ClosedError, PrivilegeError, VerifierError
from toolkit.lab import Lab
from toolkit.program import Program, import_bcc, load

COUNTERS = ("redirected", "passed", "no_socket", "untimed", "dropped", "counted", "sampled_out", "matched", "bytes")


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
        assert program.counters() == dict.fromkeys(COUNTERS, 0)
        assert program.test_run(FRAME) == (XDP_PASS, FRAME)
        # Matched without a socket: on to the kernel, with nothing put in front.
        assert program.test_run(udp, repeat=5) == (XDP_PASS, udp)
        counted = {"passed": 1, "no_socket": 5, "matched": 5, "bytes": 5 * len(udp)}
        assert program.counters() == dict.fromkeys(COUNTERS, 0) | counted


@DOORS
def test_drop_and_pass(door: Any) -> None:
    with door("xdp_drop.c", filter="ether[0] = 0") as program:
        assert program.test_run_many([FRAME, b"\1" + FRAME]).tolist() == [XDP_DROP, XDP_PASS]
        assert program.counters() == {"dropped": 1, "passed": 1}
    with door("xdp_pass.c") as program:
        assert program.test_run(FRAME)[0] == XDP_PASS
        assert program.counters() == {}
        with pytest.raises(ArgumentError, match="0 XSKMAPs"):
            program.register(0, queue=0)


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
        program.counters,
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
                calls = (lambda: program.fd, lambda: program.attach("lo"), program.counters)
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
