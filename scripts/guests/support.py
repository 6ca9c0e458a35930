# SPDX-License-Identifier: Apache-2.0
"""What the runs of tests/guest have seen, as a page: docs/support.md."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = ("generic", "native", "zero-copy")
# Checks that are not of one mode; they say in which they ran.
_ANY = ""

_HEAD = """# What was seen to work

`sudo scripts/test --guests` runs the checks in `tests/guest`: here, on Debian's kernels over emulated NICs
([guests](how-to/guest.md)), and in releases of Debian on the running kernel. It writes this page; nobody edits it.

In the table, "12" means that 12 checks passed, "12 of 13" that one did not; "-" that there is no such mode, and why is
below it. "any" are checks that are of no mode. What emulated NICs cannot show: rates, several receive queues under
load, and what firmware does.
"""


@dataclass
class Run:
    """One run of the checks: a guest, or a release of Debian on this kernel."""

    title: str  # the head of its column
    when: str  # its date, and the commit that was tried
    about: str  # versions, as a sentence
    results: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""  # why there are none, or not all
    seconds: float = 0.0

    def cell(self, nic: str, mode: str) -> str:
        """What the table says of a driver in a mode."""
        mine = [one for one in self.results if one["nic"] == nic and one["mode"] == mode]
        ran = [one for one in mine if one["outcome"] != "skipped"]
        passed = sum(one["outcome"] == "passed" for one in ran)
        if not ran:
            return "-" if mine else "not run"
        return str(passed) if passed == len(ran) else f"**{passed} of {len(ran)}**"


def read(report: Path) -> list[dict[str, Any]]:
    """The lines of a report of tests/guest; what failed after its check counts as failed."""
    found: dict[str, dict[str, Any]] = {}
    for line in report.read_text().splitlines() if report.exists() else ():
        one = json.loads(line)
        found[one["test"]] = one  # a teardown that failed comes last
    return list(found.values())


def page(runs: Sequence[Run]) -> str:
    """The whole page."""
    parts = [_HEAD, _matrix(runs), "## What was run\n", *_versions(runs)]
    parts += ["\n## What each check saw\n", *_checks(runs)]
    return "\n".join(parts).rstrip() + "\n"


def _nics(runs: Iterable[Run]) -> list[str]:
    return list(dict.fromkeys(one["nic"] for run in runs for one in run.results))


def _matrix(runs: Sequence[Run]) -> str:
    lines = ["| interface | mode | " + " | ".join(run.title for run in runs) + " |", "|---|---|" + "--:|" * len(runs)]
    for nic in _nics(runs):
        for mode in (*MODES, _ANY):
            cells = [run.cell(nic, mode) for run in runs]
            if set(cells) != {"not run"}:
                lines.append(f"| {nic} | {mode or 'any'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _versions(runs: Iterable[Run]) -> Iterable[str]:
    for run in runs:
        failure = f" **{run.failure}**" if run.failure else ""
        yield f"- **{run.title}**: {run.about}. {run.when}; {run.seconds:.0f} s.{failure}"


def _checks(runs: Sequence[Run]) -> Iterable[str]:
    """A table for each check: what was seen, and where it was."""
    seen: dict[str, dict[str, list[tuple[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for one in run.results:
            check, also = _named(one)
            where = " ".join(filter(None, (one["nic"], one["mode"], also)))
            seen[check][_said(one)].append((run.title, where))
    for check in sorted(seen):
        file, _, name = check.partition("::")
        yield f"### {name.removeprefix('test_').replace('_', ' ')}\n\n`{file}::{name}`\n"
        yield "| seen | where |\n|---|---|"
        for text, places in sorted(seen[check].items(), key=lambda item: (item[0].startswith("no: "), item[0])):
            yield f"| {text} | {_places(places)} |"
        yield ""


def _named(one: dict[str, Any]) -> tuple[str, str]:
    """The check without its parameters, and those that are neither interface nor mode."""
    found = re.fullmatch(r"([^\[]*)(?:\[(.*)\])?", one["test"])
    assert found is not None
    left = found[2] or ""
    for known in (one["nic"], one["mode"]):
        if known:
            left = re.sub(rf"(^|-){re.escape(known)}(-|$)", r"\1\2", left, count=1)
    return found[1], left.strip("-").replace("--", "-")


def _said(one: dict[str, Any]) -> str:
    text = {
        "passed": one["seen"] or "passed",
        "skipped": f"no: {one['why'].removeprefix('Skipped: ')}",
        "failed": f"**FAILED**: {one['why']}",
    }[one["outcome"]]
    first = text.strip().splitlines()[0]
    return (first if len(first) < 300 else first[:297] + "...").replace("|", "\\|").replace("<", "&lt;")


def _places(places: Iterable[tuple[str, str]]) -> str:
    """By what ran there: "6.1, 7.3: igb native, igb generic"."""
    of: dict[str, list[str]] = defaultdict(list)
    for title, where in places:
        of[title].append(where)
    together: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for title, wheres in of.items():
        together[tuple(wheres)].append(title)
    return "; ".join(f"{', '.join(titles)}: {', '.join(wheres)}" for wheres, titles in together.items())
