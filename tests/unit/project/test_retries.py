# SPDX-License-Identifier: Apache-2.0
"""What tests/conftest.py makes of the markers timing and alone: who gets another try in CI, and what is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

HICCUP = """
import pathlib, pytest
tries = pathlib.Path(__file__).with_name("tries")

def fail_until(last):
    with tries.open("a") as file:
        file.write("x")
    assert tries.stat().st_size >= last, "it came late"

{marker}
def test_hiccup():
    fail_until({last})
"""


def run(place: Path, marker: str, last: int, *arguments: str, ci: bool = True) -> tuple[int, int, str]:
    """Run a test that fails until its try number `last`: pytest's exit status, the tries, the output."""
    (place / "test_it.py").write_text(HICCUP.format(marker=marker, last=last))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CI"))}
    environment |= {"PYTHONPATH": str(ROOT)} | ({"CI": "true"} if ci else {})
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "--strict-markers"]
    done = subprocess.run(
        [*command, f"--rootdir={place}", *arguments, "test_it.py"],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    tries = place / "tries"
    return done.returncode, tries.stat().st_size if tries.exists() else 0, done.stdout


def test_the_report_names_each_retry_and_its_reason(tmp_path: Path) -> None:
    status, tries, said = run(tmp_path, '@pytest.mark.timing("a deadline of a second")', 2)
    assert (status, tries) == (0, 2), said
    assert "tried again: 1 (" in said
    assert "test_it.py::test_hiccup (call)" in said
    assert "failed: AssertionError: it came late" in said
    assert "tried again because: a deadline of a second" in said


def test_so_it_does_when_tests_run_beside_each_other(tmp_path: Path) -> None:
    status, tries, said = run(tmp_path, '@pytest.mark.alone("a rate")', 3, "--numprocesses=2")
    assert (status, tries) == (0, 3), said
    assert said.count("tried again because: a rate") == 2


def test_a_broken_promise_fails_three_times(tmp_path: Path) -> None:
    status, tries, said = run(tmp_path, '@pytest.mark.timing("a deadline of a second")', 99)
    assert (status, tries) == (1, 3), said


def test_what_is_not_marked_has_one_try(tmp_path: Path) -> None:
    status, tries, said = run(tmp_path, "", 2)
    assert (status, tries) == (1, 1), said
    assert "tried again" not in said


def test_outside_of_ci_nothing_is_tried_again(tmp_path: Path) -> None:
    status, tries, said = run(tmp_path, '@pytest.mark.timing("a deadline of a second")', 2, ci=False)
    assert (status, tries) == (1, 1), said


def test_a_marker_says_why(tmp_path: Path) -> None:
    status, tries, said = run(tmp_path, "@pytest.mark.timing", 1)
    assert (status, tries) == (4, 0), said
    assert "test_hiccup: the marker timing takes one argument, its reason" in said
