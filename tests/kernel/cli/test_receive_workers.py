# SPDX-License-Identifier: Apache-2.0
"""`xsk receive --workers`: one report of all processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.cli import events, line_with
from tests.helpers.wire import child_environment, eventually
from tests.helpers.workers import is_attached, send, two_cpus
from toolkit.lab import Lab


@pytest.fixture
def wide(make_lab: Callable[..., Lab]) -> Lab:
    """A cable with two queues."""
    return make_lab(queues=2)


@contextlib.contextmanager
def receiving(lab: Lab, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `xsk receive --workers 2`; the block begins when its workers are at work."""
    process: subprocess.Popen[str] = lab.netns.popen(
        [sys.executable, "-m", "toolkit.cli", "receive", "veth0", "--filter", "udp", "--workers", "2", *arguments],
        env=child_environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Attached comes first; each worker then enters its socket in the map, and makes its Interface at last.
        assert eventually(lambda: is_attached(lab), timeout=20)
        assert eventually(lambda: [events(pid) for pid in children(process.pid)] == [3, 3], timeout=30)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        own = [int(word) for word in file.read().split()]
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            own += [int(word) for word in file.read().split()]
    return sorted(set(own))


@two_cpus
def test_the_command_merges_and_reconciles(wide: Lab) -> None:
    with receiving(wide, "--json") as process:
        sent = send(wide, queue=0, count=4000) + send(wide, queue=1, count=6000)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["received"] == report["redirected"] == sent == 10_000
    assert report["received_bytes"] == 64 * sent
    assert report["workers"] == [[0], [1]]
    assert (report["dropped"], report["failed_workers"]) == (0, [])


@two_cpus
def test_the_command_shows_rates_and_goes_on_without_a_killed_worker(wide: Lab) -> None:
    with receiving(wide) as process:
        send(wide, queue=0, count=500)
        line_with(process, "total      500")
        victim = children(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        # Reaped, not just a zombie: that is when its last thread, and with it its socket, is gone.
        assert eventually(lambda: not os.path.exists(f"/proc/{victim}"))
        send(wide, queue=0, count=100)
        send(wide, queue=1, count=100)
        shown = line_with(process, "total      600")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "was killed by SIGKILL" in err
    assert "Traceback" not in err
    assert "workers: " in shown
    assert "for want of a worker: 100\n" in err
    assert "redirected 600 = received 600\n" in err


def test_the_command_stops_after_count_and_refuses_hex(wide: Lab) -> None:
    with receiving(wide, "--count", "50", "--json") as process:
        wide.udp(count=200, rate=1000)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert 50 <= json.loads(out)["received"] <= 200
    done = wide.netns.run(
        [sys.executable, "-m", "toolkit.cli", "receive", "veth0", "-f", "udp", "--workers", "2", "-x"],
        env=child_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 2
    assert "--workers" in done.stderr


def test_the_command_says_that_the_interface_vanished(wide: Lab) -> None:
    with receiving(wide) as process:
        wide.delete_interface()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "deleted" in err
    assert "Traceback" not in err
