# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt at every line of what opens, attaches and starts: no descriptor, thread, child or program stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import toolkit
from tests.helpers.interrupts import at_every_line, at_times_of_chance
from tests.helpers.wire import frame
from tests.helpers.worker_jobs import count
from toolkit.capture import Capture
from toolkit.lab import Lab
from toolkit.net.device import describe
from toolkit.program import Program, attached
from toolkit.workers import Workers


def nothing_attached(lab: Lab) -> None:
    """No XDP program is on the near end."""
    with lab.netns.entered():
        assert attached(describe(lab.interface).ifindex) is None


def test_lab() -> None:
    assert at_every_line(Lab, Lab.close) > 20


def test_lab_at_times_of_chance() -> None:
    assert at_times_of_chance(Lab, Lab.close, tries=40) > 5


def test_entered(lab: Lab) -> None:
    """The thread is at home again."""
    home = os.stat("/proc/thread-self/ns/net").st_ino

    def enter() -> None:
        with lab.netns.entered():
            pass

    def look() -> None:
        assert os.stat("/proc/thread-self/ns/net").st_ino == home

    assert at_every_line(enter, lambda done: None, look=look) > 5


def test_namespace_run(lab: Lab) -> None:
    """A program that was started is ended, or it was not started."""
    assert at_every_line(lambda: lab.far.run(["true"]), lambda done: None) > 5


@pytest.mark.parametrize("options", [{}, {"wait": "busy-poll"}], ids=["poll", "busy-poll"])
def test_open(lab: Lab, options: dict[str, str]) -> None:
    def make() -> toolkit.Interface:
        return toolkit.open("veth0", filter="udp port 9", netns=lab.netns, ring_size=64, **options)

    assert at_every_line(make, toolkit.Interface.close, look=lambda: nothing_attached(lab)) > 10


def test_open_at_times_of_chance(lab: Lab) -> None:
    def make() -> toolkit.Interface:
        return toolkit.open("veth0", filter="udp port 9", netns=lab.netns, ring_size=64)

    assert at_times_of_chance(make, toolkit.Interface.close, tries=40, look=lambda: nothing_attached(lab)) > 5


def test_tee(lab: Lab) -> None:
    def make() -> toolkit.Tee:
        return toolkit.tee("veth0", filter="udp port 9", netns=lab.netns, slots=64)

    assert at_every_line(make, toolkit.Tee.close, look=lambda: nothing_attached(lab)) > 10


@pytest.mark.parametrize("shared", [False, True])
def test_socket(lab: Lab, shared: bool) -> None:
    with toolkit.UMEM(256, 2048) as umem:

        def make() -> toolkit.Socket:
            return toolkit.Socket("veth0", 0, umem if shared else None, netns=lab.netns)

        assert at_every_line(make, toolkit.Socket.close, look=lambda: nothing_attached(lab)) > 20
        assert umem.n_free_frames == 256


@pytest.mark.parametrize("cache", [True, False])
def test_program_build_and_attach(lab: Lab, cache: bool) -> None:
    def build() -> Program:
        return Program.build("xsk_redirect.c", filter="udp port 9", cache=cache)

    if not cache:  # a compiler each time: some lines will do
        assert at_times_of_chance(build, Program.close, tries=6) > 1
        return
    assert at_every_line(build, Program.close) > 20
    with build() as program:

        def attach() -> toolkit.Link:
            return program.attach("veth0", netns=lab.netns)

        assert at_every_line(attach, lambda link: link.close(), look=lambda: nothing_attached(lab)) > 5


def test_workers(lab: Lab) -> None:
    """Each try starts a process: some lines will do."""

    def make() -> Workers:
        return Workers("veth0", count, filter="udp port 9", netns=lab.netns, workers=1, ring_size=64)

    assert at_every_line(make, Workers.close, step=5, look=lambda: nothing_attached(lab)) > 5


def test_replay(lab: Lab, tmp_path: Path) -> None:
    """Its file is closed; its frames are free again, or on their way."""
    with Capture(None, tmp_path / "a.pcap") as capture:
        matrix = [frame(i) for i in range(5)]
        from tests.helpers.captures import batch_of

        capture.write(batch_of(matrix))
    with toolkit.open("veth0", filter="udp port 9", netns=lab.netns, ring_size=64) as near:
        path = os.fspath(tmp_path / "a.pcap")
        assert at_every_line(lambda: toolkit.replay(near, path, speed=None), lambda done: None) > 20
        assert toolkit.replay(near, tmp_path / "a.pcap", speed=None).packets == 5
