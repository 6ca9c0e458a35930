# SPDX-License-Identifier: Apache-2.0
"""What happens to open objects when the process forks: in the child they are dead, in the parent nothing changes.

A forked child inherits file descriptors of sockets, maps and links, and a shared mapping of the UMEM. Two processes on
one ring would corrupt it, and a descriptor kept by a child would keep a program attached after its owner died. So every
object that owns one is tracked here, and the child drops its copies before it runs anything else.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["track"]


class Forkable(Protocol):
    """An object that owns something a forked child must not use."""

    def _after_fork_in_child(self) -> None:
        """Close this process's copies of file descriptors and mark the object dead. Must not raise or lock."""


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
    for owner in list(_live):
        owner._after_fork_in_child()
    _live.clear()
