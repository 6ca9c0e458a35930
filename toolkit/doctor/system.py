# SPDX-License-Identifier: Apache-2.0
"""The system: kernel, privileges, limits, libraries, and the cache of compiled programs."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import socket
import struct
import sys
import warnings
from collections.abc import Iterator

from toolkit._base.cache import Cache, CacheWarning, directory
from toolkit._base.capabilities import effective
from toolkit._base.memory import available
from toolkit.abi import libbpf as abi
from toolkit.abi.if_xdp import AF_XDP
from toolkit.doctor.compiler import examine_compiler
from toolkit.doctor.finding import Finding, note, ok, problem
from toolkit.doctor.libraries import examine_libraries
from toolkit.errors import LibraryError, confined, kernel_error

__all__ = ["examine_system", "older_than"]

_SYSTEM = "system"

# linux/capability.h: (name, bit, bits that stand in for it, what it is for, without it nothing works)
_SYS_ADMIN = 21
_CAPABILITIES = (
    ("CAP_NET_RAW", 13, (), "making AF_XDP sockets", True),
    ("CAP_NET_ADMIN", 12, (), "attaching programs, XSKMAPs, NAPI settings", True),
    ("CAP_BPF", 39, (_SYS_ADMIN,), "loading programs and maps", True),
    ("CAP_PERFMON", 38, (_SYS_ADMIN,), "loading programs of some filters", False),
    ("CAP_IPC_LOCK", 14, (), "a UMEM above the memlock limit", False),
    ("CAP_SYS_ADMIN", _SYS_ADMIN, (), "other network namespaces, and seeing whose program is attached", False),
)

_TESTED = (6, 1)  # the oldest Linux that the tests run on (docs/reference/requirements.md)
_DEFAULT_UMEM = 20 << 20  # bytes a queue, with the default rings
_COMFORTABLE = 1 << 30  # bytes of memory that leave every default as it is


def examine_system() -> Iterator[Finding]:
    """Yield all findings that are about no interface in particular."""
    yield from _python()
    yield from _kernel()
    yield from _jit()
    yield from _mounts()
    yield from _privileges()
    yield from examine_libraries()
    yield from examine_compiler()
    yield from _cache()


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        yield ok(_SYSTEM, "python", f"{platform.python_implementation()} {version}, {sys.executable}")
    else:
        text = f"Python {version} runs without the GIL, and the rings rely on the GIL"
        yield problem(_SYSTEM, "python", text, "PYTHON_GIL=1, or an ordinary CPython")


def older_than(major: int, minor: int) -> bool:
    """Whether the running kernel is older than that."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return found is not None and (int(found[1]), int(found[2])) < (major, minor)


def _kernel() -> Iterator[Finding]:
    release, machine = platform.release(), platform.machine()
    if older_than(5, 15):
        text = f"Linux {release} is older than 5.15, and lacks what the toolkit calls"
        yield problem(_SYSTEM, "kernel", text, "install Linux 6.1 or later")
    elif older_than(*_TESTED):
        text = f"Linux {release} is older than 6.1: it may work, but the toolkit is not tested on it"
        yield note(_SYSTEM, "kernel", text, "install Linux 6.1 or later")
    else:
        yield ok(_SYSTEM, "kernel", f"Linux {release}, {machine}")
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0).close()
        yield ok(_SYSTEM, "af_xdp", "the kernel has AF_XDP")
    except PermissionError:
        yield note(_SYSTEM, "af_xdp", "unknown whether the kernel has AF_XDP: no CAP_NET_RAW", "sudo xsk doctor")
    except OSError as refused:
        text = f"the kernel has no AF_XDP sockets: {refused.strerror}"
        yield problem(_SYSTEM, "af_xdp", text, "a kernel with CONFIG_XDP_SOCKETS=y, as distributions build it")


def _jit() -> Iterator[Finding]:
    """Load the smallest program, and see what the kernel made of it: not every network namespace has the sysctl."""
    try:
        compiled = _compiled()
    except OSError as refused:
        text = f"unknown whether BPF programs load and are compiled to machine code: {os.strerror(refused.errno or 0)}"
        yield note(_SYSTEM, "jit", text, "sudo xsk doctor")
        return
    except LibraryError:
        return  # the libraries have findings of their own
    if compiled:
        yield ok(_SYSTEM, "jit", "BPF programs load, and are compiled to machine code (JIT)")
    else:
        text = "BPF programs are interpreted, several times slower than machine code"
        yield note(_SYSTEM, "jit", text, "sysctl -w net.core.bpf_jit_enable=1")


