# SPDX-License-Identifier: Apache-2.0
"""Namespace: an anonymous network namespace, which ends with the last descriptor or process that holds it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from toolkit._base import fork
from toolkit._base.netns import entered, open_own, refuse_in_coroutine
from toolkit._base.uninterrupted import apart, uninterrupted
from toolkit.abi.libc import CLONE_NEWNET, unshare
from toolkit.errors import ClosedError, explained, kernel_error
from toolkit.lab import processes
from toolkit.net import ethtool

__all__ = ["Namespace"]

T = TypeVar("T")


class Namespace(fork.NotCopied):
    """A network namespace of its own, with `lo` up and nothing else in it.

    The descriptor is the only thing that holds it (besides the programs started in it, which `close` ends), so it
    vanishes with this object or with this process, even on SIGKILL. Methods may be called from any thread.

    Raises `PrivilegeError` without CAP_SYS_ADMIN.
    """

    @explained("cannot make a network namespace")
    def __init__(self) -> None:
        self._fd = -1  # written here, by close() and in a forked child
        self._children: list[subprocess.Popen[Any]] = []  # programs that may still run
        self.inode = 0  # the number in `ls -l /proc/PID/ns/net`; stays after close
        try:
            apart(self._unshare)  # in a thread that ends, so that no other thread is in the new namespace
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """The descriptor of the namespace (of kind /proc/PID/ns/net), valid until `close`."""
        if self._fd < 0:
            raise ClosedError(
                "this network namespace was closed, or belongs to the parent of a fork. Next step: make another one."
            )
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Run a `with` block with the calling thread in this namespace; other threads stay where they are.

        ToolkitError in a coroutine, whose other tasks would come along at the first await: use `call` there.
        """
        refuse_in_coroutine(sys._getframe(1))
        return entered(self)

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in this namespace in a thread of its own, and return or raise what it does.

        Unlike `entered`, this also serves code that must not run inside an asyncio event loop (a notebook has one).
        """

        def inside() -> T:
            with self.entered():
                return function()

        # Uninterrupted: otherwise it would continue with descriptors that its caller has closed.
        return apart(inside)

    def popen(self, arguments: Sequence[str | os.PathLike[str]], **popen: Any) -> subprocess.Popen[Any]:
        """Start an unmodified program here. It is killed when this namespace is closed or this process ends.

        It begins with the signals of a fresh login, also where this process has some blocked or ignored; but SIGHUP and
        those of job control stay ignored if they are.
        """
        self.fileno()
        self._children[:] = [child for child in self._children if child.returncode is None]
        # Uninterrupted: otherwise the program might begin after its caller has raised.
        return apart(lambda: processes.start(arguments, self, self._children, **popen), dispose=_end)

    def run(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        check: bool = False,
        timeout: float | None = None,
        input: str | bytes | None = None,
        capture_output: bool = False,
        **popen: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run an unmodified program here to its end: `subprocess.run`, inside. On any exception it is killed first."""
        if capture_output:
            popen["stdout"] = popen["stderr"] = subprocess.PIPE
        if input is not None:
            popen["stdin"] = subprocess.PIPE
        child: subprocess.Popen[Any] | None = None
        try:
            child = self.popen(arguments, **popen)
            out, err = child.communicate(input, timeout=timeout)
        except BaseException:
            if child is not None:
                _end(child)
            raise
        status = child.returncode
        if check and status:
            raise subprocess.CalledProcessError(status, list(arguments), out, err)
        return subprocess.CompletedProcess(list(arguments), status, out, err)

    def close(self) -> None:
        """Kill the programs that still run here, and close the namespace. Repeatable."""
        uninterrupted(self._close)

    def _close(self) -> None:
        children, self._children = self._children, []
        for child in children:
            if child.poll() is None:
                child.kill()
        for child in children:
            child.wait()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _unshare(self) -> None:
        """Move the calling thread, which must be a temporary one, to a new namespace, and keep its descriptor."""
        try:
            unshare(CLONE_NEWNET)
        except OSError as refused:
            raise kernel_error(
                "unshare",
                refused.errno or 0,
                "cannot make a network namespace",
                cause="network namespaces need CAP_SYS_ADMIN, and a kernel with CONFIG_NET_NS",
                remedy="run as root (sudo)",
            ) from None
        self._fd = open_own()
        self.inode = os.fstat(self._fd).st_ino
        fork.track(self)
        ethtool.set_up("lo")

    def _after_fork_in_child(self) -> None:
        fd, self._fd, self._children = self._fd, -1, []
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The object cannot be used any more; an interpreter that is shutting down may have lost `os` already.
        with contextlib.suppress(Exception):
            self._close()

    def __repr__(self) -> str:
        return f"<Namespace net:[{self.inode}]{' closed' if self.closed else ''}>"


def _end(child: subprocess.Popen[Any]) -> None:
    """Kill a program, and read its remaining output."""
    child.kill()
    child.communicate()
