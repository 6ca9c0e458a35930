# SPDX-License-Identifier: Apache-2.0
"""The scripts, run by root, use no directory in which somebody else could have put something: it is named instead."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.checkouts import copy_checkout

pytestmark = pytest.mark.needs_root("chown")

SOMEBODY = 12345  # a user


def run(script: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [script, *arguments], cwd="/", env=kept | environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Those of a checkout that belongs to root."""
    return copy_checkout(tmp_path / "checkout") / "scripts"


def planted_venv(scripts: Path, owner: int, mode: int) -> Path:
    """A .venv whose interpreter leaves a mark; it looks as if scripts/setup had made it."""
    venv = scripts.parent / ".venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("python", "xsk"):
        (venv / "bin" / name).write_text(f"#!/bin/sh\n: >{venv.parent}/executed\n")
        (venv / "bin" / name).chmod(0o755)
    (venv / "bin" / "activate").write_text(str(venv))
    os.chown(venv, owner, owner)
    venv.chmod(mode)
    return venv


@pytest.mark.parametrize(("owner", "mode"), [(SOMEBODY, 0o755), (0, 0o777)])
@pytest.mark.parametrize("script", ["setup", "demo", "test"])
def test_a_venv_that_is_not_ours_is_not_run(scripts: Path, script: str, owner: int, mode: int) -> None:
    venv = planted_venv(scripts, owner, mode)
    status, said = run(scripts / script)
    assert status == 1
    assert f"{venv} belongs to user {owner}" in said
    assert "remove it, and run this again" in said
    assert not (scripts.parent / "executed").exists()
    assert (venv / "bin" / "python").exists(), "what is not ours is not removed either"


def test_the_venv_of_whose_checkout_it_is_is_good_enough_for_root(scripts: Path) -> None:
    venv = planted_venv(scripts, SOMEBODY, 0o755)
    os.chown(scripts.parent, SOMEBODY, SOMEBODY)
    _, said = run(scripts / "setup", PIP_NO_INDEX="1", TMPDIR=str(scripts))  # for the log of a pip that fails
    assert "belongs to" not in said
    assert (venv.parent / "executed").exists()


SHOW = """#!/bin/bash -p
source "${BASH_SOURCE[0]%/*}/safely.sh"
printf '%s\\n' "${TMPDIR-unset}"
"""


@pytest.mark.parametrize(
    ("owner", "mode", "used"),
    [
        (0, 0o700, True),
        (0, 0o1777, True),  # as /tmp
        (SOMEBODY, 0o755, False),  # its owner exchanges what we make in it
        (SOMEBODY, 0o1777, False),
        (0, 0o777, False),
    ],
)
def test_a_directory_for_temporary_files(scripts: Path, tmp_path: Path, owner: int, mode: int, used: bool) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    place.chmod(mode)
    os.chown(place, owner, owner)
    place.chmod(mode)
    (scripts / "show").write_text(SHOW)
    (scripts / "show").chmod(0o755)
    assert run(scripts / "show", TMPDIR=str(place)) == (0, f"{place}\n" if used else "unset\n")
    assert run(scripts / "show", TMPDIR="temporary") == (0, "unset\n")
    assert run(scripts / "show", TMPDIR=str(place / "not there")) == (0, "unset\n")


@pytest.mark.parametrize(
    ("script", "variable", "arguments"),
    [
        ("test-aarch64", "AARCH64_ROOT", ()),
        ("test-debian", "DEBIAN_ROOT", ("trixie",)),
        ("guest", "GUEST_ROOT", ("--", "true")),
        ("guest", "GUEST_ROOT", ("--", "ls", "-h")),
    ],
)
@pytest.mark.parametrize("how", ["owner", "mode", "link"])
def test_programs_in_a_place_of_somebody_else_are_not_run(
    scripts: Path, tmp_path: Path, script: str, variable: str, arguments: tuple[str, ...], how: str
) -> None:
    """Its place is known, and lies where anybody could have made it before: /var/tmp."""
    store = tmp_path / "store"
    (store / "arm64").mkdir(parents=True)
    for name in ("complete", "trixie.complete"):
        (store / name).touch()
    given = store
    if how == "owner":
        os.chown(store, SOMEBODY, SOMEBODY)
    elif how == "mode":
        store.chmod(0o777)
    else:
        given = tmp_path / "link"
        given.symlink_to(store)
    status, said = run(scripts / script, *arguments, **{variable: str(given)})
    assert status == 1
    assert f"{given} belongs to user" in said
    assert "name another directory" in said
