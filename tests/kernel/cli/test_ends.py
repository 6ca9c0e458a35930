# SPDX-License-Identifier: Apache-2.0
"""What `xsk drop`, `send`, `forward` and `echo` have in common: their ends, their refusals, their lines and help."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.helpers.cli import ENVIRONMENT, WAITS, XSK, ended, index_of, reconciles, running, xsk
from tests.helpers.wire import eventually
from toolkit.cli.view.live import LiveLine, Reading
from toolkit.lab import Lab
from toolkit.program import attached


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", WAITS, ids=" ".join)
@pytest.mark.parametrize("command", [["drop", "-f", "udp"], ["forward", "-f", "udp"], ["echo"]], ids=lambda c: c[0])
def test_a_signal_ends_it_with_a_summary(lab: Lab, command: list[str], how: list[str], number: signal.Signals) -> None:
    with running(lab, command[0], "veth0", *command[1:], *how) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "redirected 0\n" in err
    assert "redirected" not in out
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


@pytest.mark.parametrize("command", [["receive", "-f", "udp"], ["top", "-f", "udp"], ["drop", "-f", "udp"]])
def test_a_vanished_interface_ends_it_with_what_was_counted(lab: Lab, command: list[str]) -> None:
    with running(lab, command[0], "veth0", *command[1:], "--json") as process:
        lab.udp(count=20)
        assert eventually(lambda: lab.counters()["rx_packets"] >= 20)
        lab.delete_interface()
        report = ended(process, None, status=1)
    assert report["received"] == 20


@pytest.mark.parametrize("command", ["drop", "forward"])
def test_ended_in_the_middle_of_traffic_the_counters_add_up(lab: Lab, command: str) -> None:
    with (
        running(lab, command, "veth0", "-f", "udp", "--json") as process,
        lab.generator(rate=50_000, seconds=60) as generator,
    ):
        assert eventually(lambda: lab.counters()["rx_packets"] > 10_000)
        report = ended(process)
        assert generator.running
    way = report["directions"][0] if command == "forward" else report
    assert way["redirected"] > 5_000
    assert reconciles(way)
    if command == "forward":
        assert way["received"] == way["forwarded"] + way["no_room"]
        assert way["all_sent"]


def test_a_killed_command_leaves_nothing(lab: Lab) -> None:
    with running(lab, "forward", "veth0", "-f", "all") as process:
        process.kill()
        process.wait()
        index = index_of(lab.netns, "veth0")
        assert eventually(lambda: attached(index, lab.netns) is None)
        assert lab.ping(count=1).received == 1


@pytest.mark.parametrize("option", ["--seconds", "--rate", "--interval"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_number_is_refused(lab: Lab, option: str, value: str) -> None:
    done = xsk(lab, "send", "veth0", "--eth-dst", "02:00:00:00:00:02", "-c", "1", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{value}' is not a finite number" in done.stderr


@pytest.mark.parametrize("command", ["doctor", "detach", "echo"])
def test_a_namespace_that_is_not_there(lab: Lab, command: str) -> None:
    done = xsk(lab, command, "veth0", "--netns", "²")  # a digit, and not of a pid
    assert done.returncode == 1
    assert done.stderr.startswith("xsk: there is no network namespace '²'")


@pytest.mark.parametrize("arguments", [["drop", "veth0", "-f", "udp", "--json"], ["detach", "veth0"], ["--help"]])
def test_a_full_disk_under_the_output(lab: Lab, arguments: list[str]) -> None:
    seconds = ["--seconds", "0.2"] if arguments[0] == "drop" else []
    with open("/dev/full", "w") as full:
        done = lab.netns.run(
            [*XSK, *arguments, *seconds], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "xsk: cannot write to standard output: No space left on device\n"
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


def test_help_teaches_with_examples(lab: Lab) -> None:
    for command, words in {
        "drop": ["-f, --filter", "redirected = received + dropped", "xsk drop eth0"],
        "send": ["--ip-dst", "--rate", "--size", "-c, --count", "xsk send eth0"],
        "forward": ["--mac-swap", "--both", "xsk forward eth0 eth1"],
        "echo": ["--udp-port", "--ip", "xsk echo eth0"],
    }.items():
        text = xsk(lab, command, "--help").stdout
        shown = " ".join(text.split())
        for word in [*words, "--interval", "--extra", "--zero-copy", "--copy", "--no-need-wakeup", "--json"]:
            assert word in shown, (command, word)
        if command != "send":
            for word in ("--native", "--generic", "--poll", "--busy-poll", "--spin", "--queue"):
                assert word in text, (command, word)


def until(due: float) -> None:
    """Wait for a time of the monotonic clock."""
    time.sleep(max(due - time.monotonic(), 0))


def test_the_first_live_line_has_what_came_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    line = LiveLine(lambda: Reading(30, 1920, {"dropped": 20}), interval=0.01)
    until(line.next)
    line.tick()
    shown = capsys.readouterr().out
    assert "total       30" in shown
    assert "dropped 20" in shown
    assert " 0 packets/s" not in shown


def test_a_live_line_shows_rates_of_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    counted = [0, 0]
    line = LiveLine(lambda: Reading(counted[0], counted[1], {"dropped": counted[0] // 2}), interval=0.1, name="a → b")
    line.tick()
    assert capsys.readouterr().out == ""
    counted[:] = [1000, 64_000]
    until(line.next)
    line.tick()
    line.tick()
    (first,) = capsys.readouterr().out.splitlines()
    assert "a → b" in first
    assert "total    1,000" in first
    assert "dropped 500" in first
    until(line.next)
    line.tick()
    (second,) = capsys.readouterr().out.splitlines()
    assert "       0 packets/s" in second
    assert "dropped 0" in second
