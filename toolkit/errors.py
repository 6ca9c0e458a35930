# SPDX-License-Identifier: Apache-2.0
"""What went wrong, in the user's words.

Every refusal of the kernel, libxdp, libbpf or BCC becomes one of the exceptions below. Its text says what was tried
and where, the likely cause, and the next step, in that order. Where there is an errno the exception is an `OSError`
that carries it.

A next step that is an argument is written as Python has it, whole and in backquotes: `replace=True`. No message outside
`toolkit.cli` names an option of a command. The command puts its own spelling in the place of each such argument, by the
table in `toolkit.cli.spelling`; a unit test holds that every argument named in this way has a line there.
"""

from __future__ import annotations

import contextlib as _contextlib
import errno as _errno
import os
import re as _re
from collections.abc import Iterator

__all__ = [
    "ArgumentError",
    "ClosedError",
    "CompileError",
    "DetachedError",
    "DeviceGoneError",
    "FilterError",
    "FrameError",
    "LibraryError",
    "NotSupportedError",
    "PrivilegeError",
    "RecordedError",
    "RecordedWarning",
    "StaleBatchError",
    "SystemCallError",
    "ToolkitError",
    "VerifierError",
]


# The end of what is said of a ring that names what it cannot name.
RING_LIES = (
    "Likely cause: a fault of the driver, or of something else that writes to this ring. Next step: close the Socket "
    "and open it again; its frames are free then."
)


class ToolkitError(Exception):
    """Base of every exception that the toolkit raises on purpose."""


class ArgumentError(ToolkitError, ValueError):
    """An argument that no kernel would accept: refused before anything was changed."""


class FrameError(ToolkitError, ValueError):
    """A frame address that is foreign, freed already, named twice, or has another owner; a descriptor that leaves
    its frame; a ring whose other side wrote what it cannot have written.
    """


class ClosedError(ToolkitError, ValueError):
    """The object was closed, or belongs to the parent of a fork."""


class StaleBatchError(ClosedError):
    """The Batch's frames went back to the kernel: it cannot be used any more."""


class FilterError(ToolkitError, ValueError):
    """A filter expression that libpcap refuses; the text is libpcap's own."""


class LibraryError(ToolkitError, ImportError):
    """A library that is missing, too old, or not what its name says."""


class RecordedError(ToolkitError, ValueError):
    """A recorded file that cannot be read, or not from some place on."""


class RecordedWarning(UserWarning):
    """What a reader of a recorded file should know: its end was cut off, packets were left out."""


class CompileError(ToolkitError):
    """A C error in an XDP program; the text is clang's."""


class SystemCallError(ToolkitError, OSError):
    """The kernel, or a library on its behalf, said no. `errno` is the kernel's number."""


class PrivilegeError(SystemCallError, PermissionError):
    """A capability or limit is missing."""


class NotSupportedError(SystemCallError):
    """This kernel, driver or library cannot do what was asked."""


class DeviceGoneError(SystemCallError):
    """What packets came from is gone while it was in use: the interface went down, was deleted, or was moved away."""


class DetachedError(DeviceGoneError):
    """The interface is there, but another process took the XDP program off it, or put another one in its place."""


class VerifierError(SystemCallError):
    """The kernel's verifier refused a program. `log` is its whole log."""

    def __init__(self, number: int, message: str, log: str = "") -> None:
        super().__init__(number, message)
        self.log: str = log


