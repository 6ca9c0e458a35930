# SPDX-License-Identifier: Apache-2.0
"""Access: who may read the files and directories that are written."""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from toolkit._base.arguments import cannot_be, whole
from toolkit.errors import ArgumentError

__all__ = ["Access", "access_of"]

_BITS = 0o666  # permission bits that a file may have


class Access(NamedTuple):
    """Who may read the files that are written."""

    mode: int | None = None  # permission bits of a file; None: 0600, or 0640 with a group
    group: int | None = None  # gid; None: the file system's choice

    @property
    def bits(self) -> int:
        """Permission bits of a file; the umask is not applied."""
        if self.mode is not None:
            return self.mode
        return 0o600 if self.group is None else 0o640

    @property
    def directory_bits(self) -> int:
        """Permission bits of a directory for such files: users who may read the files may list and enter it."""
        return 0o700 | self.bits | (self.bits & 0o444) >> 2

    def apply(self, fd: int, bits: int) -> None:
        """Set group and permissions of a new file or directory that is open as `fd`. OSError when that is refused."""
        if self.group is not None:
            os.fchown(fd, -1, self.group)
        if stat.S_IMODE(os.fstat(fd).st_mode) & 0o777 == bits:
            return
        try:
            os.fchmod(fd, bits | os.fstat(fd).st_mode & stat.S_ISGID)
        except OSError as refused:
            # A file system without permissions (vfat, exFAT): its mount options decide.
            if self != Access() or refused.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise


def access_of(mode: int | None, group: str | int | None) -> Access:
    """Return the Access for a user's arguments. ArgumentError for a bad mode, or an unknown group."""
    if mode is not None:
        mode = whole("mode", mode)
        if mode & ~_BITS or mode & 0o600 != 0o600:
            raise ArgumentError(
                f"mode cannot be {mode:#o}: the owner of the file reads and writes it, and nobody executes it. Next "
                "step: give 0o600, 0o640 (its group may read it) or 0o644 (everybody may)."
            )
    if group is None or isinstance(group, int):
        return Access(mode, None if group is None else _number(whole("group", group)))
    import grp  # only where a group is named

    try:
        return Access(mode, grp.getgrnam(group).gr_gid)
    except (KeyError, ValueError, TypeError):
        if isinstance(group, str) and group.isascii() and group.isdecimal():
            return Access(mode, _number(int(group)))
        raise ArgumentError(f"there is no group {group!r}. Next step: `getent group` lists them.") from None


def _number(group: int) -> int:
    if not 0 <= group < 1 << 32 - 1:
        raise cannot_be("group", group, "the name of a group, or its number")
    return group
