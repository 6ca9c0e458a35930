# SPDX-License-Identifier: Apache-2.0
"""sock_diag for AF_XDP: the request byte by byte, and an answer as net/xdp/xsk_diag.c writes it.

Written by hand from linux/xdp_diag.h, so that neither the request nor the answer comes out of what is tested.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from toolkit.abi.if_xdp import XDPStatistics
from toolkit.net import netlink, sock_diag
from toolkit.net.netlink import ask

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the recorded bytes are little-endian")


def words(text: str) -> bytes:
    return bytes.fromhex("".join(line.split("#")[0] for line in text.splitlines()))


REQUEST = words("""
    24000000 1400 0103 01000000 00000000  # nlmsghdr: 36 bytes, SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, sequence 1
    2c 00 0000                            # AF_XDP, protocol 0, pad
    00000000                              # any inode
    15000000                              # XDP_SHOW_INFO | XDP_SHOW_UMEM | XDP_SHOW_STATS
    00000000 00000000                     # cookie
""")

HEADER = "1400 0200 01000000 39300000"  # type, NLM_F_MULTI, sequence, port

ZERO_COPY = words(f"""
    a4000000 {HEADER}                     # 164 bytes
    2c 03 0000 41420f00 0100000000000000  # AF_XDP, SOCK_RAW, inode 1000001, cookie
    0c00 0100 07000000 03000000           # XDP_DIAG_INFO: ifindex 7, queue 3
    0800 0200 e8030000                    # XDP_DIAG_UID
    2c00 0500 0000000100000000            # XDP_DIAG_UMEM: 16 MB,
    01000000 00100000 00100000 00000000   # id 1, 4096 pages, chunks of 4096, no headroom,
    07000000 03000000 01000000 02000000   # ifindex 7, queue 3, XDP_DU_F_ZEROCOPY, 2 users
    0800 0600 00080000                    # XDP_DIAG_UMEM_FILL_RING
    0800 0700 00080000                    # XDP_DIAG_UMEM_COMPLETION_RING
    3400 0900                             # XDP_DIAG_STATS, in the order of struct xdp_diag_stats
    0100000000000000 0200000000000000 0300000000000000 0400000000000000 0500000000000000 0600000000000000
""")

COPY_MODE_WITHOUT_COUNTERS = words(f"""
    58000000 {HEADER}
    2c 03 0000 51430f00 0200000000000000  # inode 1000273
    0c00 0100 02000000 00000000           # ifindex 2, queue 0
    2c00 0500 0000000100000000
    02000000 00100000 00100000 00000000
    02000000 00000000 00000000 01000000   # no flags
""")

UNBOUND = words(f"""
    2c000000 {HEADER}
    2c 03 0000 01000000 0300000000000000  # inode 1
    0c00 0100 00000000 00000000           # no device
""")

DONE = words("14000000 0300 0200 01000000 39300000 00000000")


class Recorded:
    """A netlink socket that answers from a recording, a datagram at a time."""

    def __init__(self, *datagrams: bytes) -> None:
        self.datagrams = list(datagrams)
        self.sent = b""

    def send(self, data: bytes) -> None:
        self.sent += data

    def recv(self, size: int) -> bytes:
        return self.datagrams.pop(0)

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def answered(
    monkeypatch: pytest.MonkeyPatch, *datagrams: bytes
) -> tuple[Recorded, dict[int, sock_diag.BoundSocket] | None]:
    asker = Recorded(*datagrams)
    monkeypatch.setattr(sock_diag, "opened", lambda family: asker)
    return asker, sock_diag.af_xdp_sockets()


def test_the_request_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    asker, found = answered(monkeypatch, DONE)
    assert asker.sent == REQUEST
    assert found == {}


def test_a_recorded_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    _, found = answered(monkeypatch, ZERO_COPY + COPY_MODE_WITHOUT_COUNTERS, UNBOUND, DONE)
    assert found == {
        1_000_001: sock_diag.BoundSocket(
            1_000_001,
            7,
            3,
            True,
            XDPStatistics(
                rx_dropped=1,
                rx_invalid_descs=2,
                rx_ring_full=3,
                rx_fill_ring_empty_descs=4,
                tx_invalid_descs=5,
                tx_ring_empty_descs=6,
            ),
        ),
        1_000_273: sock_diag.BoundSocket(1_000_273, 2, 0, False, None),
        1: sock_diag.BoundSocket(1, None, None, None, None),
    }


@pytest.mark.parametrize("number", [2, 95, 1])  # ENOENT: no such family; EOPNOTSUPP; EPERM
def test_a_kernel_that_does_not_say(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    refusal = words("24000000 0200 0000 01000000 39300000") + (-number).to_bytes(4, "little", signed=True) + bytes(16)
    assert answered(monkeypatch, refusal)[1] is None


def test_what_is_cut_off_is_left_out() -> None:
    body = ZERO_COPY[16:]
    for length in range(16, len(body)):
        found = sock_diag.parse(body[:length])
        assert found.inode == 1_000_001
        assert found.statistics is None
        assert found.queue in (None, 3)


def test_a_netlink_of_this_kernel() -> None:
    """The same questions go through the kernel: sock_diag of AF_UNIX, in one dump, has this socket in it."""
    with socket.socket(socket.AF_UNIX) as mine, netlink.opened(4) as asker:
        body = bytes([socket.AF_UNIX, 0, 0, 0]) + (0xFFFFFFFF).to_bytes(4, "little") + bytes(16)
        inodes = {int.from_bytes(answer[4:8], "little") for answer in ask(asker, 20, body, dump=True)}
        assert os.fstat(mine.fileno()).st_ino in inodes


@pytest.mark.parametrize("number", [errno.EINTR, errno.ENOMEM])
def test_a_dump_that_ends_with_an_error_is_refused(number: int) -> None:
    """NLMSG_DONE carries an errno too: what came until then is not all there is."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        far.send(UNBOUND + words("14000000 0300 0200 01000000 39300000") + (-number).to_bytes(4, "little", signed=True))
        with pytest.raises(OSError, match="netlink") as refused:
            list(ask(near, 20, b"", dump=True))
        assert refused.value.errno == number
        far.send(UNBOUND + words("14000000 0300 0200 01000000 39300000 00000000"))
        assert len(list(ask(near, 20, b"", dump=True))) == 1
