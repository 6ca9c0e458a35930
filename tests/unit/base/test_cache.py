# SPDX-License-Identifier: Apache-2.0
"""The cache of compiled programs: believed only if nobody else can write it, and never a reason to fail."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import pytest

from toolkit._base import cache
from toolkit._base.cache import Cache, CacheWarning

ENTRY = {"a": [1, 2, 3]}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory that the cache will use; it does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "deep" / "down"))
    return tmp_path / "deep" / "down" / "afxdp-toolkit"


def test_what_is_stored_comes_back(place: Path) -> None:
    with Cache() as kept:
        assert kept.load("key") is None
        kept.store("key", ENTRY)
        assert kept.load("key") == ENTRY
    assert place.stat().st_mode & 0o777 == 0o700
    assert (place / "key.json").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in place.iterdir()] == ["key.json"]  # no temporary file is left


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o720])
def test_a_directory_that_others_can_write_is_not_trusted(place: Path, mode: int) -> None:
    with Cache() as kept:
        kept.store("key", ENTRY)
    place.chmod(mode)
    with pytest.warns(CacheWarning, match=r"others can write to it \(mode 07\d\d\).*chmod 700"):
        distrusted = Cache()
    with distrusted as kept:
        assert kept.load("key") is None
        kept.store("other", ENTRY)
    assert not (place / "other.json").exists()


@pytest.mark.needs_root("chown")
def test_a_directory_of_somebody_else_is_not_trusted(place: Path) -> None:
    place.mkdir(parents=True, mode=0o755)
    os.chown(place, 12345, -1)
    with pytest.warns(CacheWarning, match="belongs to user 12345"), Cache() as kept:
        kept.store("key", ENTRY)
    assert not list(place.iterdir())


def test_a_symbolic_link_is_not_followed(place: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(CacheWarning), Cache() as kept:
        kept.store("key", ENTRY)
    assert not list((tmp_path / "elsewhere").iterdir())


def signed(text: bytes) -> bytes:
    """As store() writes it."""
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


DAMAGES = {
    "empty": b"",
    "cut": b"{",
    "no text": b"\xff\xfe",
    "not signed": b'{"a": [1, 2, 3]}',
    "nested": b"[" * 100_000,
    "nested, signed": signed(b"[" * 100_000),
    "objects, signed": signed(b'{"a":' * 100_000),
    "a long number, signed": signed(b'{"a": ' + b"7" * 100_000 + b"}"),
    "no text, signed": signed(b'{"a": "\xff\xfe"}'),
    "no object, signed": signed(b"[1]"),
    "null, signed": signed(b"null"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_as_good_as_none(place: Path, damage: bytes) -> None:
    with Cache() as kept:
        kept.store("key", ENTRY)
        (place / "key.json").write_bytes(damage)
        assert kept.load("key") is None
        kept.store("key", ENTRY)
        assert kept.load("key") == ENTRY


def test_every_byte_of_an_entry_counts(place: Path) -> None:
    with Cache() as kept:
        kept.store("key", ENTRY)
        whole = (place / "key.json").read_bytes()
        for at in range(len(whole)):
            (place / "key.json").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            assert kept.load("key") is None, at
            (place / "key.json").write_bytes(whole[:at])
            assert kept.load("key") is None, at


def test_what_is_no_file_or_too_large_is_not_read(place: Path) -> None:
    with Cache() as kept:
        kept.store("key", ENTRY)
        entry = place / "key.json"
        with entry.open("r+b") as file:
            file.truncate(1 << 40)  # a hole: reading it would take all memory
        assert kept.load("key") is None
        for make in (os.mkfifo, os.mkdir):
            if entry.exists():
                entry.unlink()
            make(entry, 0o600)
            assert kept.load("key") is None
        kept.store("key", ENTRY)  # a directory is in its way: no error
        assert sorted(p.name for p in place.iterdir()) == ["key.json"]


def test_an_entry_that_others_can_write_is_not_trusted(place: Path) -> None:
    with Cache() as kept:
        kept.store("key", ENTRY)
        (place / "key.json").chmod(0o666)
        assert kept.load("key") is None


def test_a_place_that_cannot_be_made_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(CacheWarning):
        absent = Cache()
    with absent as kept:
        kept.store("key", ENTRY)
        assert kept.load("key") is None


def test_no_home_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "directory", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Cache() as kept:
            kept.store("key", ENTRY)
            assert kept.load("key") is None


@pytest.mark.needs_root("chown")
def test_root_leaves_another_s_home_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = cache.directory()
    assert found is not None
    assert tmp_path not in found.parents
    for place in (tmp_path, tmp_path / ".cache", tmp_path / "not" / "there"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(place))
        assert cache.directory() == found


def test_old_entries_go(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    with Cache() as kept:
        for i in range(6):
            kept.store(f"key{i}", ENTRY)
            os.utime(place / f"key{i}.json", (i, i))
        assert kept.load("key5") == ENTRY
    assert len(list(place.iterdir())) == 3


@pytest.mark.parametrize("there", [True, False])
def test_the_next_step_fits_what_is_there(place: Path, there: bool) -> None:
    """A file in the place of the directory is to be removed; a file above it is nothing that this can name."""
    if there:
        place.parent.mkdir(parents=True)
        place.write_text("")
    else:
        place.parent.parent.parent.mkdir(exist_ok=True)
        place.parent.parent.write_text("")
    with pytest.warns(CacheWarning) as seen, Cache():
        pass
    remedy = str(seen[0].message).partition("Next step: ")[2]
    assert (f"remove it: `rm -r {place}`" in remedy) == there
    assert remedy.startswith("set XDG_CACHE_HOME") != there
    assert seen[0].filename == __file__
