# SPDX-License-Identifier: Apache-2.0
"""A network interface's directory in sysfs, in the calling thread's network namespace.

What is mounted on /sys shows the namespace that was current when it was mounted, whatever setns() does. So this makes a
mount of its own that stands nowhere in the file system, and is gone with its descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from toolkit._base.descriptor import Descriptor
from toolkit.abi.libc import syscall
from toolkit.errors import SystemCallError, kernel_error

__all__ = ["InterfaceDirectory"]

# Numbers that every architecture shares (Linux 5.2).
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6


class InterfaceDirectory:
    """The directory /sys/class/net/NAME; it stays with the device, through other namespaces and new names.

    Closed by garbage collection and in a forked child as well; then reading raises ClosedError.
    """

    def __init__(self, interface: str) -> None:
        """Find it in the calling thread's network namespace. SystemCallError: ENODEV, EPERM, EACCES."""
        self._descriptor = Descriptor(_open(interface), f"the sysfs directory of {interface}")

    def read(self, name: str) -> int:
        """Return the number in the file `name`. OSError (ENODEV, ENOENT) once the device is gone."""
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptor.fd)
        try:
            return int(os.read(fd, 64))
        finally:
            os.close(fd)

    def write(self, name: str, value: int) -> None:
        """Write a number to the file `name`. OSError, as the kernel gives it."""
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._descriptor.fd)
        try:
            os.write(fd, b"%d\n" % value)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the directory. Repeatable."""
        self._descriptor.close()


def _open(interface: str) -> int:
    tried = f"cannot open the sysfs directory of {interface}"
    try:
        root = _mount()
    except OSError as refused:
        if not _at_home() or not _shows(interface):
            raise kernel_error(
                "sysfs",
                refused.errno or errno.EPERM,
                f"{tried} in this network namespace",
                cause="/sys shows another one, and a mount of sysfs for this one needs CAP_SYS_ADMIN",
                remedy="run as root (sudo)",
            ) from None
        root = os.open("/sys", os.O_PATH | os.O_CLOEXEC)
    try:
        return os.open(f"class/net/{interface}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except OSError as refused:
        raise _refused(refused, tried) from None
    finally:
        os.close(root)


def _refused(refused: OSError, tried: str) -> SystemCallError:
    number = errno.ENODEV if refused.errno == errno.ENOENT else refused.errno or errno.EIO
    return kernel_error("sysfs", number, tried)


def _mount() -> int:
    """Mount sysfs for the calling thread's network namespace, nowhere; the descriptor of its root."""
    context = syscall(_SYS_FSOPEN, b"sysfs", _FSOPEN_CLOEXEC)
    try:
        syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _at_home() -> bool:
    """Whether the calling thread is in the network namespace of the process: what /sys shows, as far as we know."""
    return os.stat("/proc/thread-self/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino


def _shows(interface: str) -> bool:
    """Whether /sys shows the network namespace that the calling thread is in: its interfaces, with their numbers.

    A process that was started in another one, say by `nsenter --net`, still has the first one's /sys. Where the
    interface is not in this namespace either, there is nothing to tell apart.
    """
    with contextlib.suppress(OSError):
        socket.if_nametoindex(interface)
        here = {name: index for index, name in socket.if_nameindex()}
        there = {}
        for name in os.listdir("/sys/class/net"):
            with contextlib.suppress(OSError, ValueError), open(f"/sys/class/net/{name}/ifindex") as file:
                there[name] = int(file.read())
        return here == there
    return True
