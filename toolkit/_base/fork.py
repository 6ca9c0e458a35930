# SPDX-License-Identifier: Apache-2.0
"""What happens at fork: in the child every open object is dead and its descriptors are closed; the parent is
unaffected.

A forked child inherits the file descriptors of sockets, maps and links, and mappings of rings. Two processes on one
ring would corrupt it, and a descriptor in the child would keep a program attached after its owner ended. So every
object with such a descriptor or mapping is tracked here, and the child closes its copies before it runs anything else.
"""

from __future__ import annotations

import os
import weakref
from typing import NoReturn, Protocol, TypeVar

__all__ = ["NotCopied", "track", "tracked"]


F = TypeVar("F")


class Forkable(Protocol):
    """An object that owns something that a forked child must not use."""

    def _after_fork_in_child(self) -> None:
        """Close this process's copies of file descriptors and mark the object dead. Must not raise or lock."""


class NotCopied:
    """Base of classes that own a descriptor or a mapping: they cannot be copied or pickled.

    A copy would close the descriptor of the original, and in another process the number has no meaning.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: it stands for something of this process in the "
            "kernel. Next step: make another one where it is needed."
        )


# Written by track() and by garbage collection; read in a new child, which has one thread.
_live: weakref.WeakSet[Forkable] = weakref.WeakSet()
_hooked = False


def track(owner: Forkable) -> None:
    """Call `owner._after_fork_in_child()` in every forked child of this process."""
    global _hooked
    if not _hooked:
        os.register_at_fork(after_in_child=_drop_all)
        _hooked = True
    _live.add(owner)


def tracked(kind: type[F]) -> list[F]:
    """Return the objects of a kind that this process owns, as far as somebody still holds them."""
    return [one for one in list(_live) if isinstance(one, kind)]


def _drop_all() -> None:
    # Sockets first: the parent cannot bind a queue again while the child still maps its rings.
    for owner in sorted(_live, key=lambda one: getattr(one, "_fork_order", 1)):
        owner._after_fork_in_child()
    _live.clear()
