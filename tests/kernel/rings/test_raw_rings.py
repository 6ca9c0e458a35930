# SPDX-License-Identifier: Apache-2.0
"""An AF_XDP socket made by hand, without libxdp: the four rings on its own mmap offsets, against the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.wire import Wire, eventually, frame, number_of
from toolkit.abi.if_xdp import (
    AF_XDP,
    SOL_XDP,
    XDP_COPY,
    XDP_MMAP_OFFSETS,
    XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING,
    XDP_RX_RING,
    XDP_TX_RING,
    XDP_UMEM_COMPLETION_RING,
    XDP_UMEM_FILL_RING,
    XDP_UMEM_PGOFF_COMPLETION_RING,
    XDP_UMEM_PGOFF_FILL_RING,
    XDP_UMEM_REG,
    XDP_USE_NEED_WAKEUP,
    XDPDesc,
    parse_mmap_offsets,
)
from toolkit.errors import ClosedError
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.rings import RingMemory
from toolkit.umem.descriptor_check import rx_limits, tx_limits
from toolkit.umem.receiving import OwnedFill, OwnedRX, ReceiveAccount
from toolkit.umem.sending import OwnedCompletion, OwnedTX, SendAccount
from toolkit.umem.umem import UMEM

SIZE = 16  # entries of each ring: small, so that a hundred packets go around several times


class OwnSocket:
    """AF_XDP by system calls alone."""

    def __init__(self, lab: Lab, *, atomic: bool) -> None:
        self.umem = UMEM(64, 2048)
        with lab.netns.entered():
            self.sock = socket.socket(AF_XDP, socket.SOCK_RAW)
            index = socket.if_nametoindex(lab.interface)
        registration = struct.pack("=QQIIII", self.umem.address, self.umem.size, 2048, 0, 0, 0)
        self.sock.setsockopt(SOL_XDP, XDP_UMEM_REG, registration)
        for option in (XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING):
            self.sock.setsockopt(SOL_XDP, option, SIZE)
        offsets = parse_mmap_offsets(self.sock.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, 128))
        fd, ring = self.sock.fileno(), RingMemory.from_offsets
        self.memories = [
            ring(fd, XDP_PGOFF_RX_RING, offsets.rx, SIZE, 16, atomic=atomic),
            ring(fd, XDP_PGOFF_TX_RING, offsets.tx, SIZE, 16, atomic=atomic),
            ring(fd, XDP_UMEM_PGOFF_FILL_RING, offsets.fr, SIZE, 8, atomic=atomic),
            ring(fd, XDP_UMEM_PGOFF_COMPLETION_RING, offsets.cr, SIZE, 8, atomic=atomic),
        ]
        rx, tx, fill, completion = self.memories
        receive, send = ReceiveAccount(self.umem.ledger, 1), SendAccount(self.umem.ledger, 1)
        self.fill = OwnedFill(fill, receive, self.poke)
        self.rx = OwnedRX(rx, receive, self.fill.order, rx_limits(2048, False))
        self.tx, self.completion = (
            OwnedTX(tx, send, tx_limits(2048, False, 0), self.kick),
            OwnedCompletion(completion, send),
        )
        self.kicks = 0
        self.fill.fill_all(self.umem)
        self._bind(index)

    def _bind(self, index: int) -> None:
        """Python's own bind() knows no struct sockaddr_xdp."""
        address = struct.pack("=HHIII", AF_XDP, XDP_COPY | XDP_USE_NEED_WAKEUP, index, 0, 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.bind(self.sock.fileno(), address, len(address)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def poke(self) -> bool:
        with_nothing = (errno.EAGAIN, errno.EBUSY)
        try:
            self.sock.recv(1, socket.MSG_DONTWAIT)
        except OSError as refused:
            if refused.errno not in with_nothing:
                raise
        return True

    def kick(self) -> bool:
        self.kicks += 1
        try:
            self.sock.send(b"", socket.MSG_DONTWAIT)
        except OSError as refused:
            if refused.errno not in (errno.EAGAIN, errno.EBUSY, errno.ENOBUFS):
                raise
            return False
        return True

    def close(self) -> None:
        for memory in self.memories:
            memory.close()
        self.sock.close()
        self.rx._account.close()
        self.tx._account.close(retire=False)


@pytest.fixture(params=[False, True], ids=["plain", "atomic"])
def own(lab: Lab, request: pytest.FixtureRequest) -> Iterator[OwnSocket]:
    made = OwnSocket(lab, atomic=request.param)
    yield made
    made.close()


def wait(sock: socket.socket) -> None:
    assert select.select([sock], [], [], 5)[0], "no packet within 5 s"


@pytest.fixture
def redirecting(own: OwnSocket, lab: Lab, program: Program) -> Iterator[Program]:
    program.register(own.sock.fileno(), queue=0)
    with program.attach(lab.interface, netns=lab.netns):
        yield program


def one_by_one(own: OwnSocket, got: list[bytes]) -> None:
    n, index = own.rx.peek(5)
    for i in range(n):
        desc = own.rx.get((index + i) & 0xFFFFFFFF)
        got.append(bytes(own.umem.get(desc)))
        own.umem.free_frame(desc.addr)
    own.rx.release(n)


def in_batches(own: OwnSocket, got: list[bytes]) -> None:
    descs = own.rx.receive()
    got += [bytes(own.umem.get(XDPDesc(int(addr), int(length)))) for addr, length, _ in descs]
    own.umem.recycle(descs["addr"])


def put_back(own: OwnSocket, got: list[bytes]) -> None:
    """Every packet is peeked twice: cancelled the first time."""
    n, _ = own.rx.peek()
    own.rx.cancel(n)
    own.rx.get_batch(own.rx.next_index, n)
    one_by_one(own, got)


@pytest.mark.parametrize("read", [one_by_one, in_batches, put_back])
def test_packets_arrive_in_order_and_whole(
    own: OwnSocket, redirecting: Program, wire: Wire, read: Callable[[OwnSocket, list[bytes]], None]
) -> None:
    sent = [frame(i, 60 + i * 13 % 1400) for i in range(100)]
    got: list[bytes] = []
    for at in range(0, 100, SIZE // 2):
        part = sent[at : at + SIZE // 2]
        wire.send(part)
        while len(got) < at + len(part):
            wait(own.sock)
            read(own, got)
            own.fill.fill_all(own.umem)
    assert got == sent
    assert redirecting.counters()["redirected"] == 100
    audit = own.umem.audit()
    assert (audit["rx"], audit["free"]) == (SIZE, 64 - SIZE)


def test_a_frame_is_the_kernel_s_until_its_packet_was_read(own: OwnSocket, redirecting: Program, wire: Wire) -> None:
    wire.send([frame(7)])
    wait(own.sock)
    assert own.umem.audit()["rx"] == SIZE
    n, index = own.rx.peek()
    assert (n, own.umem.audit()["received"]) == (1, 1)
    assert number_of(own.umem.get(own.rx.get(index))) == 7
    own.umem.free_frame(own.rx.get(index).addr)
    own.rx.release(1)


def test_without_frames_packets_are_dropped_and_counted(own: OwnSocket, redirecting: Program, wire: Wire) -> None:
    """The kernel believes our fill ring: it holds SIZE frames, and of more packets it drops the rest."""
    wire.send([frame(i) for i in range(SIZE + 9)])
    assert eventually(lambda: redirecting.counters()["redirected"] == SIZE + 9)
    assert len(own.rx.receive()) == SIZE
    dropped = struct.unpack_from("=Q", own.sock.getsockopt(SOL_XDP, 7, 48))[0]
    assert dropped == 9
    own.umem.free_frames(np.flatnonzero(own.umem.ledger.owner & 7 == 3).astype(np.uint64) * np.uint64(2048))


@pytest.mark.parametrize("batch", [False, True])
def test_frames_are_sent_and_come_back(own: OwnSocket, wire: Wire, batch: bool) -> None:
    sent = [frame(i, 60 + i * 29 % 1400) for i in range(100)]
    todo = list(sent)
    while todo:
        n = min(len(todo), 5)
        addresses = own.umem.alloc_frames(n)
        descs = np.zeros((n, 2), dtype=np.uint64)
        for i, address in enumerate(addresses.tolist()):
            own.umem.get(XDPDesc(address, len(todo[i])))[:] = todo[i]
            descs[i] = address, len(todo[i])
        if batch:
            assert own.tx.put(descs) == n
        else:
            reserved, index = own.tx.reserve(n)
            assert reserved == n
            for i in range(n):
                own.tx.set((index + i) & 0xFFFFFFFF, XDPDesc(int(descs[i, 0]), int(descs[i, 1])))
        if own.tx.unpublished:
            own.tx.notify()
        elif own.tx.needs_wakeup:
            own.tx.wake()
        del todo[:n]
        assert eventually(lambda n=n: own.completion.available(n) == n), "the kernel returned what it sent"
        assert own.umem.audit()["tx"] == n
        assert own.completion.free_all(own.umem) == n
        assert own.umem.audit()["tx"] == 0
    assert own.kicks >= 20, "in copy mode the kernel sends only when it is asked to"
    assert wire.receive(100) == sent
    assert own.tx.outstanding == 0


def mapped_sockets() -> int:
    return Path("/proc/self/maps").read_text().count("socket:[")


def test_after_close_the_memory_is_unmapped(own: OwnSocket) -> None:
    before = mapped_sockets()
    own.close()
    assert mapped_sockets() == before - 4
    for call in (own.rx.peek, own.completion.peek, own.tx.notify, lambda: own.fill.fill_all(own.umem)):
        with pytest.raises(ClosedError):
            call()
