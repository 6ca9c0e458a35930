# SPDX-License-Identifier: Apache-2.0
"""The same end twice: `timeout`, terminals that close, and supervisors signal a process more than once to end it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.helpers.cli import ENVIRONMENT
from tests.helpers.firewalls import Machine, by_netlink, drops, present
from toolkit.cli import stop
from toolkit.lab import Lab

pytestmark = [
    pytest.mark.needs("nsenter"),
    pytest.mark.timing("signals in the time in which they count as one, or after it"),
]

STUCK = """
    import time
    from toolkit.cli.stop import Stop
    with Stop() as stop:
        print("ready", flush=True)
        while not stop:
            time.sleep(0.001)
        print("asked", flush=True)
        while True:
            time.sleep(0.001)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("gap", [0.001, 0.02])
def test_a_burst_of_signals_cuts_no_end_in_the_middle(
    lab: Lab, machine: Machine, number: signal.Signals, gap: float
) -> None:
    firewall = by_netlink(lab)
    with machine.running(lab, "receive", "veth0", "-f", "udp port 9", "--replace", "--json") as process:
        time.sleep(0.2)
        until = time.monotonic() + stop.BURST * 0.8
        while not ((found := present(lab)) and found.program.id == firewall) and time.monotonic() < until:
            process.send_signal(number)
            time.sleep(gap)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, (out, err)
    assert "is back on veth0" in err
    assert drops(lab)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_what_hangs_is_ended_by_another_one_later(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STUCK)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(stop.BURST / 2)
        assert process.poll() is None
        time.sleep(stop.BURST)
        process.send_signal(number)
        assert process.wait(10) == -number
    finally:
        process.kill()
        process.communicate()
