# SPDX-License-Identifier: Apache-2.0
"""What a test must not leave: frames in use, attached programs, file descriptors, threads."""

from __future__ import annotations

import collections
import functools
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from toolkit.abi.libbpf import libbpf
from toolkit.umem.ledger import Ledger
from toolkit.umem.umem import UMEM

_SETTLED = 15.0  # seconds that what the kernel frees asynchronously may take


def _descriptors() -> collections.Counter[str]:
    """What the open file descriptors of this process stand for, without numbers that change."""
    kinds: collections.Counter[str] = collections.Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the listing itself
        kinds[target.split(":")[0] if target.startswith(("socket:", "pipe:", "net:")) else target] += 1
    return kinds


def _threads() -> set[threading.Thread]:
    # The lab starts programs from one thread that lives as long as the process.
    return {thread for thread in threading.enumerate() if not thread.name.startswith("toolkit-lab")}


class Accounts:
    """What there was before a test, and the UMEMs and links that it made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gc.collect()
        self._descriptors, self._threads = _descriptors(), _threads()
        self.umems: list[tuple[weakref.ref[UMEM], Ledger]] = []
        self.links: list[int] = []
        self.may_retire = 0  # frames that a test has the kernel keep
        make_umem, make_link = UMEM.__init__, toolkit.Link.__init__

        def note_umem(umem: UMEM, *args: Any, **options: Any) -> None:
            make_umem(umem, *args, **options)
            self.umems.append((weakref.ref(umem), umem.ledger))

        def note_link(link: toolkit.Link, *args: Any, **options: Any) -> None:
            make_link(link, *args, **options)
            self.links.append(link.id)

        monkeypatch.setattr(UMEM, "__init__", note_umem)
        monkeypatch.setattr(toolkit.Link, "__init__", note_link)

    def check(self) -> None:
        """Nothing lost, nothing left."""
        gc.collect()
        self.check_frames()
        for number in self.links:
            assert _settle(functools.partial(_link_gone, number)), f"the XDP link {number} is still there"
        assert _settle(lambda: not _descriptors() - self._descriptors), (
            f"left open: {_descriptors() - self._descriptors}"
        )
        assert _settle(lambda: _threads() <= self._threads), f"left running: {_threads() - self._threads}"

    def check_frames(self) -> None:
        """Every frame is somewhere; and free, unless a Socket still holds the UMEM (which no test should leave)."""
        for reference, ledger in self.umems:
            umem = reference()
            counts = ledger.audit()
            where = {kind: n for kind, n in counts.items() if kind != "frames" and n}
            assert sum(where.values()) == counts["frames"], f"frames were lost: {counts}"
            assert umem is None or not umem.registrations, f"a Socket is still open on {umem}"
            assert counts["retired"] <= self.may_retire, where
            assert counts["free"] + counts["retired"] == counts["frames"], (
                f"after every Socket was closed, frames are not free: {where}"
            )


def _link_gone(number: int) -> bool:
    fd = libbpf().bpf_link_get_fd_by_id(number)
    if fd >= 0:
        os.close(fd)
    return bool(fd < 0)


def _settle(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _SETTLED
    while not condition():
        if time.monotonic() > deadline:
            return False
        gc.collect()
        time.sleep(0.01)
    return True
