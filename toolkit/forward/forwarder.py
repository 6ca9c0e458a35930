# SPDX-License-Identifier: Apache-2.0
"""Forwarder: moves packets from one socket to another. Descriptors move, bytes do not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit.batch.editable import EditableBatch
from toolkit.errors import ArgumentError, DeviceGoneError
from toolkit.interface.interface import Interface
from toolkit.packets.checksum_offload import finish
from toolkit.rings.memory import U32
from toolkit.xsk.socket import Socket

__all__ = ["Edit", "Forwarder", "ForwarderStatistics"]

# Gets each batch and may change it in place; returns None to send all, or the packets to keep: shape (n,), bool.
Edit = Callable[[EditableBatch], Any]

_LENGTH = np.array(U32, dtype=np.uint64)  # the lower half of a descriptor's second word
_KICK_AGAIN = 0.001  # seconds after which a busy kernel is kicked again
_TIMEOUT = 0.01  # seconds that a batch waits for room in a full TX ring; then its remaining packets are dropped


class ForwarderStatistics(NamedTuple):
    """Packets so far, and bytes in `octets`. received = forwarded + edited_out + no_room."""

    received: int  # taken from the source
    forwarded: int  # put into the target's TX ring
    octets: int  # bytes of these, after editing
    finished: int  # of those received, packets whose checksum the sender had left to its device
    edited_out: int  # dropped by the edit function, or in a batch where it raised
    no_room: int  # dropped because the TX ring stayed full, or the interface went down


class Forwarder:
    """Sends the packets that `source` receives on `target`, which must be on the same UMEM.

    One thread runs it: it is the receiving thread of the source and the sending thread of the target. Packets that the
    edit function drops, and packets that find no room in the TX ring, are counted, and their frames are free again; so
    is a whole batch when the edit function raises. After each step, received == forwarded + edited_out + no_room.

    A host that sends into a veth, a tap or a virtio NIC leaves the checksums of TCP and UDP to "the hardware", but no
    hardware is on the way from there to an AF_XDP socket. They are finished before the edit function gets the packet,
    so that it can update them (RFC 1624): see toolkit.packets.checksum_offload.
    """

    def __init__(
        self,
        source: Socket | Interface,
        target: Socket | Interface,
        edit: Edit | None = None,
        *,
        finish_checksums: bool | Literal["auto"] = "auto",
    ) -> None:
        """Forward queue i of the source to queue i of the target (if it has fewer: i modulo their number).

        Source and target may be the same: packets then leave where they came from. edit: called with each batch, see
        Edit. finish_checksums: True finishes open checksums; "auto" does so unless the source is in native mode on
        hardware, where there are none; False leaves packets byte for byte as they came.
        """
        sources, targets = _sockets(source), _sockets(target)
        if edit is not None and not callable(edit):
            raise cannot_be("edit", edit, "a function, which is called with each batch, or None")
        if sources[0].umem is not targets[0].umem:
            raise ArgumentError(
                "source and target are on two UMEMs, and forwarding moves descriptors, not bytes. "
                "Next step: make one UMEM and open both on it: toolkit.open(..., umem=umem)."
            )
        for sock in sources:
            _ = sock.rx  # raises on a Socket made with rx=False
            if sock.sg:
                raise ArgumentError(
                    f"{sock!r} receives packets of several frames, which cannot be forwarded or answered: an edit "
                    "would get each frame alone. Next step: open all that share its UMEM with frags=False, or as "
                    "Sockets with sg=False (longer packets are then dropped, and counted)."
                )
        for sock in targets:
            _ = sock.tx  # raises on a Socket made with tx=False
        self._pairs = [(sock, targets[at % len(targets)]) for at, sock in enumerate(sources)]
        self._source = source
        self._edit = edit
        self._finish = _may_be_open(source) if finish_checksums == "auto" else bool(finish_checksums)
        self._umem = sources[0].umem
        self._received = 0
        self._forwarded = 0
        self._octets = 0
        self._finished = 0
        self._edited_out = 0
        self._no_room = 0

    def statistics(self) -> ForwarderStatistics:
        """Return the counts of packets so far."""
        return ForwarderStatistics(
            self._received, self._forwarded, self._octets, self._finished, self._edited_out, self._no_room
        )

    def __repr__(self) -> str:
        """Show the counts."""
        return (
            f"<Forwarder received={self._received} forwarded={self._forwarded} edited_out={self._edited_out} "
            f"no_room={self._no_room}>"
        )

    def step(self, timeout: float | None = 0, limit: int | None = None) -> int:
        """Forward the packets that wait on every queue; return how many were taken. Raises what Socket.wait() does.

        timeout: seconds to wait for the first packet when none waits; None waits without limit. limit: packets a queue.
        """
        taken = self._poll(limit)
        if not taken and timeout != 0:
            if any(target.tx.outstanding for _, target in self._pairs):  # the kernel was busy: kick again soon
                timeout = _KICK_AGAIN if timeout is None else min(timeout, _KICK_AGAIN)
            if self._source.wait(timeout):
                taken = self._poll(limit)
        return taken

    def run(self, seconds: float | None = None, *, stop: Callable[[], object] = lambda: False) -> None:
        """Forward until `seconds` passed, or `stop()` is true (called every 0.2 s at least)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not stop() and (deadline is None or time.monotonic() < deadline):
            self.step(0.2 if deadline is None else max(min(0.2, deadline - time.monotonic()), 0))

    def step_queue(self, source: Socket, limit: int | None = None) -> int:
        """Forward the packets that wait on one queue. source: one of the source's sockets."""
        for sock, target in self._pairs:
            if sock is source:
                return self._move(sock, target, limit)
        raise cannot_be("source", source, "one of the sockets that this Forwarder receives from")

    def _poll(self, limit: int | None) -> int:
        taken, gone = 0, None
        for source, target in self._pairs:
            try:
                taken += self._move(source, target, limit)
            except DeviceGoneError as error:
                if source.feed.loss() is None and source.feed.left is None:
                    raise  # the target's device is gone
                gone = error  # raised when no packet waits on the other queues
        if gone is not None and not taken:
            raise gone
        return taken

    def _move(self, source: Socket, target: Socket, limit: int | None) -> int:
        target.reclaim()  # first, since taking() posts the free frames
        with source.taking(limit) as descs:
            if not len(descs):
                if target.tx.outstanding:
                    target.pass_on(descs, 0)
                return 0
            self._received += len(descs)
            descs[:, 1] &= _LENGTH  # no options: those of an RX ring mean nothing in a TX ring
            if self._finish:
                self._finish_checksums(descs)
            keep = descs if self._edit is None else self._edited(descs, source.queue)
            left = self._sent(target, keep)
            if len(left):
                self._umem.recycle(left[:, 0])
        return len(descs)

    def _sent(self, target: Socket, descs: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Send, and count what the TX ring took, even when the kick then raised; return the remaining descriptors."""
        before = target.tx.next_index
        try:
            return target.pass_on(descs, _TIMEOUT, distinct=True)  # from one batch of a ring, which was checked
        finally:
            taken = (target.tx.next_index - before) & U32
            self._forwarded += taken
            self._octets += int(descs[:taken, 1].sum())
            self._no_room += len(descs) - taken

    def _finish_checksums(self, descs: npt.NDArray[np.uint64]) -> None:
        memory = self._umem.memory
        if memory is not None:
            self._finished += int(np.count_nonzero(finish(memory, descs[:, 0], descs[:, 1])))

    def _edited(self, descs: npt.NDArray[np.uint64], queue: int) -> npt.NDArray[np.uint64]:
        """Run the edit function; free the frames that it drops. When it raises, source.taking() frees all frames."""
        assert self._edit is not None
        batch = EditableBatch(self._umem, descs, queue=queue)
        try:
            keep = _as_mask(self._edit(batch), len(descs))
        except BaseException:
            self._edited_out += len(descs)
            raise
        finally:
            batch.expire()
        if keep is None or keep.all():
            return descs
        dropped: npt.NDArray[np.uint64] = descs[~keep]
        self._edited_out += len(dropped)
        self._umem.recycle(dropped[:, 0])
        kept: npt.NDArray[np.uint64] = descs[keep]
        return kept


def _may_be_open(source: Socket | Interface) -> bool:
    """Return whether packets of this source may have open checksums.

    In generic mode they may, even on hardware: the kernel may have joined TCP segments before the program got them, and
    leaves the checksum of the result open.
    """
    mode = "unknown" if isinstance(source, Socket) else source.mode
    return mode != "native" or not source.device.on_a_wire


def _as_mask(answer: Any, packets: int) -> npt.NDArray[np.bool_] | None:
    if answer is None:
        return None
    mask = np.asarray(answer)
    if mask.dtype != np.bool_ or mask.shape != (packets,):
        raise cannot_be(
            "what the edit function returns",
            mask,
            f"None, or a mask of bool with one entry a packet, shape ({packets},)",
        )
    return mask


def _sockets(end: Socket | Interface) -> Sequence[Socket]:
    if not hasattr(end, "sockets") and not isinstance(end, Socket):
        raise cannot_be("an end of a Forwarder", end, "a Socket or an Interface")
    return (end,) if isinstance(end, Socket) else end.sockets