def _compiled() -> bool:
    xdp_pass = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
    fd = abi.libbpf().bpf_prog_load(abi.BPF_PROG_TYPE_XDP, b"doctor", b"GPL", xdp_pass, 2, None)
    if fd < 0:
        raise kernel_error("prog_load", fd, "cannot load an XDP program")
    try:
        info, size = abi.ProgInfo(), ctypes.c_uint32(ctypes.sizeof(abi.ProgInfo))
        abi.libbpf().bpf_obj_get_info_by_fd(fd, ctypes.byref(info), ctypes.byref(size))
        return bool(info.jited_prog_len)
    finally:
        os.close(fd)


def _mounts() -> Iterator[Finding]:
    """Yield whether /proc and /sys are there, which a chroot or a container may lack."""
    if not os.path.exists("/proc/self"):
        text = (
            "/proc is not mounted here, or something hides it: no interface can be opened, and no process can be seen"
        )
        yield problem(_SYSTEM, "proc", text, "mount -t proc proc /proc")
    if not os.path.exists("/sys/kernel"):
        text = "/sys is not mounted here, or something hides it: a program that is replaced could not be put back later"
        yield note(_SYSTEM, "sys", text, "mount -t sysfs sysfs /sys && mount -t bpf bpf /sys/fs/bpf")


def _privileges() -> Iterator[Finding]:
    held = effective()
    missing = [one for one in _CAPABILITIES if not any(held >> bit & 1 for bit in (one[1], *one[2]))]
    if confined():
        text = (
            "this process is in a user namespace (a rootless container, `unshare -U`): the capabilities that it has "
            "there do not count for BPF, so no program can be loaded"
        )
        yield problem(_SYSTEM, "privileges", text, "run it as root of the machine, outside of the user namespace")
    elif not missing:
        yield ok(_SYSTEM, "privileges", "this process has all capabilities that are needed")
    for name, _, _, purpose, necessary in missing:
        if necessary:
            remedy = f"sudo, or grant it: `setpriv`, systemd's AmbientCapabilities={name}"
            yield problem(_SYSTEM, "privileges", f"{name} is missing: {purpose}", remedy)
        else:
            yield note(_SYSTEM, "privileges", f"{name} is missing: {purpose}", "sudo, if that is wanted")
    yield from _memlock(locks=bool(held >> 14 & 1) and not confined())
    yield _memory()


def _memlock(*, locks: bool) -> Iterator[Finding]:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locks:
        yield ok(_SYSTEM, "memlock", "no limit on packet memory (CAP_IPC_LOCK)")
    elif soft == resource.RLIM_INFINITY or soft >= _DEFAULT_UMEM:
        limit = "no" if soft == resource.RLIM_INFINITY else f"a {soft:,} bytes"
        yield ok(_SYSTEM, "memlock", f"{limit} limit on packet memory (memlock)")
    else:
        text = f"the memlock limit of {soft:,} bytes is less than the {_DEFAULT_UMEM:,} that a queue takes by default"
        yield problem(
            _SYSTEM, "memlock", text, "`ulimit -l unlimited`, smaller rings (`ring_size=...`), or CAP_IPC_LOCK"
        )


def _memory() -> Finding:
    found = available()
    text = f"{found.free >> 20:,} MB of memory are available; the limit is that of {found.where}"
    if found.free >= _COMFORTABLE:
        return ok(_SYSTEM, "memory", text)
    return note(
        _SYSTEM, "memory", f"only {text}; rings and buffers are smaller by default", "raise that limit, or free memory"
    )


def _cache() -> Iterator[Finding]:
    place = directory()
    if place is None:
        text = "no home directory: programs are compiled each time, which takes a quarter of a second"
        yield note(_SYSTEM, "cache", text, "set XDG_CACHE_HOME to a directory of your own")
        return
    if not os.path.lexists(place):
        yield ok(_SYSTEM, "cache", f"{place} will be made when the first program is compiled")
        return
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", CacheWarning)
        with Cache():
            pass
    if warned:
        said, _, remedy = str(warned[0].message).partition(". Programs are compiled anew each time. Next step: ")
        yield note(_SYSTEM, "cache", said, remedy.rstrip("."))
    else:
        yield ok(_SYSTEM, "cache", f"compiled programs are kept in {place}, where only this user can write")