# (call, errno) -> (likely cause, next step). A call of "" serves every call that has no line of its own. A command with
# {interface} in it stands at the end, behind a colon: it is left out where the interface is not known.
_CAUSES: dict[tuple[str, int], tuple[str, str]] = {
    ("", _errno.ENODEV): ("there is no such interface in this network namespace", "list the interfaces with `ip link`"),
    ("", _errno.EMFILE): ("this process has as many descriptors open as it may", "close some, or raise `ulimit -n`"),
    ("", _errno.ENFILE): ("the machine has as many files open as it may", "close some, or raise fs.file-max (sysctl)"),
    ("", _errno.EAGAIN): (
        "as many processes and threads run as may (`ulimit -u`, the cgroup's pids.max)",
        "end some, or raise the limit",
    ),
    ("library", _errno.EACCES): (
        "this user may not read the file, or its file system is mounted noexec",
        "check the mode of the file (`ls -l`) and the options of its mount (`findmnt -T`)",
    ),
    ("memory", _errno.ENOMEM): (
        "it is more than the machine has, or than this process may have (`ulimit -v`, its cgroup)",
        "ask for fewer queues, frames or slots, or for smaller rings; or raise the limit",
    ),
    ("", _errno.ENOMEM): ("the kernel has no memory for this request", "ask for fewer frames or smaller rings"),
    ("", _errno.ENETDOWN): ("the interface is down", "bring it up: `ip link set dev {interface} up`"),
    ("", _errno.ENXIO): ("the interface or its queue is gone", "check `ip link`, then open it again"),
    ("socket", _errno.EAFNOSUPPORT): (
        "this kernel was built without AF_XDP",
        "use a kernel with CONFIG_XDP_SOCKETS=y (Linux 6.1 or later, as distributions build it)",
    ),
    ("umem", _errno.ENOBUFS): (
        "the UMEM is larger than RLIMIT_MEMLOCK and the process has no CAP_IPC_LOCK",
        "ask for fewer frames, raise the limit (`ulimit -l`), or run as root",
    ),
    ("umem", _errno.EINVAL): (
        "the kernel refuses this frame size, frame count or headroom",
        "take a frame_size of 2048 or 4096, and a UMEM of one page at least",
    ),
    ("bind", _errno.EBUSY): (
        "another AF_XDP socket holds this queue",
        "close that socket, or take another queue",
    ),
    ("bind", _errno.EINVAL): (
        "the interface has no such queue, or refuses these flags",
        "list its queues: `ethtool -l {interface}`",
    ),
    ("bind", _errno.EOPNOTSUPP): (
        "the driver cannot do zero-copy on this queue",
        "take copy mode: `zero_copy=False`",
    ),
    ("attach", _errno.EBUSY): (
        "an XDP program is attached already",
        "detach that program, or take its place until the end: `replace=True`",
    ),
    ("attach", _errno.EEXIST): (
        "an XDP program is attached already in another mode",
        "detach that program, or take its place until the end: `replace=True`",
    ),
    ("attach", _errno.EOPNOTSUPP): (
        "the driver cannot run XDP programs natively",
        'take generic mode: `mode="generic"`',
    ),
    ("write", _errno.ENOSPC): (
        "the disk is full",
        "free some space, or bound the capture with `rotate_bytes=...` and `rotate_files=...`, `snaplen=...` or "
        "`compress=...`; what was written before can be read",
    ),
    ("write", _errno.EDQUOT): (
        "your disk quota is used up",
        "free some space, or write elsewhere; what was written before can be read",
    ),
    ("write", _errno.EFBIG): (
        "the file is as large as it may be here (`ulimit -f`)",
        "raise the limit, or begin a new file in time with `rotate_bytes=...`; what was written before can be read",
    ),
    ("write", _errno.EPIPE): (
        "the program that read the pipe has ended",
        "start both again, with a reader that reads to the end",
    ),
    ("write", _errno.EEXIST): (
        "it is there already",
        "take another name, or replace it: `force=True`",
    ),
    ("write", _errno.ENOENT): ("its directory does not exist", "make the directory first"),
    ("write", _errno.EISDIR): ("it is a directory", "name a file in it"),
    ("write", _errno.ENXIO): (
        "no process reads this pipe (or it is a socket)",
        "start the program that reads it first",
    ),
    ("write", _errno.EROFS): ("the file system is read-only", "write elsewhere"),
    ("write", _errno.EACCES): ("no permission to write there", "write elsewhere, or ask the owner of the directory"),
    ("write", _errno.EPERM): ("no permission to write there", "write elsewhere, or ask the owner of the directory"),
    ("write_memory", _errno.ENOMEM): (
        "it is more than the machine has, or than this process may have (`ulimit -v`)",
        "let less wait for the disk: `Queueing(limit=...)`",
    ),
}

# call -> (likely cause, next step) where the kernel answers EPERM or EACCES for want of a privilege.
_PRIVILEGES: dict[str, tuple[str, str]] = {
    "": ("a privilege is missing", "run as root (sudo)"),
    "socket": ("AF_XDP sockets need CAP_NET_RAW", "run as root (sudo), or grant CAP_NET_RAW"),
    "umem": ("AF_XDP sockets need CAP_NET_RAW", "run as root (sudo), or grant CAP_NET_RAW"),
    "bind": ("AF_XDP sockets need CAP_NET_RAW", "run as root (sudo), or grant CAP_NET_RAW"),
    "map_create": (
        "BPF maps need CAP_BPF, and an XSKMAP CAP_NET_ADMIN as well",
        "run as root (sudo), or grant CAP_BPF and CAP_NET_ADMIN",
    ),
    "prog_load": (
        "loading an XDP program needs CAP_BPF and CAP_NET_ADMIN",
        "run as root (sudo), or grant CAP_BPF and CAP_NET_ADMIN",
    ),
    "promisc": ("promiscuous mode needs CAP_NET_RAW", "run as root (sudo), or grant CAP_NET_RAW"),
    "setns": ("entering a network namespace needs CAP_SYS_ADMIN", "run as root (sudo)"),
}
_NAMED_COMMAND = _re.compile(r": `[^`]*\{interface\}[^`]*`")
_CONFINED = (
    "this process is in a user namespace (a rootless container, `unshare -U`), and its capabilities do not count "
    "outside of that",
    "run it as root of the machine, outside of the user namespace",
)
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO: the inode of the first user namespace of every kernel

# ENOTSUP and EOPNOTSUPP are one number on Linux; kernel people write the second.
_NAMES: dict[int, str] = {**_errno.errorcode, _errno.EOPNOTSUPP: "EOPNOTSUPP"}

