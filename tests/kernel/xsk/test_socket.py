# SPDX-License-Identifier: Apache-2.0
"""Socket: real packets, byte for byte, through both doors; one queue and several, one UMEM and several."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import (
    HEADER,
    Wire,
    assert_all_free,
    collect,
    drain,
    frame,
    number_of,
    numbers,
    piece_by_piece,
    udp_frame,
)
from toolkit.errors import FrameError, NotSupportedError, ToolkitError
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.umem.umem import UMEM

# The shortest that AF_PACKET sends (a header and nothing else), Ethernet's minimum, odd ones, the longest of MTU 1500.
LENGTHS = [14, 15, 59, 60, 61, 64, 65, 127, 128, 256, 1000, 1513, 1514]


def test_design_example(lab: Lab, wire: Wire, program: Program) -> None:
    """The piece-by-piece example of the documentation, with its packets looked at."""
    sent = [frame(i, 60 + i) for i in range(10)]
    received = []
    umem = toolkit.UMEM(frames=4096, frame_size=4096)
    with program, toolkit.Socket("veth0", queue=0, umem=umem, netns=lab.netns) as sock:
        program.attach("veth0", netns=lab.netns)
        program.register(sock)
        sock.fill.fill_all(umem)
        wire.send(sent)
        while len(received) < len(sent):
            assert sock.wait(timeout=5.0)
            n, index = sock.rx.peek()
            for i in range(n):
                desc = sock.rx.get(index + i)
                packet = umem.get(desc)
                received.append(bytes(packet))
                umem.free_frame(desc.addr)
            sock.rx.release(n)
        audit = umem.audit()
        assert (audit["received"], audit["user"], audit["tx"]) == (0, 0, 0)
        assert audit["free"] + audit["rx"] == 4096
    assert received == sent
    assert_all_free(umem)
    umem.close()


@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("frame_size", [2048, 4096])
def test_every_length_arrives_byte_for_byte(lab: Lab, wire: Wire, program: Program, mode: str, frame_size: int) -> None:
    sent = [frame(i, length) for i, length in enumerate(LENGTHS)]
    umem = UMEM(256, frame_size)
    with toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
        sock.fill.fill_all(umem, 64)
        with piece_by_piece(program, lab, sock, mode=mode) as link:
            assert link.mode == mode
            wire.send(sent)
            assert collect(sock.receive, len(sent)) == sent
            assert program.counters()["redirected"] == len(sent)
            assert sock.statistics() == (*(0,) * 6, None), "what the NIC missed is known of an Interface"
    assert_all_free(umem)
    umem.close()


@pytest.mark.parametrize("need_wakeup", [True, False])
def test_a_consumer_that_only_receives_never_stops(lab: Lab, wire: Wire, program: Program, need_wakeup: bool) -> None:
    """Many more packets than ring entries and frames, with small rings: the fill ring is kept filled."""
    umem = UMEM(128, 2048, fill_size=64, comp_size=64)
    with toolkit.Socket("veth0", umem=umem, rx_size=64, tx_size=64, need_wakeup=need_wakeup, netns=lab.netns) as sock:
        assert not sock.receive(timeout=0)
        with piece_by_piece(program, lab, sock):
            got: list[int] = []
            for first in range(0, 3000, 25):  # a loan of 25 out of 64: there is room for the next 25 meanwhile
                wire.send([frame(first + i) for i in range(25)])
                got += [number_of(packet) for packet in collect(sock.receive, 25, timeout=2.0)]
                assert len(got) == first + 25
            assert got == list(range(3000))
            assert sock.statistics().dropped == 0
            assert umem.audit()["received"] <= 64
    assert_all_free(umem)
    umem.close()


def test_a_limit_splits_what_waits(lab: Lab, wire: Wire, program: Program) -> None:
    with toolkit.Socket("veth0", netns=lab.netns) as sock:
        sock.receive(timeout=0)
        with piece_by_piece(program, lab, sock):
            wire.send([frame(i) for i in range(100)])
            got: list[int] = []
            while len(got) < 100:
                batch = sock.receive(timeout=5.0, limit=7)
                assert 0 < len(batch) <= 7
                got += numbers(batch)
            assert got == list(range(100))


def test_a_packet_larger_than_its_frame_is_dropped_and_counted(make_lab: Callable[..., Lab], program: Program) -> None:
    lab = make_lab(mtu=2500)
    with Wire(lab) as wire, UMEM(256, 2048) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
        assert umem.packet_capacity == 1792
        sock.receive(timeout=0)
        with piece_by_piece(program, lab, sock):
            small, exact = frame(1, 100), frame(2, 1792)
            wire.send([small, frame(3, 1793), frame(4, 2500), exact, frame(5, 2000), small])
            assert collect(sock.receive, 3) == [small, exact, small]
            assert not sock.receive(timeout=0.05)
            counters, statistics = program.counters(), sock.statistics()
            assert counters["redirected"] == 3 + statistics.dropped
            assert statistics.rx_dropped == 3


def test_ring_full_and_fill_ring_empty_are_counted_exactly(lab: Lab, wire: Wire, program: Program) -> None:
    """redirected = received + rx_dropped + rx_ring_full, with both kinds of loss provoked on purpose."""
    with (
        UMEM(256, 2048, fill_size=128, comp_size=64) as umem,
        toolkit.Socket("veth0", umem=umem, rx_size=32, tx_size=64, netns=lab.netns) as sock,
        piece_by_piece(program, lab, sock),
    ):
        wire.send([frame(i) for i in range(10)])  # the fill ring is empty: rx_dropped
        _await_redirected(program, 10)
        assert sock.statistics() == (10, 0, 0, 0, 10, sock.statistics().tx_ring_empty_descs, None)
        assert sock.fill.fill_all(umem, 100) == 100
        wire.send([frame(i) for i in range(50)])  # the RX ring holds 32: rx_ring_full
        _await_redirected(program, 60)
        statistics = sock.statistics()
        assert (statistics.rx_dropped, statistics.rx_ring_full) == (10, 18)
        received = drain(sock.receive)
        assert received == 32
        assert program.counters()["redirected"] == received + sock.statistics().dropped == 60
        wire.send([frame(i) for i in range(20)])  # and it goes on
        assert [number_of(packet) for packet in collect(sock.receive, 20)] == list(range(20))


def _await_redirected(program: Program, count: int) -> None:
    from tests.helpers.wire import eventually

    assert eventually(lambda: program.counters()["redirected"] >= count), program.counters()


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_four_queues_each_with_its_packets(
    make_lab: Callable[..., Lab], door: Callable[..., Program], mode: str
) -> None:
    """One UMEM, four sockets: flows spread over the queues, and each socket gets those of its own queue only."""
    lab, program = make_lab(queues=4), door()
    flows = range(64)
    sent = {flow: udp_frame(b"%04d" % flow, source_port=2000 + flow) for flow in flows}
    with UMEM(1024, 2048) as umem:
        sockets = [toolkit.Socket("veth0", q, umem, netns=lab.netns) for q in range(4)]
        with Wire(lab) as wire, piece_by_piece(program, lab, *sockets, mode=mode):
            for sock in sockets:
                sock.rx_limit = 128
                assert not sock.receive(timeout=0)
            for _ in range(3):
                wire.send(list(sent.values()))
            _await_redirected(program, 3 * len(flows))
            queue_of: dict[bytes, int] = {}
            got: list[bytes] = []
            for sock in sockets:
                for packet in collect(sock.receive, 1000, idle=0.1):
                    got.append(packet)
                    assert queue_of.setdefault(packet, sock.queue) == sock.queue, "one flow, two queues"
        assert sorted(got) == sorted(3 * list(sent.values()))
        assert len(set(queue_of.values())) > 1, "the traffic used one queue only: nothing was tested"
        for sock in sockets:
            sock.close()
        assert_all_free(umem)


def test_one_umem_on_two_interfaces_and_a_frame_goes_round(
    make_lab: Callable[..., Lab], door: Callable[..., Program]
) -> None:
    """Received on one interface, sent on the other, without a copy: the descriptor moves, the bytes stay."""
    left, right = make_lab(), make_lab()
    program, other = door(), door()
    with UMEM(256, 2048) as umem, Wire(left) as wire, Wire(right) as far:
        one = toolkit.Socket("veth0", umem=umem, netns=left.netns)
        two = toolkit.Socket("veth0", umem=umem, netns=right.netns)
        one.rx_limit = two.rx_limit = 64
        with piece_by_piece(program, left, one), piece_by_piece(other, right, two):
            one.receive(timeout=0)
            two.receive(timeout=0)
            sent, back = [frame(i, 100 + i) for i in range(20)], [frame(100 + i) for i in range(20)]
            wire.send(sent)
            far.send(back)
            assert collect(two.receive, 20) == back
            forwarded = 0
            while forwarded < 20:
                assert one.wait(5.0)
                descs = one.rx.receive()
                assert two.tx.put(descs) == len(descs)
                two.tx.wake()
                forwarded += len(descs)
            assert far.receive(20) == sent
            assert umem.audit()["tx"] == 20
            assert two.completion.free_all(umem) == 20
        one.close()
        two.close()
        assert_all_free(umem)


@pytest.mark.parametrize("first_to_go", [0, 1])
def test_closing_one_of_two_sockets_leaves_the_other_receiving(
    make_lab: Callable[..., Lab], door: Callable[..., Program], first_to_go: int
) -> None:
    """Also when it is the first, whose descriptor is the UMEM's in libxdp; and its queue can be bound again at once."""
    lab, program = make_lab(queues=2), door()
    flows = [udp_frame(b"%04d" % flow, source_port=3000 + flow) for flow in range(32)]
    with UMEM(512, 2048) as umem, Wire(lab) as wire:
        sockets = [toolkit.Socket("veth0", q, umem, netns=lab.netns) for q in range(2)]
        with piece_by_piece(program, lab, *sockets):
            for sock in sockets:
                sock.rx_limit = 128
                sock.receive(timeout=0)
            wire.send(flows)
            before = [sorted(collect(sock.receive, 100, idle=0.1)) for sock in sockets]
            assert before[0]
            assert before[1]
            gone, stays = sockets[first_to_go], sockets[1 - first_to_go]
            gone.close()
            redirected = program.counters()["redirected"]
            wire.send(flows)
            assert sorted(collect(stays.receive, 100, idle=0.1)) == before[stays.queue]
            assert program.counters()["redirected"] - redirected == len(before[stays.queue])
            assert program.counters()["no_socket"] == len(before[gone.queue]), "the other queue's packets must pass on"
            again = toolkit.Socket("veth0", gone.queue, umem, netns=lab.netns)
            again.rx_limit = 128
            program.register(again)
            again.receive(timeout=0)
            wire.send(flows)
            assert sorted(collect(again.receive, 100, idle=0.1)) == before[again.queue]
            assert sorted(collect(stays.receive, 100, idle=0.1)) == before[stays.queue]
            stays.close()
            again.close()
        assert_all_free(umem)


