# SPDX-License-Identifier: Apache-2.0
"""--on-match, --sample and --snaplen: the same program polices, counts and samples from the command line."""

from __future__ import annotations

import re

import pytest

from tests.helpers.cli import ended_after, running, xsk
from toolkit.lab import Lab


@pytest.mark.parametrize(("command", "action"), [("drop", "drop"), ("drop", "count"), ("receive", "count")])
def test_packets_that_stay_in_the_driver(lab: Lab, command: str, action: str) -> None:
    with (
        running(lab, command, "veth0", "-f", "udp", "--on-match", action, "--json") as process,
        lab.capture() as kernel,
    ):
        lab.udp(count=50, size=100, destination_port=4000)
        reached = kernel.frames(50, timeout=20) if action == "count" else []
        report = ended_after(process, lab, 50)
        reached += kernel.frames(timeout=0.1)
    assert [len(one) for one in reached] == ([142] * 50 if action == "count" else [])
    assert (report["matched"], report["matched_bytes"]) == (50, 50 * 142)
    assert report["outcomes"]["dropped" if action == "drop" else "counted"] == 50
    assert report["received"] == report["redirected"] == 0


def test_a_sample_and_what_is_not_of_it(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "-f", "udp", "--sample", "1/4", "-s", "60") as process:
        lab.udp(count=400, size=200)
        said = ended_after(process, lab, 400)
    assert "filter: udp [1 of 4, first 60 B]" in said
    (line,) = [line for line in said.splitlines() if line.startswith("the filter matched")]
    assert line.startswith("the filter matched 400 packets, 96,800 bytes = redirected ")
    assert "not of the sample" in line
    words = line.replace(",", "").split()
    redirected, rest = int(words[words.index("redirected") + 1]), int(words[-1])
    assert redirected + rest == 400
    assert 0 < redirected < 400
    assert f"redirected {redirected:,} = received {redirected:,}\n" in said
    # What came before the end was asked for: on a busy machine not all of them, or none.
    (taken,) = re.findall(r"^([\d,]+) packets, ([\d,]+) bytes in", said, re.MULTILINE)
    packets, octets = (int(one.replace(",", "")) for one in taken)
    assert octets == packets * 242, "as on the wire, whatever was cut"


def test_live_lines_of_a_policer(lab: Lab) -> None:
    with running(lab, "drop", "veth0", "-f", "udp", "--on-match", "drop", "--interval", "0.2") as process:
        lab.udp(count=100)
        assert process.stdout is not None
        assert process.stderr is not None
        assert "filter: udp [drop]" in process.stderr.readline()
        told = 0
        while told < 100 and (line := process.stdout.readline()):
            told += sum(map(int, re.findall(r"dropped in the driver (\d+)", line)))
        assert told == 100
        assert "total      100" in line
        ended_after(process, lab, 100)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--sample", "none"), "not a sample"),
        (("--sample", "1/0"), "not a sample"),
        (("--snaplen", "13"), "13"),
        (("--on-match", "steal"), "steal"),
        (("--on-match", "drop", "-c", "5"), "leaves the packets in the driver"),
        (("--on-match", "drop", "--snaplen", "64"), "redirected"),
    ],
)
def test_what_cannot_be(lab: Lab, arguments: tuple[str, ...], says: str) -> None:
    done = xsk(lab, "receive", "veth0", "-f", "udp", *arguments)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
