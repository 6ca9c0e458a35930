# SPDX-License-Identifier: Apache-2.0
"""The toolkit as others get it: a wheel, an editable install, and scripts/setup in a checkout. Nothing here downloads.

The environments that these tests make see the packages of the one that runs them, so that no index is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.checkouts import borrow_packages, copy_checkout

# Builds and loads a program by its bare name, then says which files that came from.
BUILD = """
import toolkit.program
from toolkit.program import sources
with toolkit.program.Program.build("xsk_redirect.c") as program:
    print(program.id > 0)
print(toolkit.program.__file__)
print(sources.directory())
"""


def call(*command: str | Path, cwd: Path, status: int = 0, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it printed; fail when its exit status is not `status`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    run = subprocess.run(command, cwd=cwd, env=kept | (env or {}), capture_output=True, text=True, check=False)
    assert run.returncode == status, f"{command} gave {run.returncode}:\n{run.stdout}{run.stderr}"
    return run.stdout + run.stderr


def make_venv(venv: Path) -> Path:
    """A virtual environment without a toolkit in it; its interpreter."""
    call(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    borrow_packages(venv)
    return venv / "bin" / "python"


def pip(python: Path, *arguments: str | Path) -> None:
    """Install into the environment of `python` without network."""
    options = ("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", "--no-build-isolation")
    call(python, "-m", "pip", *options, *arguments, cwd=python.parent)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, made from an sdist, made from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


def carried_files() -> dict[str, Path]:
    """What a wheel must have in it, by its name in there, besides Python modules."""
    carried = {f"toolkit/progs/{path.name}": path for path in (ROOT / "progs").iterdir() if path.is_file()}
    headers = ROOT / "toolkit" / "program" / "headers"
    carried |= {str(path.relative_to(ROOT)): path for path in headers.rglob("*") if path.is_file()}
    assert "toolkit/progs/xsk_redirect.c" in carried
    assert len(carried) > 20, "where are the kernel headers that the toolkit carries?"
    return carried


def test_wheel_has_every_file(wheel: Path) -> None:
    modules = {str(path.relative_to(ROOT)): path for path in (ROOT / "toolkit").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name, path in (modules | carried_files()).items():
            assert name in names
            assert archive.read(name) == path.read_bytes(), f"{name} differs from {path}"
        assert "toolkit/py.typed" in names, "without it type checkers ignore the hints"
        for text in ("LICENSE", "LICENSES/Apache-2.0.txt", "LICENSES/GPL-2.0-only.txt"):
            assert any(name.endswith(f".dist-info/licenses/{text}") for name in names)
    assert not {name for name in names if name.startswith(("tests", "scripts", "progs"))}


def test_wheel_finds_its_programs_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    python = make_venv(tmp_path / "venv")
    pip(python, wheel)
    loaded, module, directory = call(python, "-c", BUILD, cwd=tmp_path).split()
    assert loaded == "True"
    assert Path(module).is_relative_to(tmp_path / "venv"), "not the installed toolkit was tested"
    assert Path(directory).is_relative_to(tmp_path / "venv")
    help_text = call(tmp_path / "venv" / "bin" / "xsk", "--help", cwd=tmp_path)
    assert "receive" in help_text


def test_editable_install_finds_its_programs_from_elsewhere(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "a checkout")
    python = make_venv(tmp_path / "venv")
    pip(python, "--editable", checkout)
    loaded, module, directory = call(python, "-c", BUILD, cwd=tmp_path).splitlines()
    assert loaded == "True"
    assert Path(module) == checkout / "toolkit" / "program" / "__init__.py"
    assert Path(directory) == checkout / "progs"


def test_setup_fills_a_venv_once_and_again_when_something_changed(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "a checkout")
    # A link elsewhere, a directory with a space, and another working directory: all at once.
    setup = tmp_path / "link"
    setup.symlink_to(checkout / "scripts" / "setup")
    call(sys.executable, "-m", "venv", checkout / ".venv", cwd=tmp_path)
    borrow_packages(checkout / ".venv")
    # pip's own reading of this variable: "0" means no isolation, so that nothing is downloaded for the build.
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONHOME": "/nowhere"}

    assert "installing the toolkit" in call(setup, cwd=tmp_path, env=offline)
    assert call(setup, cwd=tmp_path, env=offline) == "", "the second run has nothing to do and says nothing"
    assert "usage" in call(checkout / ".venv" / "bin" / "xsk", "--help", cwd=tmp_path).lower()

    with (checkout / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    assert "installing the toolkit" in call(setup, cwd=tmp_path, env=offline)
    assert call(setup, cwd=tmp_path, env=offline) == ""

    assert "[arrow,pandas,zstd]" in call(setup, "--tables", cwd=tmp_path, env=offline)
    assert call(setup, "--tables", cwd=tmp_path, env=offline) == ""
    assert call(setup, cwd=tmp_path, env=offline) == "", "less was asked for: nothing is taken away"
    assert "[dev]" in call(setup, "--dev", cwd=tmp_path, env=offline)
    assert call(setup, "--tables", cwd=tmp_path, env=offline) == "", "--dev has all of it"


def test_setup_makes_anew_what_was_interrupted_and_says_why_pip_failed(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    venv = checkout / ".venv"
    venv.mkdir()
    (venv / ".setup-started").touch()
    (venv / "half of a package").touch()
    (tmp_path / "tmp").mkdir()
    offline = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": "/dev/null",
        "TMPDIR": str(tmp_path / "tmp"),
    }

    error = call(checkout / "scripts" / "setup", cwd=tmp_path, status=1, env=offline)
    assert "making .venv" in error
    assert "interrupted" in error
    assert not (venv / "half of a package").exists()
    assert "Is the network there" in error
    assert "No matching distribution" in error, "pip's own words belong to the message"
    (log,) = (tmp_path / "tmp").glob("afxdp-toolkit-setup.*")
    assert str(log) in error
    assert not (venv / ".setup-complete").exists(), "the next run must try again"
    error = call(checkout / "scripts" / "setup", cwd=tmp_path, status=1, env=offline)
    assert "making .venv" not in error, "pip ended in order: what it installed before is still good"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that an ordinary user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_setup_names_the_missing_packages_to_whoever_may_not_install(open_folder: Path) -> None:
    checkout = copy_checkout(open_folder / "checkout")
    setup = checkout / "scripts" / "setup"
    setup.write_text(setup.read_text().replace("packages=(python3-bpfcc", "packages=(no-such-package python3-bpfcc"))
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    error = call(*as_nobody, "bash", setup, cwd=Path("/"), status=1)
    assert "missing: no-such-package\n" in error
    assert "sudo scripts/setup" in error
    assert not (checkout / ".venv").exists()
