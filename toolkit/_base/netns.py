# SPDX-License-Identifier: Apache-2.0
"""entered(): run a `with` block in another network namespace, in the calling thread only."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

from toolkit._base.arguments import cannot_be, whole
from toolkit.abi.libc import CLONE_NEWNET, setns
from toolkit.errors import ArgumentError, ToolkitError, explained, hidden, kernel_error

__all__ = ["HasFileno", "Home", "NetNS", "check_netns", "entered", "identity", "open_own", "refuse_in_coroutine"]


_OWN = "/proc/thread-self/ns/net"
_UNKNOWN = "cannot tell in which network namespace this thread is"


class HasFileno(Protocol):
    """An object with a file descriptor of a network namespace, such as `toolkit.lab.Namespace`."""

    def fileno(self) -> int:
        """Return the descriptor."""


# A pid, a path ("/run/netns/blue"), a name in /run/netns, an object with fileno(), or None: the calling thread's.
NetNS = int | str | os.PathLike[str] | HasFileno | None


def _open(netns: int | str | os.PathLike[str] | HasFileno) -> int:
    if isinstance(netns, str | os.PathLike):
        text = os.fspath(netns)
        path = text if "/" in text else f"/run/netns/{text}"
    elif hasattr(netns, "fileno"):
        return os.dup(netns.fileno())
    else:
        path = f"/proc/{_pid(netns)}/ns/net"
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ValueError) as missing:  # ValueError: a zero byte in it
        cause, remedy = hidden(missing) if isinstance(missing, OSError) else ("", "")
        if cause:
            tried = f"cannot open the network namespace {netns!r}"
            raise kernel_error("setns", errno.ENOENT, tried, cause=cause, remedy=remedy) from None
        raise ArgumentError(
            f"there is no network namespace {netns!r} ({path}). Next step: `ip netns list`, or give a pid or a path."
        ) from missing
    except OSError as refused:
        raise kernel_error("setns", refused.errno or 0, f"cannot open the network namespace {netns!r}") from None


def check_netns(netns: object) -> None:
    """Raise ArgumentError for what names no network namespace, whether there is one or not."""
    if netns is not None and not isinstance(netns, str | os.PathLike) and not hasattr(netns, "fileno"):
        _pid(netns)


def _pid(netns: object) -> int:
    try:
        return whole("a pid", netns)
    except ArgumentError:
        raise cannot_be("netns", netns, "a pid, a path, a name of `ip netns`, or an object with fileno()") from None


def _setns(fd: int, tried: str) -> None:
    try:
        setns(fd, CLONE_NEWNET)
    except OSError as refused:
        raise kernel_error("setns", refused.errno or 0, tried) from None


def entered(netns: NetNS) -> contextlib.AbstractContextManager[None]:
    """Run the block with the calling thread in `netns`; None: no change.

    Other threads stay in their namespace. /sys still shows the old one (setns does not remount it): use ioctl or
    netlink, not paths. ToolkitError in a coroutine, because other tasks run in the same thread while one awaits. (Only
    where the coroutine itself calls this: a context manager of your own that enters a namespace is not noticed there.)
    """
    if netns is None:
        return contextlib.nullcontext()
    refuse_in_coroutine(sys._getframe(1))
    return _entered(netns)


def refuse_in_coroutine(frame: FrameType) -> None:
    """Raise ToolkitError if `frame`, which is about to move its thread to another namespace, is a coroutine's."""
    if frame.f_code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        raise ToolkitError(
            f"cannot enter a network namespace in the coroutine {frame.f_code.co_name}(): the namespace is the whole "
            "thread's, so at the first await every other task of the event loop would run in it too, and open its "
            "connections there. Next step: enter it in a function (def) that does only what needs the namespace, such "
            "as making the socket, and call that from the coroutine; or Namespace.call()."
        )


@contextlib.contextmanager
def _entered(netns: int | str | os.PathLike[str] | HasFileno) -> Iterator[None]:
    held: list[int] = []  # descriptors of the target and of the first namespace
    try:
        try:
            held.append(_open(netns))
            held.append(open_own())
            _setns(held[0], f"cannot enter the network namespace {netns!r}")
            yield
        finally:
            _return(held)
    finally:
        _return(held)  # again: an interrupt may have cut the first call short


def open_own() -> int:
    """Return a new descriptor of the calling thread's network namespace. SystemCallError where /proc is hidden."""
    with explained(_UNKNOWN):
        return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def identity() -> tuple[int, int]:
    """Return what tells the calling thread's network namespace from others, while it exists: device and inode.

    SystemCallError where /proc is hidden.
    """
    with explained(_UNKNOWN):
        status = os.stat(_OWN)
    return status.st_dev, status.st_ino


def _return(held: list[int]) -> None:
    """Return to the first namespace, and close the descriptors. Repeatable."""
    if len(held) > 1:
        _setns(held[1], "cannot return to the first network namespace")
    while held:
        os.close(held.pop())


class Home:
    """The network namespace in which something was made. It can be entered later, but is not kept alive."""

    def __init__(self, netns: NetNS) -> None:
        """Record the calling thread's namespace. netns: how the caller named it, or None."""
        self._netns = netns
        self._identity = identity()

    def __eq__(self, other: object) -> bool:
        """Whether both are the same namespace."""
        return isinstance(other, Home) and self._identity == other._identity

    def __hash__(self) -> int:
        """Return the hash of the namespace."""
        return hash(self._identity)

    @contextlib.contextmanager
    def entered(self) -> Iterator[bool]:
        """Run the block in that namespace, as entered() does. False if it cannot be entered.

        The block then runs here.
        """
        with contextlib.ExitStack() as way:
            reached = False
            with contextlib.suppress(ToolkitError, OSError):
                if identity() != self._identity:
                    way.enter_context(entered(self._netns))
                reached = identity() == self._identity
            yield reached
