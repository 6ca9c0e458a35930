# SPDX-License-Identifier: Apache-2.0
"""The rotation of captures: when the next file begins, and its name, as with tcpdump's -C, -G and -W."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from toolkit._base.arguments import cannot_be, seconds, whole
from toolkit.capture.compression import SUFFIXES
from toolkit.errors import ArgumentError

__all__ = ["Names", "Rotation"]


class Rotation(NamedTuple):
    """When the next file begins. None: never."""

    size: int | None = None  # bytes, before compression
    seconds: float | None = None
    files: int | None = None

    def check(self, path: Path | None) -> None:
        """Raise ArgumentError for a rotation that is not possible with this path."""
        for name, value in (("bytes", self.size), ("files", self.files)):
            if value is not None:
                whole(f"rotate_{name}", value, 1)
        if self.seconds is not None and not seconds("rotate_seconds", self.seconds) > 0:
            raise cannot_be("rotate_seconds", self.seconds, "a number of seconds above 0")
        if path is None and (self.size or self.seconds):
            raise ArgumentError("standard output is one stream: it cannot rotate. Next step: name a file.")
        if self.files is not None and not (self.size or self.seconds):
            raise ArgumentError(
                "a number of files says nothing without a size or a time after which the next begins. "
                "Next step: give `rotate_bytes=...` or `rotate_seconds=...` with it."
            )
        if self.seconds and path is not None and "%" not in path.name and not self.size:
            raise ArgumentError(
                f"rotating by time, each file would be written over the last: {path.name} holds no time. "
                "Next step: put one in, as in capture-%Y%m%d-%H%M%S.pcapng (strftime)."
            )


class Names:
    """The file names, one after the other: with a size, the path and a number; with a time, the path by strftime."""

    def __init__(self, path: Path, rotation: Rotation) -> None:
        self._path = path
        self._rotation = rotation
        self._number = 0  # files since the last rotation by time
        self._rotations = 0  # by time
        self._dated = path  # the path, with the time filled in
        most = rotation.files if rotation.files and rotation.size else 0
        self._digits = len(str(most - 1)) if most else 0

    def first(self) -> Path:
        """Return the name of the first file."""
        return self._name()

    def by_size(self) -> Path:
        """Return the next name, when the file has become too large."""
        self._number += 1
        if self._rotation.files and self._number >= self._rotation.files:
            self._number = 0
        return self._name()

    def by_time(self) -> Path | None:
        """Return the next name, when the time is over; None after the last of rotate_files."""
        self._rotations += 1
        if not self._rotation.size and self._rotation.files and self._rotations >= self._rotation.files:
            return None
        before, number, self._number = self._dated, self._number, 0
        name = self._name()
        if self._dated != before:
            return name
        # If the name would be the same again, tcpdump overwrites its own file. Here the name gets a number instead.
        self._number = number
        return self.by_size() if self._rotation.size else before

    def expected(self) -> list[Path]:
        """Return the names that can be known beforehand."""
        if not self._rotation.size or self._rotation.seconds:
            return [self._name()]
        others = self._path.parent.glob(f"{_glob_escaped(self._stem(self._path))}[0-9]*{self._suffix(self._path)}")
        return [self._name(), *(one for one in others if self._is_numbered(one))]

    def _name(self) -> Path:
        if self._rotation.seconds:
            name = time.strftime(self._path.name)
            try:
                self._dated = self._path.with_name(name)
            except ValueError:  # a slash, from %D or %x; or an empty name
                raise ArgumentError(
                    f"{self._path.name!r} makes the file's name {name!r}, which is none. "
                    "Next step: take %Y%m%d for the date and %H%M%S for the time."
                ) from None
        return self._numbered(self._dated, self._number)

    def _numbered(self, path: Path, number: int) -> Path:
        if not number and not self._digits:
            return path
        return path.with_name(f"{self._stem(path)}{number:0{self._digits}d}{self._suffix(path)}")

    def _is_numbered(self, path: Path) -> bool:
        stem, suffix = self._stem(self._path), self._suffix(self._path)
        number = path.name[len(stem) : len(path.name) - len(suffix)]
        if not (number.isascii() and number.isdecimal()):
            return False
        return not self._digits or (len(number) == self._digits and int(number) < (self._rotation.files or 0))

    @staticmethod
    def _suffix(path: Path) -> str:
        """Return the suffix of a compression (.gz, .zst), which stays at the end of the name."""
        return path.suffix if path.suffix.lower() in SUFFIXES else ""

    def _stem(self, path: Path) -> str:
        suffix = self._suffix(path)
        return path.name[: -len(suffix)] if suffix else path.name


def _glob_escaped(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)
