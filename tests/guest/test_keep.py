# SPDX-License-Identifier: Apache-2.0
"""What is kept and shown around a driver: captures, the NAPI settings of the interface, status and doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import toolkit
from tests.helpers.cable import Cable
from tests.helpers.drivers import assert_whole, delivered, numbered, opened
from tests.helpers.napi import own_records
from tests.helpers.waiting import busy_polling_or_not
from tests.helpers.wire import child_environment
from toolkit.doctor import examine
from toolkit.doctor.status import collect
from toolkit.net import repair
from toolkit.net.napi import DEFERRAL
from toolkit.net.sysfs import InterfaceDirectory

pytestmark = busy_polling_or_not
Seen = Callable[[str], None]


def test_a_capture_has_what_the_peer_sent(
    cable: Cable, mode: str, tmp_path: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets = numbered(64)
    path = tmp_path / "seen.pcap"
    with opened(cable, mode) as near, toolkit.Capture(near, path) as capture:
        receive = near.receive

        def writing(timeout: float | None = None) -> toolkit.Batch:
            batch = receive(timeout=timeout)
            capture.write(batch)
            return batch

        monkeypatch.setattr(near, "receive", writing)
        delivered(cable, near, packets)
    read = [bytes(one) for batch in toolkit.read(path) for one in batch]
    assert_whole(read, packets)
    listed = subprocess.run(["tcpdump", "-nr", path], capture_output=True, text=True, check=True).stdout
    count = listed.count("ethertype Unknown (0x88b5)")
    assert count == len(packets)
    seen(f"tcpdump reads {count} of {len(packets)} frames")


def settings(cable: Cable) -> dict[str, int]:
    with cable.netns.entered():
        found = InterfaceDirectory(cable.interface)
    try:
        return {name: found.read(name) for name in DEFERRAL}
    finally:
        found.close()


def test_busy_polling_defers_and_restores(cable: Cable, mode: str, seen: Seen) -> None:
    packets = numbered(64)
    before = settings(cable)
    with opened(cable, mode, wait="busy-poll") as near:
        assert settings(cable) != before
        polls = near.info()["busy_polling"]
        assert_whole(delivered(cable, near, packets), packets, near.statistics(), cable.counters())
    assert settings(cable) == before
    seen(f"64 of 64 frames (busy_polling: {polls}), settings restored")


KILLED = """
    import sys, toolkit
    from pathlib import Path
    from toolkit._base import records
    records.DIRECTORY = Path(sys.argv[1])
    class Given:
        def fileno(self):
            return int(sys.argv[2])
    near = toolkit.open(sys.argv[3], filter="ether proto 0x88b5", wait="busy-poll", ring_size=64, netns=Given())
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_kill_9_leaves_nothing_that_cannot_be_repaired(
    cable: Cable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    for directory in own_records(tmp_path, monkeypatch):
        before, descriptor = settings(cable), cable.netns.fileno()
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(directory), str(descriptor), cable.interface]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[descriptor],
            env=child_environment(),
        ) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "ready\n"
            assert settings(cable) != before
            owner.kill()
        with cable.netns.entered():
            repair()
        assert settings(cable) == before
        with opened(cable, "generic") as near:  # no program of the killed one is in the way
            assert_whole(delivered(cable, near, numbered(16)), numbered(16))
    seen("settings restored by repair(); no program was left")


def test_status_shows_who_has_the_interface(cable: Cable, mode: str, seen: Seen) -> None:
    with opened(cable, mode) as near, cable.netns.entered():
        found = collect()
        program = next(one for one in found.interfaces if one.interface == cable.interface)
        assert program.mode == near.mode
        mine = [one for one in found.sockets if one.holder is not None and one.holder.pid == os.getpid()]
        assert len(mine) == len(near.sockets)
        diagnosed = [one for one in mine if one.interface is not None]
        assert {(one.interface, one.zero_copy) for one in diagnosed} <= {(cable.interface, near.zero_copy)}
        assert not diagnosed or len(diagnosed) == len(mine)
    about = f"{mine[0].interface}, zero-copy: {mine[0].zero_copy}" if diagnosed else "the kernel has no xsk_diag"
    seen(f"program {program.mode}, {len(mine)} sockets ({about})")


def test_doctor_has_no_problem_with_it(cable: Cable, seen: Seen) -> None:
    found = list(examine(cable.interface, netns=cable.netns))
    problems = [one for one in found if one.level == "problem"]
    assert not problems, json.dumps([str(one) for one in problems])
    notes = [one.text for one in found if one.level == "note" and one.area == cable.interface]
    seen(f"no problem; notes: {'; '.join(notes) or 'none'}")
