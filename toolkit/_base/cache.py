# SPDX-License-Identifier: Apache-2.0
"""Compiled programs on disk, named by their content, in a directory that only its owner can write.

What is in there is loaded into the kernel, so it is trusted only if nobody else could have put it there; otherwise
programs are compiled anew each time, and a warning says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from toolkit._base.warn import warn

__all__ = ["Cache", "CacheWarning", "directory"]

MOST_ENTRIES = 256  # about 10 KB each; the least recently written go first
LARGEST_ENTRY = 64 << 20  # bytes; the largest of ours, an optimised list of hosts, has 2 MB


class CacheWarning(UserWarning):
    """The cache of compiled programs is not used; the text says why."""


def directory() -> Path | None:
    """$XDG_CACHE_HOME/afxdp-toolkit, else ~/.cache/afxdp-toolkit; None where there is no home."""
    # Under `sudo -E` both are still the caller's: root must neither trust them nor leave its files in them.
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base) and _owner(base) in (os.geteuid(), 0):
        return Path(base, "afxdp-toolkit")
    home = os.path.expanduser("~")
    with contextlib.suppress(OSError, KeyError, ImportError):
        if os.stat(home).st_uid != os.geteuid():
            import pwd

            home = pwd.getpwuid(os.geteuid()).pw_dir
    return Path(home, ".cache", "afxdp-toolkit") if os.path.isabs(home) else None


def _owner(path: str) -> int | None:
    """Who owns a directory, or the nearest one above it that is there; None if that cannot be seen."""
    with contextlib.suppress(OSError):
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        return os.stat(path).st_uid
    return None


def _distrusted(status: os.stat_result) -> str:
    """Why something on disk may hold what others wrote; empty if it cannot."""
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


class Cache:
    """The directory, opened once and then used by file descriptor, so that nobody can swap it in between."""

    def __init__(self) -> None:
        """Open the directory, making it if need be. If that fails or it cannot be trusted, warn and stay without."""
        self._fd = -1
        place = directory()
        if place is None:
            return
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as refused:
            self._warn(place, refused.strerror or str(refused))
            return
        reason = _distrusted(os.fstat(fd))
        if reason:
            os.close(fd)
            self._warn(place, reason)
            return
        self._fd = fd

    @staticmethod
    def _warn(place: Path, reason: str) -> None:
        warn(
            f"the cache {place} is not used: {reason}. Programs are compiled anew each time. "
            f"Next step: remove it, or make it yours alone (`chown`, `chmod 700`).",
            CacheWarning,
        )

    def __enter__(self) -> Cache:
        """For the length of one build."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def load(self, key: str) -> dict[str, Any] | None:
        """What was stored under `key`; None if there is nothing, nothing trusted, or something else by now."""
        if self._fd < 0:
            return None
        try:
            # Not to wait for whoever writes, should it be a pipe.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(f"{key}.json", flags, dir_fd=self._fd), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_ENTRY or _distrusted(status):
                    return None
                digest, _, text = file.read().partition(b"\n")
            if digest != _digest(text):
                return None
            entry = json.loads(text)
        except (OSError, ValueError, RecursionError):
            return None
        return entry if isinstance(entry, dict) else None

    def store(self, key: str, entry: dict[str, Any]) -> None:
        """Keep `entry` under `key`: whole or not at all, whatever else writes there. A full disk is no error."""
        if self._fd < 0:
            return
        temporary = f".{key}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
            with open(fd, "wb") as file:
                text = json.dumps(entry).encode()
                file.write(_digest(text) + b"\n" + text)
            os.replace(temporary, f"{key}.json", src_dir_fd=self._fd, dst_dir_fd=self._fd)
            self._prune()
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self._fd)

    def _prune(self) -> None:
        with os.scandir(self._fd) as entries:
            aged = sorted((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in entries)
        for _, name in aged[:-MOST_ENTRIES]:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._fd)
