# SPDX-License-Identifier: Apache-2.0
"""Sockets in a program's XSKMAP: registered, closed, and out of it again."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.helpers.programs import DOORS, FRAME, XDP_PASS, XDP_REDIRECT
from toolkit import UMEM, Socket
from toolkit.abi.xsk_meta import XSK_META, XSK_META_MAGIC, XSK_META_SIZE
from toolkit.errors import ArgumentError
from toolkit.lab import Lab
from toolkit.program import Program, import_bcc, source_text


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
        assert program.counters()["redirected"] == count
        assert program.counters()["untimed"] == program.counters()["no_socket"] == 0


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
