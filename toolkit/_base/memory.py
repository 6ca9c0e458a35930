# SPDX-License-Identifier: Apache-2.0
"""How much memory this process may use, by the machine, by all cgroups above it, and by its own limits.

A process that uses more than the machine has waits, or is refused; one that uses more than its cgroup has is killed. So
every default size that depends on memory is computed here.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Memory", "affordable", "available"]

_ROOT = Path("/")
_PART = 4  # one buffer may by default use a quarter of the free memory, since there are others
_NONE = 1 << 60  # bytes: a limit of this or more means none; cgroup v1 writes 2**63 minus a page


class Memory(NamedTuple):
    """One limit of memory, and how much is left."""

    total: int  # bytes
    free: int  # bytes left; the kernel's caches count as free
    where: str  # what sets the limit, as text


def available() -> Memory:
    """Return the least `free` of all limits, with its `where`, and the smallest `total`."""
    limits = [*_machine(), *_cgroups(), *_own()]
    if not limits:
        return Memory(_NONE, _NONE, "nothing that is known")
    tightest = min(limits, key=lambda limit: limit.free)
    return tightest._replace(total=min(limit.total for limit in limits))


def affordable(wanted: int, least: int) -> int:
    """Return `wanted` bytes, but at most a quarter of the memory that is left, and `least` at least."""
    return max(min(wanted, available().free // _PART), least)


def _machine() -> Iterator[Memory]:
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        text = (_ROOT / "proc/meminfo").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        total, free = (int(fields[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
        yield Memory(total, free, "this machine")


def _own() -> Iterator[Memory]:
    """Yield the process's own limits (`ulimit -v`, `ulimit -d`): of address space, whether it is used or not."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = (_ROOT / "proc/self/statm").read_text().split()
        page = os.sysconf("SC_PAGE_SIZE")
        kinds = ((resource.RLIMIT_AS, 0, "ulimit -v"), (resource.RLIMIT_DATA, 5, "ulimit -d"))
        for kind, field, name in kinds:
            soft, _ = resource.getrlimit(kind)
            if soft != resource.RLIM_INFINITY:
                yield Memory(soft, max(soft - int(fields[field]) * page, 0), name)


def _cgroups() -> Iterator[Memory]:
    """Yield every limit from the process's own cgroup up to the visible root, for both versions of cgroups."""
    for version, top, path in _hierarchies():
        place = top / path.lstrip("/")
        if not (place == top or top in place.parents) or ".." in place.parts or not place.is_dir():
            place = top  # in a cgroup namespace: the mount begins at our cgroup
        while True:
            yield from _limits(version, place)
            if place == top:
                break
            place = place.parent


def _hierarchies() -> Iterator[tuple[int, Path, str]]:
    """Yield (version, mount point, path of our cgroup below it) of each hierarchy that may limit memory."""
    try:
        ours = [line.split(":", 2) for line in (_ROOT / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (_ROOT / "proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return
    for fields in mounts:
        with contextlib.suppress(ValueError, IndexError):  # a malformed line
            kind, _, options = fields[fields.index("-", 6) + 1 :]
            begins, point = fields[3], fields[4].replace("\\040", " ")
            for _, controllers, path in ours:
                second = kind == "cgroup2" and not controllers
                first = kind == "cgroup" and "memory" in options.split(",") and "memory" in controllers.split(",")
                if first or second:
                    if begins != "/" and (path + "/").startswith(begins + "/"):
                        path = path[len(begins) :]  # Docker mounts only a part of the hierarchy
                    yield 2 if second else 1, _ROOT / point.lstrip("/"), path


def _limits(version: int, place: Path) -> Iterator[Memory]:
    names = ("memory.max", "memory.high") if version == 2 else ("memory.limit_in_bytes",)
    used_name = "memory.current" if version == 2 else "memory.usage_in_bytes"
    for name in names:
        with contextlib.suppress(OSError, ValueError):  # "max", or no such file, as in the root cgroup
            total = int((place / name).read_text())
            if total < _NONE:
                used = int((place / used_name).read_text()) - _caches(version, place)
                yield Memory(total, max(total - max(used, 0), 0), f"the cgroup {place} ({name})")


def _caches(version: int, place: Path) -> int:
    """Return the bytes of cached files, which the kernel drops before it kills a process."""
    prefix = "total_" if version == 1 else ""
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    with contextlib.suppress(OSError, ValueError):
        lines = [line.split() for line in (place / "memory.stat").read_text().splitlines()]
        return sum(int(fields[1]) for fields in lines if fields[0] in wanted)
    return 0
