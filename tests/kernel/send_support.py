# SPDX-License-Identifier: Apache-2.0
"""What the tests of sending and forwarding share: numbered packets by the thousand, and the kernel as their witness."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator

import numpy as np
from support import ETHERTYPE, HEADER, frame, number_of

import toolkit
from toolkit.lab import Lab, Namespace

__all__ = ["Tap", "assert_in_order", "edit_matrix", "plain_socket", "sent_frames", "stream"]

_BUFFER = 1 << 29  # bytes: 200,000 packets wait in it


class Tap:
    """Frames of ETHERTYPE (or of `protocol`) that arrive at an interface, in order, by AF_PACKET."""

    def __init__(self, namespace: Namespace, name: str, protocol: int = ETHERTYPE) -> None:
        with namespace.entered():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE
            self.sock.bind((name, protocol))

    @classmethod
    def far(cls, lab: Lab, protocol: int = ETHERTYPE) -> Tap:
        return cls(lab.far, lab.peer, protocol)

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def take(self, count: int, timeout: float = 5.0, quiet: float = 0.05) -> list[bytes]:
        """`count` frames, fewer after `timeout` seconds; more if more arrive within `quiet` seconds after that."""
        got: list[bytes] = []
        deadline = time.monotonic() + timeout
        receive = self.sock.recv
        while len(got) < count and (left := deadline - time.monotonic()) > 0:
            self.sock.settimeout(left)
            with contextlib.suppress(TimeoutError):
                got.append(receive(65536))
                self.sock.settimeout(0)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        got.append(receive(65536))
        self.sock.settimeout(quiet)
        with contextlib.suppress(TimeoutError):
            while True:
                got.append(receive(65536))
        return got


def sent_frames(count: int, *, start: int = 0, lengths: range = range(64, 65)) -> list[bytes]:
    """Numbered frames whose lengths go round in `lengths`."""
    return [frame(start + i, lengths[i % len(lengths)]) for i in range(count)]


def stream(first: int, count: int, length: int = 64) -> np.ndarray:
    """Numbered frames as a matrix, shape (count, length) u8: frame() without its fixed costs."""
    rows = np.empty((count, length), dtype=np.uint8)
    rows[:, :14] = np.frombuffer(HEADER, np.uint8)
    numbers = np.arange(first, first + count, dtype=np.uint32)
    rows[:, 14:18] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
    rows[:, 18:] = (numbers[:, None] + np.arange(length - 18, dtype=np.uint32)).astype(np.uint8)
    return rows


def edit_matrix(frames: list[bytes]) -> np.ndarray:
    """Frames of one length as a matrix, shape (n, length) u8."""
    return np.frombuffer(b"".join(frames), dtype=np.uint8).reshape(len(frames), -1)


def assert_in_order(frames: list[bytes]) -> list[int]:
    """Each frame is one that frame() made, whole; none comes twice or late. Returns their numbers."""
    found = [number_of(one) for one in frames]
    for one, number in zip(frames, found, strict=True):
        assert one == frame(number, len(one)), f"frame {number} was damaged"
    assert all(a < b for a, b in itertools.pairwise(found)), "out of order, or twice"
    return found


@contextlib.contextmanager
def plain_socket(
    lab: Lab, *, frames: int = 256, frame_size: int = 2048, ring: int = 64, **options: object
) -> Iterator[toolkit.Socket]:
    """A Socket for sending on the lab's near end: no program is needed for that."""
    with (
        toolkit.UMEM(frames, frame_size, fill_size=ring, comp_size=ring) as umem,
        toolkit.Socket(
            lab.interface,
            umem=umem,
            rx_size=ring,
            tx_size=ring,
            netns=lab.netns,
            **options,  # type: ignore[arg-type]
        ) as sock,
    ):
        yield sock
