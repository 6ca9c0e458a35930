# SPDX-License-Identifier: Apache-2.0
"""What /proc says of the descriptors of processes, without opening anything that they hold."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

__all__ = ["descriptors", "fdinfo", "number_in", "pids"]


def pids() -> Iterator[int]:
    """Yield the processes that are to be seen, in order: none without /proc."""
    with contextlib.suppress(OSError):
        yield from sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def descriptors(pid: int) -> Iterator[tuple[int, str]]:
    """Yield (descriptor, what it is: "socket:[123]") of a process; nothing if it is gone, or not ours to see."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            yield int(name), os.readlink(f"/proc/{pid}/fd/{name}")


def fdinfo(pid: int, fd: int) -> dict[str, str]:
    """Return the lines of /proc/PID/fdinfo/FD, by name; as far as they came."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/fdinfo/{fd}") as file:
        for line in file:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def number_in(info: Mapping[str, str], name: str) -> int:
    """Return the number behind a name of fdinfo(); 0 where there is none."""
    text = info.get(name, "")
    return int(text) if text.isdigit() else 0
