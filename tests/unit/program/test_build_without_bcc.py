# SPDX-License-Identifier: Apache-2.0
"""A program that was compiled once is had where BCC is gone; what has changed since is not, and the error says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolkit._base.cache import Cache
from toolkit.errors import LibraryError
from toolkit.program import build, sources
from toolkit.program.image import Image

pytestmark = pytest.mark.needs("bcc")
PROGRAM = '#include "verdict.h"\nint first(struct xdp_md *ctx)\n{\n\treturn VERDICT;\n}\n'


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache for the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "afxdp-toolkit"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program with a header of its own."""
    (tmp_path / "verdict.h").write_text("#define VERDICT XDP_DROP\n")
    (tmp_path / "mine.c").write_text(PROGRAM)
    return tmp_path / "mine.c"


@pytest.fixture
def remove_bcc(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Take BCC off the machine: neither its files nor an interpreter that has it."""

    def remove() -> None:
        for name in ("PLACES", "_LIBRARIES"):
            monkeypatch.setattr(build, name, ())
        monkeypatch.setattr(build, "interpreters", lambda: ["/nonexistent/python3"])
        build._toolchain.cache_clear()

    yield remove
    build._toolchain.cache_clear()


def compiled(program: Path) -> dict[str, Image]:
    """The Images of a program."""
    source = sources.read(str(program))
    return build.build_images(source, sources.assemble(source, "all", {}))


def test_what_is_cached_needs_no_bcc(own_cache: Path, program: Path, remove_bcc: Callable[[], None]) -> None:
    """It is the same program."""
    first = compiled(program)
    remove_bcc()
    assert compiled(program) == first


def test_what_has_changed_is_not_taken(own_cache: Path, program: Path, remove_bcc: Callable[[], None]) -> None:
    """Neither with another header nor with another text; and with the old one it is had again."""
    first = compiled(program)
    remove_bcc()
    header = program.with_name("verdict.h")
    before = header.read_text()
    header.write_text("#define VERDICT XDP_PASS\n")
    with pytest.raises(LibraryError, match="no interpreter has BCC"):
        compiled(program)
    header.write_text(before)
    assert compiled(program) == first
    program.write_text(PROGRAM.replace("first", "second"))
    with pytest.raises(LibraryError, match="no interpreter has BCC"):
        compiled(program)


def test_what_others_could_have_written_is_not_taken(
    own_cache: Path, program: Path, remove_bcc: Callable[[], None]
) -> None:
    """The cache's own rules hold for it."""
    compiled(program)
    remove_bcc()
    own_cache.chmod(0o777)
    with pytest.raises(LibraryError), pytest.warns(UserWarning, match="others can write"):
        compiled(program)


def test_with_bcc_it_is_never_read(own_cache: Path, program: Path) -> None:
    """What the last BCC made is for a machine without any: with one, everything is by the whole toolchain."""
    first = compiled(program)
    (last,) = own_cache.glob("last-*")
    with Cache() as kept:
        other = kept.load(last.stem)
        assert other is not None
        other["functions"]["first"]["instructions"] = "twAAAAEAAACVAAAAAAAAAA=="
        kept.store(last.stem, other)
    for entry in own_cache.glob("[!l]*.json"):
        entry.unlink()
    assert compiled(program) == first
