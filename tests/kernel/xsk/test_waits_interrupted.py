# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends the waits of an opening that last for seconds: for a queue that is taken, for a link that comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import toolkit
from tests.helpers.cli import ENVIRONMENT, XSK
from tests.helpers.wire import child_environment, eventually
from toolkit._base.uninterrupted import uninterrupted
from toolkit.lab import Lab
from toolkit.net import ethtool
from toolkit.net.device import await_carrier, describe
from toolkit.program import attached
from toolkit.umem.umem import UMEM

AFTER = 0.4  # seconds until the interrupt
SOON = 2.5  # seconds: the waits take 5 and 10

HOLDER = """
import sys, toolkit
held = toolkit.Socket("veth0")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def taken(lab: Lab) -> Iterator[Lab]:
    """Another process has a socket on the queue."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": child_environment()}
    with lab.netns.popen([sys.executable, "-c", HOLDER], **pipes) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield lab
        other.kill()


@contextlib.contextmanager
def interrupted_soon() -> Iterator[None]:
    """SIGINT comes in the block, which ends soon, with KeyboardInterrupt."""
    timer = threading.Timer(AFTER, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        timer.join()
    assert AFTER <= time.monotonic() - began < SOON


OPENERS: dict[str, Callable[[Lab], object]] = {
    "Socket": lambda lab: toolkit.Socket("veth0", netns=lab.netns),
    "shared": lambda lab: toolkit.Socket("veth0", umem=UMEM(64, fill_size=32, comp_size=32), netns=lab.netns),
    "open": lambda lab: toolkit.open("veth0", filter="udp", netns=lab.netns),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_queue_that_is_taken(taken: Lab, opener: str) -> None:
    with interrupted_soon():
        OPENERS[opener](taken)


def test_a_queue_that_is_taken_and_a_command(taken: Lab) -> None:
    """It only notes the signal, and closes in order."""
    with taken.netns.entered():
        ifindex = describe("veth0").ifindex

    def has_attached() -> bool:
        with taken.netns.entered():
            return attached(ifindex) is not None

    arguments = [*XSK, "receive", "veth0", "udp port 9", "--yes"]
    with taken.netns.popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        assert eventually(has_attached, 30, step=0.02)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - began < SOON
        assert "EBUSY" in said


def test_a_link_that_does_not_come_back(lab: Lab) -> None:
    lab.far.call(lambda: ethtool.set_up("veth1", up=False))

    def work() -> None:
        with lab.netns.entered():
            await_carrier(describe("veth0")._replace(running=True))

    with interrupted_soon():
        uninterrupted(work)
