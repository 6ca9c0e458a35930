# SPDX-License-Identifier: Apache-2.0
"""What the XDP program wrote in front of packets (struct xsk_meta), and for which of them it can be believed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from toolkit.abi.xsk_meta import XSK_META_MAGIC, XSK_META_SIZE

__all__ = ["LENGTH", "RULE", "Meta", "no_meta", "read_meta"]

Meta = tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]  # words, shape (n, 6); whether they are valid, (n,)

_MAGIC, LENGTH, RULE = 2, 4, 5  # words; the first two are the arrival time


def no_meta(n: int) -> Meta:
    """Return that of `n` packets in front of which nothing was written."""
    return np.zeros((n, XSK_META_SIZE // 4), dtype=np.uint32), np.zeros(n, dtype=np.bool_)


def read_meta(
    memory: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    shift: int,
    posted_ns: Callable[[], npt.NDArray[np.int64]],
) -> Meta:
    """Read what is in front of the packets that begin at `starts`, shape (n,), n > 0, in frames of 2**shift bytes.

    It is valid with the magic word, and with a time that is not before the frame was posted: where the program could
    not write it, that of an earlier packet is left in the frame. posted_ns: returns the times of posting, shape (n,).
    """
    from toolkit.decode.gather import windows

    room = starts & ((1 << shift) - 1)
    # As few operations as possible: a program that only adds up wire_lengths spends most of its time here.
    before = starts - np.minimum(room, XSK_META_SIZE)
    words = windows(memory, XSK_META_SIZE)[before].view(np.uint32).reshape(len(starts), -1)
    times = words.view(np.int64)[:, 0]
    good = words[:, _MAGIC] == XSK_META_MAGIC
    good &= times >= posted_ns()
    good &= times <= time.monotonic_ns()
    # A packet at the very start of its frame has none: the bytes in front belong to another frame.
    good &= room >= XSK_META_SIZE
    return words, good
