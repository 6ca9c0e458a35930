# SPDX-License-Identifier: Apache-2.0
"""System calls that Python's `os` does not have, or not in 3.10. They raise OSError with the kernel's errno."""

from __future__ import annotations

import ctypes
import functools
import os

from toolkit.abi.shared_library import declare

__all__ = [
    "CLONE_NEWNET",
    "FALLOC_FL_KEEP_SIZE",
    "MAP_FIXED_NOREPLACE",
    "PIPES",
    "PR_CAP_AMBIENT",
    "PR_CAP_AMBIENT_RAISE",
    "PR_SET_PDEATHSIG",
    "PollFD",
    "capget",
    "capset",
    "fallocate",
    "libc",
    "libc_with_gil",
    "madvise",
    "mmap",
    "munmap",
    "prctl",
    "room_for",
    "sched_yield",
    "setns",
    "syscall",
    "unshare",
]

CLONE_NEWNET = 0x40000000  # linux/sched.h
FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
MAP_FIXED_NOREPLACE = 0x100000  # asm-generic/mman-common.h
PIPES = 8  # descriptors that subprocess needs for three pipes and one of its own, for a moment
PR_SET_PDEATHSIG, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 47, 2  # linux/prctl.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: 64 capabilities, in two words each


@functools.cache
def libc() -> ctypes.CDLL:
    """Return this process's C library, with its functions declared. Calls release the GIL and keep errno.

    The first call takes the dynamic linker's lock, which another thread may hold at the moment of a fork. So code that
    uses these functions in a forked child calls libc() before the fork.
    """
    library = ctypes.CDLL(None, use_errno=True)
    integer, size, pointer, offset = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int64
    declare(library, "capget", integer, (pointer, pointer))
    declare(library, "capset", integer, (pointer, pointer))
    declare(library, "fallocate", integer, (integer, integer, offset, offset))
    declare(library, "madvise", integer, (pointer, size, integer))
    declare(library, "mmap", ctypes.c_ssize_t, (pointer, size, integer, integer, integer, offset))
    declare(library, "munmap", integer, (pointer, size))
    declare(library, "prctl", integer, (integer, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong))
    declare(library, "sched_yield", integer, ())
    declare(library, "setns", integer, (integer, integer))
    declare(library, "syscall", ctypes.c_long, (ctypes.c_long,))
    declare(library, "unshare", integer, (integer,))
    return library


class PollFD(ctypes.Structure):
    """struct pollfd of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


@functools.cache
def libc_with_gil() -> ctypes.PyDLL:
    """Return the C library for system calls of a spinning thread: they do not block, and keep the GIL.

    A thread that releases the GIL every few microseconds and takes it back at once starves others: each release wakes
    them, too late to take it, and begins their wait for the interpreter's switch interval anew. If it keeps the GIL,
    the interval passes, and the interpreter makes it yield (CPython: take_gil()).
    """
    library = ctypes.PyDLL(None, use_errno=True)
    declare(library, "poll", ctypes.c_int, (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int))
    declare(library, "recv", ctypes.c_ssize_t, (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int))
    return library


def _checked(status: int) -> int:
    if status == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return status


def capget() -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of the calling thread: a bit for each."""
    header, words = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _checked(libc().capget(header, words))
    effective, permitted, inheritable = (words[i] | words[i + 3] << 32 for i in range(3))
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capabilities of the calling thread."""
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (effective, permitted, inheritable)
    words = (ctypes.c_uint32 * 6)(*(one & 0xFFFFFFFF for one in sets), *(one >> 32 for one in sets))
    _checked(libc().capset(header, words))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate (mode 0, FALLOC_FL_KEEP_SIZE) or free blocks of a file, `length` bytes from `offset`."""
    _checked(libc().fallocate(fd, mode, offset, length))


def madvise(address: int, length: int, advice: int) -> None:
    """Advise the kernel about memory that is not an mmap.mmap object."""
    _checked(libc().madvise(address, length, advice))


def mmap(address: int, length: int, protection: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """Map memory at a given address, which mmap.mmap cannot do; return the address."""
    return _checked(libc().mmap(address, length, protection, flags, fd, offset))


def munmap(address: int, length: int) -> None:
    """Unmap memory that is not an mmap.mmap object."""
    _checked(libc().munmap(address, length))


def prctl(option: int, argument: int, more: int = 0) -> int:
    """Call prctl(2): change a property of the calling thread or its process."""
    return _checked(libc().prctl(option, argument, more, 0, 0))


def room_for(descriptors: int) -> None:
    """Raise OSError (EMFILE, ENFILE) unless this process may open that many more descriptors.

    To be called before subprocess: until Python 3.12, it leaks the pipes that it has made when it cannot make the next.
    """
    taken: list[int] = []
    try:
        while len(taken) < descriptors:
            taken.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
    finally:
        for fd in taken:
            os.close(fd)


def sched_yield() -> None:
    """Yield this CPU to other threads, of this process too: os.sched_yield() keeps the GIL in some versions."""
    _checked(libc().sched_yield())


def setns(fd: int, kind: int) -> None:
    """Move the calling thread to the namespace that `fd` refers to. kind: CLONE_NEWNET."""
    _checked(libc().setns(fd, kind))


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call for which the C library has no function. Integers are passed as longs, bytes by address."""
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(libc().syscall(number, *words))


def unshare(kind: int) -> None:
    """Move the calling thread to a new namespace. kind: CLONE_NEWNET."""
    _checked(libc().unshare(kind))
