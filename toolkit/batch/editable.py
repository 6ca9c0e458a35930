# SPDX-License-Identifier: Apache-2.0
"""EditableBatch: packets that are being forwarded, to be changed in place as arrays before they are sent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.batch.batch import Batch
from toolkit.errors import ArgumentError

__all__ = ["EditableBatch"]

_ROOM = 64  # bytes that may be added in front of a packet: well within the kernel's headroom of 256


class EditableBatch(Batch):
    """The argument of an edit function: a Batch whose bytes, starts and lengths can be changed.

    Valid during the call.
    """

    __slots__ = ()

    def put_head(self, heads: npt.NDArray[np.uint8], rows: npt.NDArray[np.intp] | None = None) -> None:
        """Overwrite the first k bytes of packets. heads: shape (n, k), u8, as from head(k).

        rows: the packets' indices, shape (n,); by default all packets. ArgumentError when one is shorter than k.
        """
        starts, lengths = self._offsets(), self._words()[:, 2]
        if rows is not None:
            try:
                starts, lengths = starts[rows], lengths[rows]
            except IndexError as wrong:
                raise ArgumentError(
                    f"rows name packets that are not there: {wrong}. Next step: give numbers from 0 to "
                    f"{len(starts) - 1}, or a mask of {len(starts)} bool."
                ) from None
        n, width = _two_dimensions(heads, len(starts))
        if n and width > int(lengths.min()):
            raise ArgumentError(
                f"cannot overwrite {width} bytes of packets of which the shortest has {int(lengths.min())}. "
                "Next step: name the rows that are long enough, or drop the short packets (a mask)."
            )
        if n and width:
            self._rows(width)[starts] = np.ascontiguousarray(heads).view(f"V{width}").reshape(-1)

    def writable(self, i: int) -> memoryview:
        """Return packet `i` as a writable view, valid during the call: for single packets; use arrays for many."""
        words = self._words()[i]
        start = int(self._offsets()[i])
        return memoryview(self._bytes().data)[start : start + int(words[2])]

    def grow_front(self, count: int | npt.NDArray[np.int64]) -> None:
        """Add `count` bytes in front of every packet (negative: cut that many off).

        count: one number for all, or shape (n,), one a packet; at most 64 either way. The new bytes are undefined until
        put_head() writes them. ArgumentError when fewer than 14 bytes would be left, or a packet would leave its frame.
        """
        descs = self._checked()
        counts = np.asarray(count, dtype=np.int64)
        if counts.shape not in ((), (len(descs),)):
            raise cannot_be("count", counts, f"one number for all packets, or one each, shape ({len(descs)},)")
        lengths = self.lengths + counts
        if len(descs) and (int(np.abs(counts).max()) > _ROOM or int(lengths.min()) < 14):
            raise cannot_be("count", count, f"at most {_ROOM} bytes either way, which leave 14 bytes of each packet")
        starts = self._offsets() - counts
        self._keep_in_frame(starts, lengths)
        self._set(starts, lengths)

    def set_lengths(self, lengths: npt.ArrayLike) -> None:
        """Cut or extend every packet. lengths: bytes, shape (n,). ArgumentError below 14, or beyond the frame."""
        wanted = np.asarray(lengths, dtype=np.int64)
        if wanted.shape != (len(self),):
            raise cannot_be("lengths", wanted, f"one length for each packet, shape ({len(self)},)")
        if len(self) and int(wanted.min()) < 14:
            raise ArgumentError(
                f"a packet cannot have {wanted.min()} bytes. Next step: leave 14 or more, an Ethernet header."
            )
        self._keep_in_frame(self._offsets(), wanted)
        self._set(self._offsets(), wanted)

    def _rows(self, width: int) -> npt.NDArray[np.void]:
        """Return the memory as items of `width` bytes, one at each offset: writing to an item is one memmove."""
        memory = self._bytes()
        return np.ndarray((len(memory) - width + 1,), dtype=f"V{width}", buffer=memory.data, strides=(1,))

    def _keep_in_frame(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        assert self._umem is not None
        shift = self._umem.ledger.shift
        frame = self._offsets() >> shift
        if ((starts >> shift != frame) | ((starts + np.maximum(lengths, 1) - 1) >> shift != frame)).any():
            raise ArgumentError(
                "a packet would reach out of its frame. Nothing was changed. Next step: make fewer bytes of it, or "
                "take larger frames: `frame_size=4096`."
            )

    def _set(self, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
        descs = self._checked()
        descs[:, 0] = starts.view(np.uint64)
        descs.view(np.uint32).reshape(-1, 4)[:, 2] = lengths


def _two_dimensions(heads: npt.NDArray[np.uint8], packets: int) -> tuple[int, int]:
    if not isinstance(heads, np.ndarray) or heads.dtype != np.uint8 or heads.ndim != 2 or len(heads) != packets:
        raise cannot_be("heads", heads, f"an array of dtype uint8 with one row for each packet, shape ({packets}, k)")
    return heads.shape[0], heads.shape[1]
