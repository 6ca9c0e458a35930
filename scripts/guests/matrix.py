# SPDX-License-Identifier: Apache-2.0
"""scripts/test --guests: kernels, drivers and releases of Debian, one after the other; docs/support.md from them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from guests import nics, support
from guests.__main__ import CHECKOUT

KERNELS = ("6.1", "6.12", "<=6.18", "newest")
KINDS = ("veth", *nics.KINDS)
RELEASES = ("bookworm", "trixie", "sid")
_TIMEOUT = 3600  # seconds a guest
_INSIDE = "/run/guest/out/report"  # what $GUEST_OUT/report is called in a guest
_UNAVAILABLE = 75
_RUNS = CHECKOUT / "build/guests"

# In a chroot of test-debian: the checks, then what they reported and the versions, on the standard output.
_IN_RELEASE = """
. /etc/os-release
GUEST_REPORT=/tmp/report scripts/test tests/guest -q -p no:cacheprovider {arguments} || status=$?
sed "s/^/report: /" /tmp/report
printf "about: %s, %s" "$PRETTY_NAME" "$(python3 --version)"
dpkg-query -W -f=', ${Package} ${Version}' libxdp1 libbpf1 python3-bpfcc
echo
exit ${status:-0}
"""


def here(arguments: list[str]) -> tuple[support.Run, int]:
    """The checks over a veth on this machine as it is."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="toolkit-guests-") as out:
        command = [sys.executable, "-m", "pytest", "tests/guest", "-q", "-p", "no:cacheprovider", *arguments]
        environment = os.environ | {"GUEST_REPORT": f"{out}/report", "GUEST_NICS": "veth"}
        status = subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode
        results = support.read(Path(out, "report"))
    release = platform.release()
    run = support.Run("here", _when(), f"Linux {release}, {_this()}", results, _failure(status))
    run.seconds = time.monotonic() - started
    return run, status


def in_guest(kernel: str, kinds: list[str], arguments: list[str]) -> tuple[support.Run, int]:
    """The checks on a kernel, over all kinds of NICs in one guest: to boot and to import is most of the time."""
    started = time.monotonic()
    guest = str(CHECKOUT / "scripts/guest")
    made = subprocess.run([guest, "--prepare", "--kernel", kernel], stdout=subprocess.PIPE, text=True, check=False)
    version = made.stdout.strip()
    run = support.Run(
        f"Linux {'.'.join(version.split('.')[:2]) or kernel}", _when(), f"Debian's kernel {version}, {_this()}"
    )
    status = made.returncode
    if not status:
        with tempfile.TemporaryDirectory(prefix="toolkit-guests-") as out:
            command = [guest, "--kernel", kernel, "--out", out, "--timeout", str(_TIMEOUT)]
            for kind in kinds:
                command += [] if kind == "veth" else ["--nic", kind, "--nic", kind]
            command += ["--env", f"GUEST_NICS={','.join(kinds)}", "--env", f"GUEST_REPORT={_INSIDE}", "--"]
            command += ["python", "-u", "-m", "pytest", "tests/guest", "-v", "-p", "no:cacheprovider", *arguments]
            status = subprocess.run(command, check=False).returncode
            run.results = support.read(Path(out, "report"))
    run.seconds, run.failure = time.monotonic() - started, _failure(status)
    return run, status


def in_release(release: str, arguments: list[str]) -> tuple[support.Run, int]:
    """The checks over a veth in a chroot of a release of Debian, on the running kernel."""
    started = time.monotonic()
    script = _IN_RELEASE.replace("{arguments}", shlex.join(arguments))
    command = [str(CHECKOUT / "scripts/test-debian"), release, "bash", "-c", script]
    results: dict[str, dict[str, Any]] = {}
    about = f"Debian {release}"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            kind, _, rest = line.partition(": ")
            if kind == "report":
                one = json.loads(rest)
                results[one["test"]] = one
            elif kind == "about":
                about = rest.strip()
            else:
                print(line, end="", flush=True)
    status = process.returncode
    run = support.Run(f"Debian {release}", _when(), f"{about}, on Linux {platform.release()}", list(results.values()))
    run.seconds, run.failure = time.monotonic() - started, _failure(status)
    return run, status


def _failure(status: int) -> str:
    return "" if status in (0, 1) else f"It ended with status {status}."


def _this() -> str:
    return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Python {platform.python_version()}"


def _when() -> str:
    asked = ["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return f"{time.strftime('%d %B %Y')}, commit {commit or 'unknown'}"


# --- what runs ----------------------------------------------------------------


def main() -> int:
    """Run the matrix; 0 when all passed, 1 when something failed, 75 when not all of it could be had."""
    parser = argparse.ArgumentParser(prog="scripts/test --guests", allow_abbrev=False)
    add = parser.add_argument
    chosen = f"here, a kernel or a release; may be repeated. By default here {' '.join(KERNELS)} {' '.join(RELEASES)}"
    add("--only", action="append", default=[], metavar="COLUMN", help=chosen)
    add("--nic", action="append", choices=KINDS, help="in guests, instead of all kinds; may be repeated")
    add("--page", type=Path, default=CHECKOUT / "docs/support.md", help="what to write (default: docs/support.md)")
    add("arguments", nargs="*", help="for pytest, after --; then no page is written")
    given = parser.parse_args()
    # Writes the bytecode of the checks, here where that is quick.
    collecting = [sys.executable, "-m", "pytest", "tests/guest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    subprocess.run(collecting, cwd=CHECKOUT, check=False, stdout=subprocess.DEVNULL)
    statuses = []
    for column in given.only or ("here", *KERNELS, *RELEASES):
        print(f"\n== {column}", flush=True)
        if column == "here":
            run, status = here(given.arguments)
        elif column[0].isalpha() and column != "newest":
            run, status = in_release(column, given.arguments)
        else:
            run, status = in_guest(column, given.nic or list(KINDS), given.arguments)
        print(f"== {run.title}: exit status {status}, {run.seconds:.0f} s", flush=True)
        statuses.append(status)
        if not given.arguments and run.results:
            _keep(run)
    if not given.arguments:
        given.page.write_text(support.page(_kept()))
        print(f"\nwritten: {given.page}")
    if any(status not in (0, _UNAVAILABLE) for status in statuses):
        return 1
    return _UNAVAILABLE if _UNAVAILABLE in statuses else 0


# --- the last run of each column: the page is made of all ---------------------


def _keep(run: support.Run) -> None:
    """Instead of what an earlier run of these checks said; of other NICs on the same kernel that stays."""
    _RUNS.mkdir(parents=True, exist_ok=True)
    path = _RUNS / f"{run.title.replace(' ', '-')}.json"
    if path.exists():
        before = support.Run(**json.loads(path.read_text()))
        ran = {one["nic"] for one in run.results}
        others = [one for one in before.results if one["nic"] not in ran]
        if before.about == run.about and others:
            run.results = others + run.results
            run.when = run.when if before.when == run.when else f"{before.when}; {run.when}"
            run.seconds += before.seconds
    path.write_text(json.dumps(dataclasses.asdict(run), indent=1))


def _kept() -> list[support.Run]:
    runs = [support.Run(**json.loads(path.read_text())) for path in _RUNS.glob("*.json")]
    return sorted(runs, key=lambda run: [run.title != "here", "Debian" in run.title, _numbers(run.about)])


def _numbers(about: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", about)]


if __name__ == "__main__":
    sys.exit(main())