def test_a_queue_and_a_umem_serve_again_at_once(lab: Lab, wire: Wire, program: Program) -> None:
    with UMEM(256, 2048) as umem:
        for turn in range(8):
            with (
                toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock,
                piece_by_piece(program, lab, sock),
            ):
                sock.receive(timeout=0)
                sent = [frame(turn * 10 + i) for i in range(10)]
                wire.send(sent)
                assert collect(sock.receive, 10) == sent
            assert_all_free(umem)


def test_zero_copy_is_refused_on_veth_and_copy_reported(lab: Lab) -> None:
    with pytest.raises(NotSupportedError, match=r"zero-copy.*zero_copy="):
        toolkit.Socket("veth0", zero_copy=True, netns=lab.netns)
    for zero_copy in (False, "auto"):
        with toolkit.Socket("veth0", zero_copy=zero_copy, netns=lab.netns) as sock:
            assert sock.zero_copy is False
            assert "copy mode" in repr(sock)


@pytest.mark.parametrize("poller", ["select", "poll", "epoll"])
def test_fileno_serves_select_poll_and_epoll(lab: Lab, wire: Wire, program: Program, poller: str) -> None:
    with toolkit.Socket("veth0", tx=False, netns=lab.netns) as sock:
        sock.receive(timeout=0)

        def readable(seconds: float) -> bool:
            if poller == "select":
                return bool(select.select([sock], [], [], seconds)[0])
            if poller == "poll":
                waiting = select.poll()
                waiting.register(sock, select.POLLIN)
                return bool(waiting.poll(seconds * 1000))
            with select.epoll() as waiting_epoll:
                waiting_epoll.register(sock, select.EPOLLIN)
                return bool(waiting_epoll.poll(seconds))

        with piece_by_piece(program, lab, sock):
            assert not readable(0.02)
            wire.send([frame(7)])
            assert readable(5.0)
            assert numbers(sock.receive(timeout=0)) == [7]
            assert not readable(0.02)


