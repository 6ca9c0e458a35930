# SPDX-License-Identifier: Apache-2.0
"""The first rate that a command shows is that of its first interval, not of the time that it took to begin."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK


@pytest.mark.alone("a rate, measured over a second")
@pytest.mark.needs("bcc", "ping")
def test_the_first_rate_of_the_demo() -> None:
    """Compiling, and making two hosts, took seconds: they are no part of an interval."""
    done = subprocess.run(
        [*XSK, "demo", "--seconds", "3"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    lines = re.findall(r"^ *([\d.]+) s +([\d,]+) packets/s .* total ([\d,]+)", done.stdout, re.MULTILINE)
    assert lines, done.stdout
    elapsed, rate, total = (float(one.replace(",", "")) for one in lines[0])
    assert elapsed >= 0.9
    assert rate == pytest.approx(total / elapsed, rel=0.2)
