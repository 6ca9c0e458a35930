# SPDX-License-Identifier: Apache-2.0
"""The BCC worker: what it compiles, what it says when it cannot, and that it leaves no trace in this process.

Programs without maps need no privilege to compile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.interpreters import finding_first
from toolkit._base.cache import Cache, CacheWarning
from toolkit.errors import ArgumentError, CompileError, LibraryError, ToolkitError
from toolkit.program import bcc, build, sources
from toolkit.program.image import Image

PROGRAM = """
#include <uapi/linux/bpf.h>
int first(struct xdp_md *ctx) { return XDP_PASS; }
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache directory that starts empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "afxdp-toolkit"


def compiled(text: str, **options: Any) -> dict[str, Image]:
    source = sources.read(text)
    return build.build_images(source, sources.assemble(source, "all", {}), **options)


def entries(cache: Path) -> list[Path]:
    """What is kept by the whole toolchain; beside each lies what a machine without BCC would find."""
    return [path for path in cache.iterdir() if not path.name.startswith("last-")]


def interpreter(tmp_path: Path, bcc_source: str) -> str:
    """An interpreter that finds a `bcc` of this source before any other."""
    package = tmp_path / "site" / "bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(textwrap.dedent(bcc_source))
    return finding_first(package.parent, str(sys.executable), tmp_path / "python")


def test_instructions_come_back() -> None:
    images = compiled(PROGRAM)
    assert list(images) == ["first"]
    assert images["first"].maps == ()
    # r0 = XDP_PASS; exit
    assert images["first"].instructions == bytes.fromhex("b700000002000000 9500000000000000")


