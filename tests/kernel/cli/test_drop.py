# SPDX-License-Identifier: Apache-2.0
"""`xsk drop` as a process: every packet is counted, and nothing else happens to it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable

import pytest

from tests.helpers.cli import WAITS, ended_after, reconciles, running, xsk
from tests.helpers.wire import eventually
from toolkit.lab import Lab


@pytest.mark.parametrize(
    "how",
    [*WAITS, ["--batch-size", "7"], ["--generic"], ["--copy", "--no-need-wakeup", "--ring-size", "1024"]],
    ids=" ".join,
)
def test_drop_counts_every_packet(lab: Lab, how: list[str]) -> None:
    with running(lab, "drop", "veth0", "-f", "udp", "--json", *how) as process:
        assert lab.udp(count=2000, rate=20_000) == 2000
        report = ended_after(process, lab, 2000)
    assert report["received"] == report["redirected"] == 2000
    assert report["received_bytes"] == 2000 * 60
    assert reconciles(report)
    assert report["mode"] == ("generic" if "--generic" in how else "native")
    assert report["wait"] == {"--busy-poll": "busy-poll", "--spin": "spin"}.get(how[0] if how else "", "poll")


@pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")
def test_drop_loses_nothing_at_100000_packets_a_second(lab: Lab) -> None:
    # A third of a second fits the ring: on a machine that runs other tests, a process may have to wait for its turn.
    with running(lab, "drop", "veth0", "-f", "udp", "--ring-size", "32768", "--json") as process:
        with lab.generator(rate=100_000, count=100_000) as generator:
            sent = generator.wait()
        assert sent.lost is not None
        report = ended_after(process, lab, sent.sent - sent.lost, signal.SIGTERM)
    assert report["redirected"] > 90_000  # a veth may lose some before the program sees them, on a busy machine
    assert report["received"] == report["redirected"]
    assert reconciles(report)


@pytest.mark.timing("it prints a line each quarter of a second, as far as a CPU is free then")
def test_drop_prints_live_lines_and_an_account_without_zeros(lab: Lab) -> None:
    with running(lab, "drop", "veth0", "-f", "udp", "--seconds", "1.5", "--interval", "0.25", "--extra") as process:
        lab.udp(count=300, rate=400)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    lines = [line for line in out.splitlines() if "packets/s" in line and "total" in line]
    assert 4 <= len(lines) <= 6, out
    assert sum(line.strip().startswith("kernel: ") for line in out.splitlines()) == len(lines)
    assert "redirected 300 = received 300\n" in err
    assert "redirected" not in out
    assert "dropped 0" not in err
    assert not re.search(r"^ +0 ", err, re.MULTILINE)


def test_a_warning_is_a_note_for_people(make_lab: Callable[..., Lab]) -> None:
    done = xsk(make_lab(mtu=9000), "forward", "veth0", "-f", "udp", "--seconds", "0.2")
    assert done.returncode == 0
    assert done.stderr.startswith("xsk: note: veth0 has an MTU of 9000")
    assert ".py" not in done.stderr


def test_drop_counts_what_it_got_when_the_interface_vanishes(lab: Lab) -> None:
    with running(lab, "drop", "veth0", "-f", "udp", "--json") as process:
        lab.udp(count=50)
        assert eventually(lambda: lab.counters()["rx_packets"] >= 50)
        lab.delete_interface()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "deleted" in err
    assert json.loads(out)["received"] == 50
