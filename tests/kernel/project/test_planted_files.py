# SPDX-License-Identifier: Apache-2.0
"""What lies in the current directory, or where others can write, is not run: not by a script, not by any child."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.checkouts import borrow_packages, copy_checkout

# Whatever a careless child interpreter would import, and whatever a careless shell would start.
MODULES = (
    "sitecustomize usercustomize site os re json ctypes venv ensurepip pip numpy click rich pyroute2 bcc "
    "hatchling toolkit benchmarks pytest subprocess runpy signal struct encodings multiprocessing matplotlib"
)
PROGRAMS = (
    "bash sh env python python3 readlink realpath dirname stat sed mktemp mkdir rm mv tail cut tr sha256sum flock "
    "grep dpkg-query apt-get apt-cache setpriv ip ping unshare ruff taskset ldconfig id"
)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Who was executed: a file for each in here."""
    (tmp_path / "executed").mkdir()
    return tmp_path / "executed"


@pytest.fixture
def planted(tmp_path: Path, marks: Path) -> Path:
    """A directory in which a stranger waits."""
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in MODULES.split():
        text = f"open({str(marks)!r} + '/{name}', 'w')\nraise SystemExit('planted')\n"
        (trap / f"{name}.py").write_text(text)
        (trap / name).mkdir()
        for file in ("__init__.py", "__main__.py"):
            (trap / name / file).write_text(text)
    for name in PROGRAMS.split():
        program = trap / name
        program.write_text(f"#!/bin/sh\n: >{marks}/{name}\nexit 1\n")
        program.chmod(0o755)
    (trap / "profile").write_text(f": >{marks}/profile\n")
    return trap


def environment(**more: str) -> dict[str, str]:
    """An operator's, with everything in it that can mean the current directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    path = f".::{os.environ['PATH']}:"
    careless = {"PATH": path, "PYTHONPATH": ":.:", "TMPDIR": ".", "BASH_ENV": "./profile", "ENV": "./profile"}
    return kept | careless | {"CDPATH": ".", "PYTHONPYCACHEPREFIX": ".", "PYTHONUSERBASE": "."} | more


def run(*command: str | Path, cwd: Path, **more: str) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False, timeout=110
    )
    return done.returncode, done.stdout + done.stderr


def executed(marks: Path) -> list[str]:
    return sorted(mark.name for mark in marks.iterdir())


def test_the_trap_works(planted: Path, marks: Path) -> None:
    """Python run carelessly there executes what is planted: else the tests below would show nothing."""
    subprocess.run([sys.executable, "-m", "venv", "x"], cwd=planted, check=False, capture_output=True)
    run("/bin/sh", "-c", "setpriv; python3 -V", cwd=planted)
    assert {"venv", "setpriv", "python3"} <= set(executed(marks))


def test_setup_makes_a_venv_without_what_lies_about(planted: Path, marks: Path, tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    status, said = run(checkout / "scripts" / "setup", cwd=planted, **offline)
    assert "making .venv" in said
    assert "No matching distribution" in said, "it did not come as far as pip"
    assert status == 1
    assert executed(marks) == []
    assert not list(planted.glob("afxdp-toolkit-setup.*")), "a relative TMPDIR was used"
    (log,) = re.findall(r"The whole log: ([^)]+)", said)
    Path(log).unlink()  # setup leaves it, and says where


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that scripts/setup has filled, without network."""
    made = copy_checkout(tmp_path / "a checkout")
    subprocess.run([sys.executable, "-I", "-m", "venv", made / ".venv"], check=True)
    borrow_packages(made / ".venv")
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    done = subprocess.run(
        [made / "scripts" / "setup", "--dev"], env={**os.environ, **offline}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return made


def test_every_script_and_the_command_leave_it_alone(planted: Path, marks: Path, checkout: Path) -> None:
    scripts = checkout / "scripts"
    (checkout / "tests" / "unit" / "test_nothing.py").write_text("def test_nothing(): pass\n")
    for command, status, says in (
        ((scripts / "setup",), 0, ""),
        ((scripts / "setup", "--help"), 0, "scripts/setup"),
        ((scripts / "demo", "--help"), 0, "Usage"),
        ((scripts / "bench", "--help"), 0, "usage"),
        ((scripts / "test", "tests/unit/test_nothing.py"), 0, "1 passed"),
        ((scripts / "test-debian", "--help"), 0, "test-debian"),
        ((scripts / "guest", "--help"), 0, "scripts/guest"),
        ((checkout / ".ci" / "run", "--version"), 1, "ruff"),
        ((checkout / ".venv" / "bin" / "xsk", "--help"), 0, "Usage"),
        ((checkout / ".venv" / "bin" / "xsk", "doctor"), None, "BCC"),
    ):
        found, said = run(*command, cwd=planted)
        if command[0].name != "run":  # which lints the whole checkout, the stranger's file above included
            assert status in (None, found), f"{command}: {said}"
        assert says.lower() in said.lower(), f"{command}: {said}"
        assert executed(marks) == [], command


WORK = """
    import sys
    sys.path[:0] = [{root!r}]
    import os
    from tests.helpers import worker_jobs
    from toolkit.errors import ToolkitError
    from toolkit.lab import Lab
    from toolkit.lab.traffic import ping
    from toolkit.program import Program, sources
    from toolkit.program import build
    from toolkit.filter import expression
    from toolkit.workers import Workers
    if __name__ == "__main__":
        if {gone}:
            os.mkdir("gone")
            os.chdir("gone")
            os.rmdir("../gone")
        source = sources.read("xdp_pass.c")
        assert build.build_images(source, source.text, cache=False)  # the BCC worker
        assert expression.instructions("udp port domain")  # the child that compiles filters
        with Lab(queues=2) as lab:
            assert ping(lab.far, lab.ip).received == 1  # programs in a namespace
            with Workers(lab.interface, worker_jobs.count, filter="udp", workers=1, netns=lab.netns) as workers:
                with lab.generator(count=1000, rate=10_000) as generator:  # the generator's own process
                    sent = generator.wait(20).sent
                workers.stop()
                found = workers.results(20)
        print("sent", sent, "received", found[0]["received"])
"""


@pytest.mark.parametrize("gone", [False, True], ids=["planted", "deleted"])
def test_no_child_interpreter_runs_it(planted: Path, marks: Path, tmp_path: Path, gone: bool) -> None:
    script = tmp_path / "script.py"
    work = textwrap.dedent(WORK).format(root=str(ROOT), gone=gone)
    script.write_text(work)
    status, said = run(sys.executable, "-I", script, cwd=planted)
    assert status == 0, said
    assert "sent 1000 received 1000" in said
    assert executed(marks) == []


def test_workers_of_an_ordinary_interpreter_import_nothing_from_there_either(
    planted: Path, marks: Path, tmp_path: Path
) -> None:
    """The same without -I: the script's own interpreter would fall into the trap, so the directory changes later."""
    script = tmp_path / "script.py"
    work = textwrap.dedent(WORK).format(root=str(ROOT), gone=False)
    first = "from tests.helpers import worker_jobs"
    script.write_text(work.replace(first, f"{first}; os.chdir({str(planted)!r})", 1))
    (tmp_path / "clean").mkdir()
    status, said = run(sys.executable, script, cwd=tmp_path / "clean", PYTHONPATH=f":{ROOT}:")
    assert status == 0, said
    assert "sent 1000 received 1000" in said
    assert executed(marks) == []