def test_a_second_time_there_is_no_worker(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    first = compiled(PROGRAM)
    assert len(entries(own_cache)) == 1

    def worker(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(build, "_run", worker)
    assert compiled(PROGRAM) == first
    with pytest.raises(AssertionError):
        compiled(PROGRAM, cache=False)
    with pytest.raises(AssertionError):
        compiled(PROGRAM + "\n")


NESTED = "[" * 100_000
FIRST = {"instructions": "twAAAAIAAACVAAAAAAAAAA==", "relocations": []}
MAP = {"name": "m", "type": 2, "key_size": 4, "value_size": 8, "max_entries": 1, "flags": 0, "value_layout": ""}


@pytest.mark.parametrize(
    "damage",
    [
        {"functions": {}},
        {"functions": {"first": {}}},
        {"functions": [FIRST]},
        {"functions": {"first": {**FIRST, "relocations": [[0, 0]]}}},
        {"functions": {"first": {**FIRST, "instructions": "tw=="}}},
        {"functions": {"first": {**FIRST, "instructions": 7}}},
        {"maps": 1},
        {"maps": [{**MAP, "type": 1e999}]},
        {"maps": [{**MAP, "max_entries": 1 << 70}]},
        {"maps": [{**MAP, "key_size": -1}]},
        {"maps": [{**MAP, "flags": "0"}]},
        {"maps": [{**MAP, "value_layout": NESTED}]},
        {"depends": None},
        {"depends": {"read": [], "missing": []}},
        {"depends": {"read": {"/\0": "0"}, "missing": []}},
        {"depends": {"read": {}, "missing": [{}]}},
        {"depends": {"read": {"/dev/zero": "0"}, "missing": []}},
    ],
    ids=lambda damage: str(damage)[:60],
)
def test_an_entry_of_another_shape_is_compiled_anew(own_cache: Path, damage: dict[str, Any]) -> None:
    first = compiled(PROGRAM)
    (entry,) = entries(own_cache)
    with Cache() as kept:
        whole = kept.load(entry.stem)
        assert whole is not None
        kept.store(entry.stem, {**whole, **damage})
        assert compiled(PROGRAM) == first
        assert kept.load(entry.stem) == {**whole, "depends": {**whole["depends"]}}


def test_an_untrusted_cache_is_said_and_not_used(own_cache: Path) -> None:
    poisoned = compiled(PROGRAM)
    (entry,) = entries(own_cache)
    with Cache() as kept:
        other = kept.load(entry.stem)
        assert other is not None
        other["functions"]["first"]["instructions"] = "twAAAAEAAACVAAAAAAAAAA=="
        kept.store(entry.stem, other)
    assert compiled(PROGRAM) != poisoned  # the entry is what would be loaded
    own_cache.chmod(0o777)
    with pytest.warns(CacheWarning, match="others can write"):
        assert compiled(PROGRAM) == poisoned


def test_clang_s_words_are_in_the_error_with_name_and_line(tmp_path: Path) -> None:
    program = tmp_path / "broken.c"
    program.write_text("int broken(struct xdp_md *ctx)\n{\n\treturn NO_SUCH_THING;\n}\n")
    source = sources.read(program)
    with pytest.raises(CompileError, match=r"broken\.c:3:9: error: use of undeclared identifier 'NO_SUCH_THING'"):
        build.build_images(source, sources.assemble(source, "all", {"X": 1}))


def test_a_header_that_is_not_there() -> None:
    with pytest.raises(CompileError, match=r"'linux/skbuff.h' file not found") as error:
        compiled("#include <linux/skbuff.h>\n" + PROGRAM)
    if not bcc.have_kernel_headers():
        assert "linux-headers-" in str(error.value)


def test_every_carried_header_compiles() -> None:
    root = sources.headers() / "include"
    names = sorted({str(path.relative_to(root)) for path in root.rglob("*.h")} - {"linux/kconfig.h"})
    assert len(names) > 25
    text = "".join(f"#include <{name}>\n" for name in names)
    sizes = {"ethhdr": 14, "vlan_hdr": 4, "iphdr": 20, "ipv6hdr": 40, "tcphdr": 20, "udphdr": 8, "icmphdr": 8}
    checks = "".join(f'_Static_assert(sizeof(struct {name}) == {size}, "");\n' for name, size in sizes.items())
    assert "first" in compiled(text + checks + PROGRAM)


def test_several_functions_are_told_apart() -> None:
    images = compiled(PROGRAM + "int second(struct xdp_md *ctx) { return XDP_DROP; }\n")
    assert sorted(images) == ["first", "second"]
    assert build.choose(images, "second", "it").instructions[4] == 1
    with pytest.raises(ArgumentError, match="first, second"):
        build.choose(images, None, "it")
    with pytest.raises(ArgumentError, match="function="):
        build.choose(images, "third", "it")


def test_no_interpreter_has_bcc(tmp_path: Path) -> None:
    absent = interpreter(tmp_path, "raise ImportError('No module named bcc')")
    with pytest.raises(LibraryError, match=r"python \(No module named bcc\), /no/such/python.*python3-bpfcc"):
        compiled(PROGRAM, cache=False, candidates=[absent, "/no/such/python"])


def test_the_bcc_of_pypi_is_recognised(tmp_path: Path) -> None:
    wrong = interpreter(tmp_path, "__version__ = '1.0'")
    with pytest.raises(LibraryError, match=r"bcc/__init__\.py is another package.*python3-bpfcc"):
        compiled(PROGRAM, cache=False, candidates=[wrong])
    assert "first" in compiled(PROGRAM, cache=False, candidates=[wrong, build.SYSTEM_PYTHON])


def test_a_bcc_without_its_library(tmp_path: Path) -> None:
    broken = interpreter(tmp_path, "import ctypes; ctypes.CDLL('libbcc.so.none')")
    with pytest.raises(LibraryError, match=r"libbcc\.so\.none.*python3-bpfcc"):
        compiled(PROGRAM, cache=False, candidates=[broken])


def test_a_worker_that_dies_is_an_error(tmp_path: Path) -> None:
    dying = interpreter(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ToolkitError, match="status -11"):
        compiled(PROGRAM, cache=False, candidates=[dying])


def test_the_worker_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file = tmp_path / "pid"
    slow = interpreter(
        tmp_path, f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    monkeypatch.setattr(build, "TIME_LIMIT", 1.0)
    with pytest.raises(ToolkitError, match="longer than 1 s"):
        compiled(PROGRAM, cache=False, candidates=[slow])
    assert not alive(int(pid_file.read_text()))


def test_the_worker_dies_with_its_parent(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    slow = interpreter(
        tmp_path,
        f"""
        import os, time
        with open({str(pid_file) + ".new"!r}, "w") as file:
            file.write(str(os.getpid()))
        os.rename({str(pid_file) + ".new"!r}, {str(pid_file)!r})
        time.sleep(60)
        """,
    )
    script = (
        "from toolkit.program import build, sources\n"
        f"source = sources.read({PROGRAM!r})\n"
        f"build.build_images(source, source.text, cache=False, candidates=[{slow!r}])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(build.__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, "-c", script], env=environment)
    try:
        assert eventually(pid_file.exists)
        worker = int(pid_file.read_text())
        assert alive(worker)
    finally:
        parent.kill()
        parent.wait()
    assert eventually(lambda: not alive(worker))


def test_this_process_stays_as_it_was(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    before, environment = os.getcwd(), dict(os.environ)
    compiled(PROGRAM, cache=False)
    with pytest.raises(CompileError):
        compiled("int broken(struct xdp_md *ctx) { return; }\n", cache=False)
    assert os.getcwd() == before
    assert dict(os.environ) == environment
    assert capfd.readouterr() == ("", "")
    with open("/proc/self/maps") as maps:
        loaded = maps.read()
    if "bcc" not in sys.modules:  # another test of this run may have wanted it
        assert "libbcc" not in loaded
        assert "libLLVM" not in loaded


def test_a_directory_that_vanished_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "first" in compiled(PROGRAM, cache=False)


def test_the_user_s_python_settings_do_not_reach_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('somebody else\\'s json')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", str(tmp_path))
    (tmp_path / "libbcc.so.0").write_text("not a library, as conda's would be another one")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/no/such/place")
    assert "first" in compiled(PROGRAM, cache=False, candidates=[build.SYSTEM_PYTHON])


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_jump_that_llvm_gives_up_on_has_a_next_step() -> None:
    source = sources.SourceText("rules", "", ())
    report = {"status": "error", "detail": "it ended with status -6 and no report"}
    refused = build._refusal(source, report, "LLVM ERROR: Branch target out of insn range\n")
    assert isinstance(refused, CompileError)
    assert "Next step: `net`" in str(refused)


def test_a_bcc_that_was_loaded_from_elsewhere_is_no_reason_to_ask_this_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = build.interpreters()
    monkeypatch.setitem(sys.modules, "bcc", types.ModuleType("bcc"))
    assert build.interpreters() == before
