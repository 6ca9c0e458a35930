# SPDX-License-Identifier: Apache-2.0
"""Work in a forked child, and how it ended."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import pytest

__all__ = ["forks_with_threads", "in_child", "started"]

# Python 3.12 and later warn of every fork in a process with threads: the child may wait for a lock that one of them
# held. These tests fork beside threads on purpose (a Lab has one): what the toolkit promises of such a child is tested.
forks_with_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def started(work: Callable[[], object]) -> int:
    """Run `work` in a fork, which ends with status 0 if that returned, else with its traceback. Its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def in_child(work: Callable[[], object]) -> int:
    """Run `work` in a fork; its wait status, 0 if it returned."""
    return os.waitpid(started(work), 0)[1]
