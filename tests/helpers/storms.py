# SPDX-License-Identifier: Apache-2.0
"""SIGINT at random moments, and what a UMEM says after each."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from toolkit.umem.umem import UMEM


class Storm:
    """Raises SIGINT in this process at random moments, while the main thread says it may."""

    def __init__(self, seed: int = 1, longest: float = 0.002) -> None:
        self.random = random.Random(seed)
        self.longest = longest
        self.sent = 0
        self._go, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            self._go.wait()
            self._go.clear()
            if self._end.is_set():
                return
            time.sleep(self.random.random() * self.longest)
            self.sent += 1
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def strike_during(self, work: Callable[[], None]) -> bool:
        """Run `work` until a SIGINT interrupts it. False: it had ended by itself, and the SIGINT came after."""
        finished = False
        try:
            self._go.set()
            work()
            finished = True
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            pass
        return not finished

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._go.set()
        self._thread.join()


def accounted(umem: UMEM) -> dict[str, Any]:
    audit = umem.audit()
    assert sum(n for kind, n in audit.items() if kind != "frames") == audit["frames"], audit
    return audit


def strike(storm: Storm, work: Callable[[], None]) -> None:
    """Run `work`, which does not end, until a SIGINT interrupts it; raise what it raised itself, but after the SIGINT,
    which would hit pytest otherwise.
    """
    failures: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except Exception as failure:
            failures.append(failure)
            time.sleep(10)

    assert storm.strike_during(guarded)
    if failures:
        raise failures[0]
