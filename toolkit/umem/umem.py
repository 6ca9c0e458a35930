# SPDX-License-Identifier: Apache-2.0
"""UMEM: the packet memory that a process shares with the kernel. Mirrors gVisor's pkg/xdp/umem.go, with safety."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from toolkit._base import fork
from toolkit._base.arguments import cannot_be, whole
from toolkit._base.closing import Closable
from toolkit._base.fork import Mapping
from toolkit.abi.if_xdp import XDP_PACKET_HEADROOM
from toolkit.abi.libxdp import XSK_RING_CONS__DEFAULT_NUM_DESCS, XSK_RING_PROD__DEFAULT_NUM_DESCS
from toolkit.errors import ArgumentError, FrameError, ToolkitError, explained
from toolkit.umem.ledger import USER, Addresses, FrameNumbers, Ledger

__all__ = ["LARGEST_FRAME", "LONGEST_PACKET", "UMEM", "check_ring_size", "frame_size_for", "zero_copy_mtu"]

LARGEST_FRAME = 4096  # bytes
LONGEST_PACKET = LARGEST_FRAME - XDP_PACKET_HEADROOM  # bytes that fit the largest frame, with headroom=0

_POISON = 0xDE

# net/xdp/xsk_buff_pool.c: Ethernet, two VLAN tags and the FCS, which come on top of an MTU; what one of several buffers
# has behind its part of the packet (struct skb_shared_info); and in what steps a NIC has the sizes of its buffers.
_AROUND_MTU, _SHARED_INFO, _BUFFER_STEP = 26, 320, 128


class Desc(Protocol):
    """Anything with the fields of struct xdp_desc."""

    @property
    def addr(self) -> int:
        """Offset into the UMEM."""

    @property
    def len(self) -> int:
        """Length of the packet in bytes."""


class UMEM(Closable):
    """Memory for packets, in frames of equal size, and the ledger of who owns which frame.

    Thread-safe for one receiving and one sending thread. Serves any number of Sockets, one after another or at the same
    time; each frame has exactly one owner.
    """

    def __init__(
        self,
        frames: int = 4096,
        frame_size: int = 4096,
        *,
        headroom: int = 0,
        fill_size: int = XSK_RING_PROD__DEFAULT_NUM_DESCS,
        comp_size: int = XSK_RING_CONS__DEFAULT_NUM_DESCS,
        tx_metadata_len: int = 0,
        poison: bool = False,
    ) -> None:
        """Map `frames` frames of `frame_size` bytes (2048 or 4096).

        headroom: bytes to keep free in front of each received packet, in addition to the kernel's own 256.
        fill_size, comp_size: entries of the fill and completion rings of every Socket on it, powers of two (as in
        struct xsk_umem_config, they belong to the UMEM).
        tx_metadata_len: bytes of TX metadata in front of a packet to send (libxdp 1.5 and later), a multiple of 8.
        poison: overwrite frames with 0xDE when they are given back, so that use after release shows.

        ArgumentError for sizes that the kernel would refuse; ToolkitError when there is not enough memory.
        """
        frames, frame_size = whole("frames", frames), whole("frame_size", frame_size)
        headroom, tx_metadata_len = whole("headroom", headroom), whole("tx_metadata_len", tx_metadata_len)
        _check_shape(frames, frame_size, headroom, tx_metadata_len)
        self.frames = frames
        self.frame_size = frame_size
        self.headroom = headroom
        self.fill_size = check_ring_size("fill_size", fill_size)
        self.comp_size = check_ring_size("comp_size", comp_size)
        self.tx_metadata_len = tx_metadata_len
        self.poison = poison
        self._frame_mask = frame_size - 1
        self.size = frames * frame_size  # bytes
        # Private memory on huge pages is faulted in and pinned ten times quicker than shared memory on small pages.
        # A fork does not inherit it: after copy-on-write this process would not see what the kernel writes.
        with explained(f"cannot have {self.size:,} bytes of memory for packets, {frames:,} frames"):
            self.ledger = Ledger(frames, frame_size.bit_length() - 1)
            self._mapping = Mapping(-1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without transparent huge pages
            self._mapping.madvise(mmap.MADV_HUGEPAGE)
        self._mapping.keep_from_children()
        # A view that a caller still holds at close() keeps the memory mapped.
        self._view: memoryview | None = memoryview(self._mapping)
        # All bytes as an array, shape (size,) u8, for batch code; None once closed.
        self.memory: npt.NDArray[np.uint8] | None = np.frombuffer(self._mapping, dtype=np.uint8)
        # The libxdp side of this UMEM (xsk/registration) while Sockets are open on it, one for each way of binding;
        # written by Socket, which holds the lock below.
        self.registrations: list[Any] = []
        # Held while a Socket on this UMEM is opened or closed. Not re-entrant: a finalizer that runs inside must find
        # it taken, even by its own thread, and leave its Socket in `unreachable`.
        self.registration_lock = threading.Lock()
        # Sockets that were garbage-collected while the lock was held; the next holder closes them.
        self.unreachable: deque[Any] = deque()
        # Most frames that the kernel may have for receiving, of each open Socket by its number; written by Receiver.
        self.rx_limits: dict[int, int] = {}
        self.senders: set[int] = set()  # numbers of the open Sockets that have a TX ring; written by Core
        self.receiving_threads: set[int] = set()  # idents of the threads that received; written by Receiver
        self._holders = 0  # sockets ever made on this UMEM: the last number that new_holder() gave
        super().__init__("this UMEM")
        fork.track(self)

    def __repr__(self) -> str:
        """Show size and free frames."""
        state = self._why_dead or f"{self.ledger.depth} free"
        return f"<UMEM {self.frames} frames of {self.frame_size} bytes, {state}>"

    def _repr_html_(self) -> str:
        """Show where every frame is, in a notebook."""
        from toolkit._base.html import table_html

        return table_html(repr(self), {} if self._why_dead else self.audit())

    @property
    def address(self) -> int:
        """Address of the first byte in this process, for libxdp."""
        return self._mapping.address

    @property
    def n_free_frames(self) -> int:
        """Frames on the free stack."""
        self._check_open()
        return self.ledger.count_free()

    @property
    def packet_capacity(self) -> int:
        """The longest packet in bytes that the kernel can receive into one frame."""
        return self.frame_size - XDP_PACKET_HEADROOM - self.headroom

    def alloc_frame(self) -> int:
        """Take one free frame and return its address. FrameError when there is none."""
        return int(self.alloc_frames(1)[0])

    def alloc_frames(self, n: int) -> Addresses:
        """Take `n` free frames, all or none; return their addresses, shape (n,), u64.

        FrameError when there are fewer.
        """
        self._check_open()
        return self.ledger.alloc(n, USER)

    def free_frame(self, addr: int) -> None:
        """Give one frame back; `addr` is any address inside it.

        FrameError when it is outside the UMEM, free already, or the kernel's.
        """
        self._check_open()
        self.ledger.free_one(int(addr), wipe=self._wipe if self.poison else None)

    def free_frames(self, addrs: npt.ArrayLike) -> None:
        """Give frames back, all or none. addrs: any address inside each frame, shape (n,), any integer dtype.

        FrameError when one is outside the UMEM, free already, the kernel's, or named twice.
        """
        self.recycle(addrs)

    def recycle(self, addresses: npt.ArrayLike, *, distinct: bool = False, was: int | None = None) -> None:
        """Give frames back as free_frames() does. was: the owner code that each must have, by default any of the user.

        distinct: the caller knows that no frame is named twice, as in a batch of a ring that was checked when it came.
        """
        self._check_open()
        self.ledger.free(_as_addresses(addresses), was=was, distinct=distinct, wipe=self.wipe)

    @property
    def wipe(self) -> Callable[[FrameNumbers], None] | None:
        """What overwrites frames that are about to be freed; None without poison=True."""
        return self._wipe if self.poison else None

    def get(self, desc: Desc) -> memoryview:
        """Return the bytes that a descriptor points to: a writable view of the frame itself, no copy.

        FrameError when the descriptor does not stay within one frame of this UMEM.
        """
        addr, length = int(desc.addr), int(desc.len)  # NumPy's own integers would wrap around below
        view = self._view
        if view is None:
            raise self._closed_error()
        # The UMEM is a multiple of the frame size: a packet that begins inside it and stays in its frame ends inside.
        if not 0 <= addr < self.size or not 0 <= length <= self.frame_size - (addr & self._frame_mask):
            raise FrameError(
                f"the descriptor (addr={addr:#x}, len={length}) is not within one frame of this UMEM "
                f"({self.frames} frames of {self.frame_size} bytes). Likely cause: it comes from another UMEM, or was "
                "computed wrongly. Next step: use descriptors as they were received, or addresses from alloc_frames()."
            )
        return view[addr : addr + length]

    def audit(self) -> dict[str, Any]:
        """Count the frames of each kind of owner: free, user, rx, received, tx, retired; `frames` is their sum.

        FrameError when the free stack and the owner array disagree.
        """
        self._check_open()
        return self.ledger.audit()

    def postable(self, wanted: int) -> int:
        """Return how many free frames may be posted for receiving, at most `wanted`; perhaps none.

        A reserve is kept for sending, so that it goes on while Batches are held: half of the frames that are beyond the
        limits of all Sockets, or a sixteenth. Frames that are being sent, or that the user has, count as part of it.
        """
        free, reserve = self.n_free_frames, 0
        if self.senders:
            left = self.frames - sum(self.rx_limits.values())
            reserve = max(-(-left // 2), self.frames >> 4)
        if free - wanted < reserve:
            free = min(free, free + self.ledger.count_elsewhere() - reserve)
        return max(min(free, wanted), 0)

    def new_holder(self) -> int:
        """Return the number of a new socket on this UMEM, for owner codes in the ledger."""
        self._check_open()
        self._holders += 1
        return self._holders

    def close(self) -> None:
        """Unmap the memory. Repeatable. ToolkitError while a Socket is open on it.

        Views that get() returned stay valid: the memory is unmapped with the last of them.
        """
        if not self._why_dead and self.registrations:
            raise ToolkitError("cannot close the UMEM: a Socket is open on it. Next step: close the Socket first.")
        super().close()

    def _take_down(self) -> None:
        self._abandon()
        with contextlib.suppress(BufferError):  # a caller holds a view of a packet: unmapped with the last view
            self._mapping.close()

    def _abandon(self) -> None:
        self._view = self.memory = None

    def _wipe(self, numbers: FrameNumbers | int) -> None:
        """Overwrite frames that are about to be freed (poison=True)."""
        if self.memory is not None:
            self.memory.reshape(self.frames, self.frame_size)[numbers] = _POISON


def _as_addresses(given: npt.ArrayLike) -> Addresses:
    """Return addresses of any integer dtype as shape (n,), u64. ArgumentError for anything else."""
    if isinstance(given, np.ndarray) and given.dtype == np.uint64 and given.ndim == 1:
        return given
    array = np.asarray(given)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise cannot_be("addresses", array, "an array of integers, shape (n,)")
    return array.reshape(-1).astype(np.uint64)  # a negative one wraps to a value outside every UMEM


def check_ring_size(name: str, size: int) -> int:
    """Return `size` if the kernel accepts it for a ring, else raise ArgumentError."""
    size = whole(name, size)
    if size < 1 or size & (size - 1) or size > 1 << 20:
        near = min(1 << max(size - 1, 0).bit_length(), 1 << 20)
        raise cannot_be(name, size, f"a power of two up to {1 << 20:,}, such as {near:,}")
    return size


def check_frame_size(frame_size: int) -> int:
    """Return `frame_size` if the kernel accepts it, else raise ArgumentError."""
    frame_size, page = whole("frame_size", frame_size), mmap.PAGESIZE
    if frame_size not in (2048, 4096) or frame_size > page:
        raise ArgumentError(
            f"a frame of {frame_size} bytes is refused by the kernel: it must be 2048 or 4096, and not larger than "
            f"a page ({page}). Next step: frame_size=2048 carries packets up to 1792 bytes, 4096 up to 3840."
        )
    return frame_size


def _check_shape(frames: int, frame_size: int, headroom: int, tx_metadata_len: int) -> None:
    """Raise ArgumentError for sizes that no kernel registers."""
    page = mmap.PAGESIZE
    check_frame_size(frame_size)
    if frames < 1 or frames * frame_size % page or frames > 1 << 24:
        raise ArgumentError(
            f"a UMEM cannot have {frames} frames of {frame_size} bytes. Next step: give 1 to {1 << 24:,} frames that "
            f"fill whole pages of {page} bytes (an even number of frames of 2048)."
        )
    if not 0 <= headroom < frame_size - XDP_PACKET_HEADROOM:
        raise ArgumentError(
            f"a headroom of {headroom} bytes does not fit a frame of {frame_size} bytes, of which the kernel keeps "
            f"{XDP_PACKET_HEADROOM} as headroom. Next step: give 0 to {frame_size - XDP_PACKET_HEADROOM - 1}, or "
            "larger frames."
        )
    if not 0 <= tx_metadata_len < 256 or tx_metadata_len % 8:
        raise cannot_be("tx_metadata_len", tx_metadata_len, "a multiple of 8 from 0 to 248")


def zero_copy_mtu(frame_size: int, headroom: int = 0, *, buffers: int = 1) -> int:
    """Return the largest MTU with which the kernel binds zero-copy (Linux 7.1; before, drivers have limits like it).

    buffers: most buffers of a packet, as the driver has it in zero-copy mode.
    """
    room = frame_size - headroom - XDP_PACKET_HEADROOM - (_SHARED_INFO if buffers > 1 else 0)
    return room // _BUFFER_STEP * _BUFFER_STEP * buffers - _AROUND_MTU


def frame_size_for(packet: int) -> int:
    """Return the frame size for packets of `packet` bytes; one longer than LONGEST_PACKET needs several frames."""
    return 2048 if packet <= 2048 - XDP_PACKET_HEADROOM else 4096