_CLASSES: dict[int, type[SystemCallError]] = {
    _errno.EPERM: PrivilegeError,
    _errno.EACCES: PrivilegeError,
    _errno.EOPNOTSUPP: NotSupportedError,
    _errno.ENOSYS: NotSupportedError,
    _errno.EAFNOSUPPORT: NotSupportedError,
}


def confined() -> bool:
    """Whether this process is in a user namespace, so that its capabilities do not count for BPF. False without /proc.

    Inside, /proc/self/status shows every capability as held.
    """
    try:
        return os.stat("/proc/self/ns/user").st_ino != _INITIAL_USER_NAMESPACE
    except OSError:
        return False


def hidden(refused: OSError) -> tuple[str, str]:
    """Return likely cause and next step where a file is missing because all of /proc or /sys is; else two times ""."""
    for place, kind, always in (("/proc", "proc", "/proc/self"), ("/sys", "sysfs", "/sys/kernel")):
        if str(refused.filename).startswith(f"{place}/") and not os.path.exists(always):
            return f"{place} is not mounted here, or something hides it", f"mount it: `mount -t {kind} {kind} {place}`"
    return "", ""


# The next step where neither the caller nor a table knows one.
_LAST_STEPS = {"write": "write to another place; the kernel's log may say more (`dmesg | tail`)"}
_LAST_STEP = "read the end of the kernel's log, which may say more (`dmesg | tail`)"


def _known(call: str, number: int) -> tuple[str, str]:
    """Return the likely cause and the next step that the tables have for a refused `call`, or two empty texts."""
    if found := _CAUSES.get((call, number)):
        return found
    if number in (_errno.EPERM, _errno.EACCES):
        return _CONFINED if confined() else _PRIVILEGES.get(call, _PRIVILEGES[""])
    return _CAUSES.get(("", number), ("", ""))


def _with_name(remedy: str, interface: str) -> str:
    """Put the interface's name into the commands of a remedy; without one, leave such a command out."""
    if not interface:
        return _NAMED_COMMAND.sub("", remedy)
    return remedy.replace("{interface}", interface)


def kernel_error(
    call: str, number: int, tried: str, *, cause: str = "", remedy: str = "", interface: str = ""
) -> SystemCallError:
    """Build the exception for a refused `call` ("bind", "umem", "attach", ...).

    `number` is the errno, positive or negative. `tried` says what was tried and where, as the start of a sentence
    ("cannot bind to queue 3 of veth0"). `cause` and `remedy` overrule the table's. `interface`: the name that commands
    in the remedy have, where one is known.
    """
    number = abs(number)
    known_cause, known_remedy = _known(call, number)
    cause, remedy = cause or known_cause, remedy or _with_name(known_remedy, interface)
    text = f"{tried}: {os.strerror(number)} ({_NAMES.get(number, number)})"
    if cause:
        text += f". Likely cause: {cause}"
    text += f". Next step: {remedy or _LAST_STEPS.get(call, _LAST_STEP)}."
    return _CLASSES.get(number, SystemCallError)(number, text)


def closed_error(what: str) -> ClosedError:
    """Build the exception for the use of what was closed, or is a parent's. `what`: "the socket on veth0 is closed"."""
    here = " in this process" if "fork" in what else ""
    return ClosedError(f"{what}. Next step: open it again{here}.")


@_contextlib.contextmanager
def explained(tried: str) -> Iterator[None]:
    """Raise what the kernel refuses in this block as a sentence, unless it is one already.

    `tried` is its beginning, as for kernel_error(). So is memory, or a thread, that Python did not get.
    """
    try:
        yield
    except ToolkitError:
        raise
    except MemoryError as refused:
        raise kernel_error("memory", _errno.ENOMEM, tried) from refused
    except OSError as refused:
        if refused.errno is None:
            raise
        call = "memory" if refused.errno == _errno.ENOMEM else ""
        cause, remedy = hidden(refused)
        raise kernel_error(call, refused.errno, tried, cause=cause, remedy=remedy) from refused
    except RuntimeError as refused:
        if "start new thread" not in str(refused):
            raise
        raise kernel_error("", _errno.EAGAIN, f"{tried}: cannot start a thread") from refused


def write_error(refused: OSError, name: str, tried: str = "write to") -> SystemCallError:
    """Build the exception for what the kernel said about a file called `name`; one of ours stays as it is."""
    if isinstance(refused, SystemCallError):
        return refused
    return kernel_error("write", refused.errno or _errno.EIO, f"cannot {tried} {name}")


def removed_error(name: str) -> SystemCallError:
    """Build the exception for a file that was removed while it was written: what it holds cannot be read any more."""
    return kernel_error(
        "write",
        _errno.ENOENT,
        f"{name} was lost",
        cause="another process removed it, or put another file in its place, while it was written",
        remedy="leave a file alone until it is complete; to keep the newest only, rotate with a number of files",
    )
