# SPDX-License-Identifier: Apache-2.0
"""What a newcomer sees first: packets that all arrive, then more than arrive, and who counts what is lost."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK

pytestmark = pytest.mark.needs("bcc", "ping")


def demo(*arguments: str) -> str:
    done = subprocess.run([*XSK, "demo", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.timing("a flood, paced to what this machine receives when it began")
def test_nothing_is_lost_before_the_overload() -> None:
    report = json.loads(demo("--seconds", "6", "--json"))
    overload = report["overload"]
    paced = {name: report[name] - overload[name] for name in overload}
    assert paced["sent"] == paced["redirected"] == paced["received"] > 10_000
    assert paced["lost_on_the_cable"] == paced["dropped"] == 0
    assert 10_000 < report["paced_rate"] <= 330_000
    assert overload["sent"] >= overload["redirected"] == overload["received"] + overload["dropped"] > 1000


def test_the_text_accounts_for_both_parts() -> None:
    shown = demo("--seconds", "4")
    lines = re.findall(r"^ *[\d.]+ s +[\d,.]+(?: [kM])? packets/s .* total .*  (.*)$", shown, re.MULTILINE)
    assert lines[0] == "an ordinary kernel sends pings and UDP"
    assert any("at the rate that arrives here" in line for line in lines)
    paced, overload = re.split(r"^The faster flood at the end", shown, flags=re.MULTILINE)
    for part in (paced, overload):
        figures = {name: number(value) for name, value in re.findall(r"^  (\w+) +([\d,]+)   ", part, re.MULTILINE)}
        assert all(figures.values()), "none is zero"
        assert figures["redirected"] == figures["received"] + figures.get("dropped", 0)
        assert figures["sent"] >= figures["redirected"]
        assert "✓ redirected = received" in part
    assert "nothing to clean up" in overload
    assert "xsk receive -h" in overload
