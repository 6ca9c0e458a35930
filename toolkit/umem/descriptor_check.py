# SPDX-License-Identifier: Apache-2.0
"""The check that a descriptor stays inside one frame of the UMEM, and has only options that the socket agreed to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolkit.abi.if_xdp import XDP_PKT_CONTD, XDP_TX_METADATA, XDPDesc
from toolkit.errors import FrameError

__all__ = ["Limits", "rx_limits", "tx_limits"]

# A descriptor's second word is len | options << 32.
_LENGTH = np.uint64(0xFFFFFFFF)
_OPTIONS = np.uint64(32)
_ONE = np.array(1, dtype=np.uint64)  # an array: NumPy converts an integer on each use


class Limits:
    """What the descriptors of one ring may contain. Immutable."""

    def __init__(self, frame_size: int, *, refused: int, shortest: int = 0, ahead: int = 0) -> None:
        """Set the limits. frame_size: bytes, a power of two. refused: option bits that must not be set.

        shortest: least length in bytes. ahead: bytes in front of the packet that must lie in its frame (TX metadata).
        """
        self.frame_size = frame_size
        self._in_frame = np.uint64(frame_size - 1)
        self._refused = refused
        self._shortest = shortest
        self._ahead = ahead

    def check(self, descs: npt.NDArray[np.uint64]) -> None:
        """Raise FrameError when one of the descriptors (shape (n, 2), u64) is not within these limits.

        Whether the frame exists, and who owns it, is checked by the Ledger (toolkit.umem).
        """
        # Usually all are good, which one reduction finds out: first and last byte differ only below the frame size, and
        # the second word is small. An option makes it large, and so does a length of 0 (0 - 1 wraps around).
        first, last = descs[:, 0], descs[:, 1] - _ONE
        reach = first + last
        reach ^= first
        reach |= last
        if self._ahead or (len(reach) and reach.max() >= self.frame_size):
            self._check_each(descs)

    def check_one(self, desc: XDPDesc) -> None:
        """Do check() for one descriptor, without NumPy's fixed costs."""
        offset = desc.addr & (self.frame_size - 1)
        if (
            not self._shortest <= desc.len <= self.frame_size - offset
            or offset < self._ahead
            or desc.options & self._refused
        ):
            raise self._refusal(desc.addr, desc.len, desc.options)

    def _check_each(self, descs: npt.NDArray[np.uint64]) -> None:
        lengths, options = descs[:, 1] & _LENGTH, descs[:, 1] >> _OPTIONS
        offsets = descs[:, 0] & self._in_frame
        bad = (lengths > np.uint64(self.frame_size) - offsets) | (lengths < np.uint64(self._shortest))
        bad |= (offsets < np.uint64(self._ahead)) | (options & np.uint64(self._refused) != 0)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise self._refusal(int(descs[at, 0]), int(lengths[at]), int(options[at]))

    def _refusal(self, addr: int, length: int, options: int) -> FrameError:
        what = f"the descriptor (addr={addr:#x}, len={length}, options={options:#x})"
        if options & self._refused:
            return FrameError(
                f"{what} has options that this socket was not bound for. Likely cause: XDP_PKT_CONTD (1) without "
                "sg=True, XDP_TX_METADATA (2) without tx_metadata_len, or something else writes to the ring. "
                "Nothing was changed. Next step: bind the socket for what the descriptors say, or clear their options."
            )
        return FrameError(
            f"{what} is not within one frame of {self.frame_size} bytes"
            + (f", with {self._ahead} bytes in front of the packet for metadata" if self._ahead else "")
            + (f", or is shorter than {self._shortest} byte" if length < self._shortest else "")
            + ". Nothing was changed. Likely cause: it was computed wrongly, or, in an RX ring, a fault of the "
            "driver. Next step: use descriptors as they were received; of an RX ring, close the Socket and open it "
            "again."
        )


def rx_limits(frame_size: int, sg: bool) -> Limits:
    """Return the limits of an RX ring. Options that are unknown, perhaps those of a later kernel, are allowed."""
    return Limits(frame_size, refused=0 if sg else XDP_PKT_CONTD)


def tx_limits(frame_size: int, sg: bool, tx_metadata_len: int) -> Limits:
    """Return the limits of a TX ring: the descriptors that the kernel accepts on a UMEM with these settings."""
    known = (XDP_PKT_CONTD if sg else 0) | (XDP_TX_METADATA if tx_metadata_len else 0)
    return Limits(frame_size, refused=~known & 0xFFFFFFFF, shortest=1, ahead=tx_metadata_len)
