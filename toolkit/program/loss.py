# SPDX-License-Identifier: Apache-2.0
"""Loss: why an attachment ended, if not by us: the interface, the link or the program; and the next step."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Literal, NamedTuple

from toolkit._base.netns import Home
from toolkit.errors import DetachedError, DeviceGoneError, kernel_error
from toolkit.program import query

__all__ = ["Location", "Loss", "detached", "gone", "replaced"]

_LOOK = "check `ip link`, then open it again"
_OPEN_AGAIN = "`xsk status` shows what is attached; open it again (`replace=True` takes the place of another program)"


class Location(NamedTuple):
    """An interface: its network namespace, and its index there."""

    home: Home
    ifindex: int

    def exists(self) -> bool | None:
        """Return whether the interface still exists; None if its network namespace cannot be entered."""
        with self.home.entered() as reached:
            if not reached:
                return None
            try:
                socket.if_indextoname(self.ifindex)
            except OSError as refused:
                return False if refused.errno in (errno.ENXIO, errno.ENODEV) else None
            return True

    def attached(self) -> query.Attached | None:
        """Return what is attached there now; None if nothing is, or that is not known."""
        with self.home.entered() as reached, contextlib.suppress(OSError):
            return query.attached(self.ifindex) if reached else None
        return None

    def runs(self, program_id: int) -> bool | None:
        """Return whether the program of that id is attached there; None if that is not known."""
        with self.home.entered() as reached, contextlib.suppress(OSError):
            return program_id in query.attached_ids(self.ifindex) if reached else None
        return None

    def runs_natively(self) -> bool | None:
        """Return whether the driver runs an XDP program there; None if that is not known."""
        with self.home.entered() as reached, contextlib.suppress(OSError):
            return query.runs_natively(self.ifindex) if reached else None
        return None


class Loss(NamedTuple):
    """Why no packet comes any more, and the next step: both as parts of a sentence."""

    kind: Literal["deleted", "moved", "detached", "replaced"]
    cause: str
    remedy: str

    def error(self, tried: str, number: int = errno.ENETDOWN) -> DeviceGoneError:
        """Return the exception; `tried` begins its sentence ("cannot receive on veth0 any more").

        With errno `number` if the interface is gone; DetachedError with ENOLINK if only its program is.
        """
        gone = self.kind in ("deleted", "moved")
        kind, number = (DeviceGoneError, number) if gone else (DetachedError, errno.ENOLINK)
        return kind(number, kernel_error("feed", number, tried, cause=self.cause, remedy=self.remedy).strerror)


def gone(location: Location, *, attached: bool) -> Loss:
    """Explain a socket that has lost its device. attached: the program is still attached to that device elsewhere."""
    there = location.exists()
    if there:
        return Loss("moved", "the interface was moved into another network namespace, and back", "open it again")
    if attached:
        remedy = "open it where it is now (`netns=...`), or move it back and open it again"
        return Loss("moved", "the interface was moved into another network namespace", remedy)
    return Loss("deleted", "the interface was deleted, or moved into another network namespace", _LOOK)


def detached(location: Location, ours: str, how: str) -> Loss:
    """Explain why the program named `ours` is not attached there any more. how: the way in which it was attached."""
    there = location.exists()
    if there is False:
        return Loss("deleted", "the interface was deleted", _LOOK)
    taken = f"somebody took the XDP program {ours} off ({how})"
    if there is None:
        return Loss("detached", f"{taken}, or deleted the interface", _OPEN_AGAIN)
    now = location.attached()
    beside = "nothing is attached there now" if now is None else f"attached there now: {now}"
    return Loss("detached", f"{taken}; {beside}", _OPEN_AGAIN)


def replaced(ours: str, other: int) -> Loss:
    """Explain a link that runs the program of id `other` instead of `ours`."""
    info = query.program_by_id(other)
    cause = f"somebody put program {info.id} ({info.name or 'no name'}) in the place of the XDP program {ours}"
    return Loss("replaced", cause, _OPEN_AGAIN)
