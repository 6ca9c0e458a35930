# SPDX-License-Identifier: Apache-2.0
"""What happens to open objects when the process forks: in the child they are dead, in the parent nothing changes.

A forked child inherits file descriptors of sockets, maps and links, and a shared mapping of the UMEM. Two processes on
one ring would corrupt it, and a descriptor kept by a child would keep a program attached after its owner died. So every
object that owns one is tracked here, and the child drops its copies before it runs anything else.
"""

from __future__ import annotations

import os
import weakref
from typing import NoReturn, Protocol

__all__ = ["NotCopied", "track"]


class Forkable(Protocol):
    """An object that owns something a forked child must not use."""

    def _after_fork_in_child(self) -> None:
        """Close this process's copies of file descriptors and mark the object dead. Must not raise or lock."""


class NotCopied:
    """Base of what owns a descriptor or a mapping: a copy would close it under the original, and a pickle means nothing
    in another process.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: it stands for something of this process in the "
            "kernel. Next step: make another one where it is needed."
        )


# Written by track() and by garbage collection; read once, in a new child, which has a single thread.
_live: weakref.WeakSet[Forkable] = weakref.WeakSet()
_hooked = False


def track(owner: Forkable) -> None:
    """Have `owner._after_fork_in_child()` called in every forked child of this process."""
    global _hooked
    if not _hooked:
        os.register_at_fork(after_in_child=_drop_all)
        _hooked = True
    _live.add(owner)


def _drop_all() -> None:
    # What a parent that goes on misses most comes first: a queue is busy while the child maps its rings.
    for owner in sorted(_live, key=lambda one: getattr(one, "_fork_order", 1)):
        owner._after_fork_in_child()
    _live.clear()