def test_a_socket_without_tx_receives_and_says_what_it_lacks(lab: Lab, wire: Wire, program: Program) -> None:
    with toolkit.Socket("veth0", tx=False, netns=lab.netns) as sock, piece_by_piece(program, lab, sock):
        sock.receive(timeout=0)
        wire.send([frame(1)])
        assert numbers(sock.receive(timeout=5.0)) == [1]
        with pytest.raises(ToolkitError, match=r"has no TX ring.*tx=True"):
            _ = sock.tx


def test_a_socket_without_rx_sends_and_says_what_it_lacks(lab: Lab, wire: Wire) -> None:
    with toolkit.Socket("veth0", rx=False, netns=lab.netns) as sock:
        _send(sock, [frame(1)])
        assert wire.receive(1) == [frame(1)]
        with pytest.raises(ToolkitError, match=r"has no RX ring.*rx=True"):
            sock.receive(timeout=0)
        assert sock.completion.free_all(sock.umem) == 1


def _send(sock: toolkit.Socket, packets: list[bytes]) -> None:
    """One by one: reserve, write the frame, set the descriptor; then one kick for all."""
    for packet in packets:
        n, index = sock.tx.reserve(1, sock.umem)
        assert n == 1
        desc = toolkit.XDPDesc(sock.umem.alloc_frame(), len(packet))
        sock.umem.get(desc)[:] = packet
        sock.tx.set(index, desc)
    sock.tx.notify()


