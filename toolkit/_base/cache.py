# SPDX-License-Identifier: Apache-2.0
"""Cache: compiled programs on disk, named by a hash of their content, in a directory that only its owner can write.

Its entries are loaded into the kernel, so they are used only if no other user could have written them. Otherwise
programs are compiled each time, and a CacheWarning says so.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit._base.warn import warn

__all__ = ["Cache", "CacheWarning", "directory", "sha256"]

MOST_ENTRIES = 512  # two a program, about 10 KB each; the oldest are removed first
LARGEST_ENTRY = 64 << 20  # bytes; the largest known, an optimised list of hosts, has 2 MB


def _sha256() -> Callable[..., Any]:
    """Return SHA-256 without OpenSSL, which hashlib loads: 3 ms and 3 MB, for the hashes of a few small files."""
    for name in ("_sha2", "_sha256"):  # Python's own, from 3.12 on and before
        with contextlib.suppress(ImportError, AttributeError):
            own: Callable[..., Any] = importlib.import_module(name).sha256
            return own
    import hashlib

    return hashlib.sha256


sha256 = _sha256()


class CacheWarning(UserWarning):
    """The cache of compiled programs is not used; the text says why."""


def directory() -> Path | None:
    """Return $XDG_CACHE_HOME/afxdp-toolkit, else ~/.cache/afxdp-toolkit; None without a home directory."""
    # Under `sudo -E` both are the caller's: root must neither trust them nor write to them.
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
    """Return the owner (uid) of a directory, or of the nearest existing one above it; None if that is not readable."""
    with contextlib.suppress(OSError):
        while not os.path.lexists(path):
            path = os.path.dirname(path)
        return os.stat(path).st_uid
    return None


def _distrusted(status: os.stat_result) -> str:
    """Return why another user may have written to a file or directory; empty if none can."""
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _digest(text: bytes) -> bytes:
    digest: str = sha256(text).hexdigest()
    return digest.encode()


class Cache:
    """The cache directory. It is opened once and used by its descriptor, so that it cannot be replaced in between."""

    def __init__(self) -> None:
        """Open or make the directory. If that fails, or it is not safe, warn and work without a cache."""
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
        remedy = "set XDG_CACHE_HOME to a directory that you may write to"
        if os.path.lexists(place):
            remedy = f"make it yours alone (`chown`, `chmod 700`), or remove it: `rm -r {place}`"
        warn(
            f"the cache {place} is not used: {reason}. Programs are compiled anew each time. Next step: {remedy}.",
            CacheWarning,
        )

    def __enter__(self) -> Cache:
        """Close the directory at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def load(self, key: str) -> dict[str, Any] | None:
        """Return the entry stored under `key`; None if there is none, or it is not safe or damaged."""
        if self._fd < 0:
            return None
        try:
            # O_NONBLOCK: if it is a FIFO, open() must not wait for a writer.
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
        """Store `entry` under `key`, whole or not at all, even with concurrent writers. A failure is ignored."""
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
