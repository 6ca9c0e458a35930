# SPDX-License-Identifier: Apache-2.0
"""System calls through the C library: what is done, and that a refusal is never silent."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from toolkit.abi import libc


def test_blocks_are_taken_behind_the_end(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        try:
            libc.fallocate(file.fileno(), libc.FALLOC_FL_KEEP_SIZE, 0, 1 << 20)
        except OSError as refused:
            pytest.skip(f"the file system of the temporary directory has no fallocate(): {refused}")
        found = os.fstat(file.fileno())
    assert found.st_size == 0
    assert found.st_blocks * 512 >= 1 << 20


def test_positions_beyond_four_gigabytes(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        try:
            libc.fallocate(file.fileno(), 0, 5 << 30, 4096)
        except OSError as refused:
            pytest.skip(f"the file system of the temporary directory has no fallocate(): {refused}")
        assert os.fstat(file.fileno()).st_size == (5 << 30) + 4096


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda: libc.fallocate(-1, 0, 0, 1), errno.EBADF),
        (lambda: libc.mmap(0, 4096, 0, 0), errno.EBADF),
        (lambda: libc.munmap(1, 4096), errno.EINVAL),
        (lambda: libc.prctl(-1, 0), errno.EINVAL),
        (lambda: libc.setns(-1, libc.CLONE_NEWNET), errno.EBADF),
        (lambda: libc.syscall(sys.maxsize), errno.ENOSYS),
        (lambda: libc.unshare(1), errno.EINVAL),
    ],
    ids=["fallocate", "mmap", "munmap", "prctl", "setns", "syscall", "unshare"],
)
def test_a_refusal_carries_the_kernels_number(call: object, number: int) -> None:
    assert callable(call)
    with pytest.raises(OSError, match=os.strerror(number)) as refused:
        call()
    assert refused.value.errno == number