@pytest.mark.parametrize("need_wakeup", [True, False])
def test_sent_packets_are_seen_byte_for_byte_on_the_peer(lab: Lab, wire: Wire, need_wakeup: bool) -> None:
    """Many times around the TX and completion rings; then no frame is missing."""
    umem = UMEM(64, 2048, comp_size=32)
    with toolkit.Socket("veth0", umem=umem, tx_size=32, need_wakeup=need_wakeup, netns=lab.netns) as sock:
        done = 0
        for turn in range(20):
            sent = [frame(turn * 16 + i, LENGTHS[i % len(LENGTHS)]) for i in range(16)]
            _send(sock, sent)
            while sock.tx.outstanding:
                sock.tx.wake()
            assert wire.receive(16) == sent
            done += sock.completion.free_all(umem)
            assert done == (turn + 1) * 16
            assert umem.audit()["tx"] == 0
        assert done == 320
        assert sock.statistics().tx_invalid_descs == 0
        assert_all_free(umem)
    umem.close()


def test_close_collects_what_was_being_sent(lab: Lab, wire: Wire) -> None:
    """Frames in the TX and completion rings at close() are not lost to the UMEM."""
    with UMEM(64, 2048) as umem:
        with toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
            _send(sock, [frame(i) for i in range(40)])
        assert_all_free(umem)
        assert len(wire.receive(40)) == 40


def test_a_transmitted_descriptor_that_the_kernel_refuses_is_counted(lab: Lab, wire: Wire, conservation: Any) -> None:
    """A length past the frame's end: refused and counted. Older kernels never return its frame: it is retired then."""
    conservation.may_retire = 1
    with UMEM(64, 2048) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
        index, desc = sock.tx.next_index, toolkit.XDPDesc(umem.alloc_frame(), 5000)
        with pytest.raises(FrameError, match="not within one frame"):
            sock.tx.put_one(desc)
        assert sock.tx.put_one(desc._replace(len=60))
        sock.tx.set(index, desc)  # over what was looked at, and before it is published
        sock.tx.wake()
        _send(sock, [HEADER + b"fine"])
        assert wire.receive(1) == [HEADER + b"fine"]
        assert sock.statistics().tx_invalid_descs == 1
