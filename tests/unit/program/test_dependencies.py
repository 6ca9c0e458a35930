# SPDX-License-Identifier: Apache-2.0
"""A compiled program is taken from the cache only while clang would read the same bytes again."""

from __future__ import annotations

import os
import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.interpreters import finding_first
from toolkit.program import build, dependencies, sources

MAIN = "#include <uapi/linux/bpf.h>\n{include}\nint mine(struct xdp_md *ctx) {{ return VERDICT; }}\n"
DROP, PASS = 1, 2


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache directory that starts empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "afxdp-toolkit"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the program and its headers are: a path that a makefile has to escape."""
    made = tmp_path / "my #1 $HOME"
    made.mkdir()
    return made


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When a worker was started."""
    started: list[float] = []
    real = build._run

    def run(*arguments: Any) -> Any:
        started.append(time.time())
        return real(*arguments)

    monkeypatch.setattr(build, "_run", run)
    return started


def verdict(program: Path, **options: Any) -> int:
    """Compile it, or take it from the cache: what the program returns."""
    source = sources.read(program)
    return build.build_images(source, sources.assemble(source, "all", {}), **options)["mine"].instructions[4]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    time.sleep(0.05)  # what changed within a tick of the compiler's start is not kept, and a warm machine is quick
    return path


# How a header comes in that defines VERDICT as XDP_DROP: (what the program says, other files, the header).
WAYS: dict[str, tuple[str, dict[str, str], str]] = {
    "quoted": ('#include "a.h"', {}, "a.h"),
    "through another": ('#include "sub/a.h"', {"sub/a.h": '#include "b.h"'}, "sub/b.h"),
    "through two others": (
        '#include "sub/a.h"',
        {"sub/a.h": '#include "deep/b.h"', "sub/deep/b.h": '#include "../../c.h"'},
        "c.h",
    ),
    "by a macro": ('#define H "a.h"\n#include H', {}, "a.h"),
    "by a macro in a header": ('#include "n.h"\n#include H', {"n.h": "#define H <sub/a.h>"}, "sub/a.h"),
    "in angle brackets": ("#include <a.h>", {}, "a.h"),
    "over two lines": ('#inc\\\nlude "a.h"', {}, "a.h"),
    "behind a comment": ('/* */ # /* */ include /* */ "a.h"', {}, "a.h"),
    "by import": ('#import "a.h"', {}, "a.h"),
    "by a name with blanks": ('#include "my header.h"', {}, "my header.h"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_changed_header_is_a_changed_program(place: Path, way: str, runs: list[float]) -> None:
    include, others, header = WAYS[way]
    program = write(place / "mine.c", MAIN.format(include=include))
    for name, text in others.items():
        write(place / name, text + "\n")
    for text, expected in (("XDP_DROP", DROP), ("XDP_PASS", PASS)):
        write(place / header, f"#define VERDICT {text}\n")
        before = len(runs)
        assert verdict(program) == expected
        compiled = len(runs)  # an interpreter without BCC may have been asked first
        assert compiled > before
        assert verdict(program) == expected
        assert len(runs) == compiled, "it was not kept"
    os.utime(place / header, (0, 0))  # another time, the same bytes
    assert verdict(program) == PASS
    assert len(runs) == compiled


def test_an_absolute_include_and_one_from_another_directory(place: Path, tmp_path: Path) -> None:
    header = write(tmp_path / "elsewhere" / "a.h", '#include "b.h"\n')
    program = write(place / "mine.c", MAIN.format(include=f'#include "{header}"'))
    for text, expected in (("XDP_DROP", DROP), ("XDP_PASS", PASS)):
        write(header.parent / "b.h", f"#define VERDICT {text}\n")
        assert verdict(program) == expected


def test_a_header_that_is_gone_is_missed(place: Path) -> None:
    program = write(place / "mine.c", MAIN.format(include='#include "a.h"'))
    write(place / "a.h", "#define VERDICT XDP_DROP\n")
    assert verdict(program) == DROP
    (place / "a.h").unlink()
    with pytest.raises(build.CompileError, match=r"'a\.h' file not found"):
        verdict(program)
    write(place / "b.h", "#define VERDICT XDP_PASS\n")
    (place / "a.h").symlink_to("b.h")
    assert verdict(program) == PASS
    write(place / "c.h", "#define VERDICT XDP_DROP\n")
    (place / "a.h").unlink()
    (place / "a.h").symlink_to("c.h")
    assert verdict(program) == DROP


@pytest.mark.parametrize(
    ("include", "first", "in_front"),
    [
        ('#include "sub/a.h"', "b.h", "sub/b.h"),  # beside the file that includes it comes before the program's own
        ('#include "sub/a.h"', "b.h", "sub/dangling"),
    ],
)
def test_a_header_that_comes_in_front_of_the_one_that_was_read(
    place: Path, include: str, first: str, in_front: str
) -> None:
    program = write(place / "mine.c", MAIN.format(include=include))
    write(place / "sub" / "a.h", '#include "b.h"\n')
    write(place / first, "#define VERDICT XDP_DROP\n")
    if in_front.endswith("dangling"):
        (place / "sub" / "b.h").symlink_to("dangling")
    assert verdict(program) == DROP
    write(place / in_front, "#define VERDICT XDP_PASS\n")
    assert verdict(program) == PASS


def test_a_header_of_the_user_s_in_front_of_the_toolkit_s_own(place: Path) -> None:
    program = write(place / "mine.c", MAIN.format(include='#include "xsk_filter.h"\n#define VERDICT match(ctx)'))
    before = verdict(program)
    write(place / "xsk_filter.h", "static int match(void *ctx) { return XDP_PASS; }\n")
    assert verdict(program) == PASS != before


UNKNOWN = {
    "has_include": ('#if __has_include("x.h")\n#include "x.h"\n#else\n#define VERDICT XDP_DROP\n#endif', {}),
    "has_include, split": ('#if __has_\\\ninclude("x.h")\n#include "x.h"\n#else\n#define VERDICT XDP_DROP\n#endif', {}),
    "has_include in a header": (
        '#include "a.h"',
        {"a.h": '#if __has_include("x.h")\n#include "x.h"\n#else\n#define VERDICT XDP_DROP\n#endif\n'},
    ),
}


@pytest.mark.parametrize("way", UNKNOWN)
def test_what_depends_on_a_file_that_is_not_there_is_not_kept(place: Path, way: str) -> None:
    include, others = UNKNOWN[way]
    program = write(place / "mine.c", MAIN.format(include=include))
    for name, text in others.items():
        write(place / name, text)
    assert verdict(program) == DROP
    write(place / "x.h", "#define VERDICT XDP_PASS\n")
    assert verdict(program) == PASS


@pytest.mark.parametrize("word", ["__TIME__", "__DATE__", "__TIMESTAMP__"])
def test_what_depends_on_the_clock_is_not_kept(place: Path, own_cache: Path, word: str) -> None:
    program = write(
        place / "mine.c", MAIN.format(include=f"#define VERDICT (sizeof({word}) > 1 ? XDP_DROP : XDP_PASS)")
    )
    assert verdict(program) == DROP
    assert not list(own_cache.glob("*.json"))


def interpreter(tmp_path: Path, after: Callable[[Path], str], header: Path) -> str:
    """The system's Python with the real BCC, which does something with a header once clang has read it."""
    package = tmp_path / "site" / "bcc"
    shutil.copytree("/usr/lib/python3/dist-packages/bcc", package)
    with (package / "__init__.py").open("a") as file:
        file.write(
            textwrap.dedent(f"""
            class Real(BPF): pass
            class BPF(Real):
                def __init__(self, *args, **options):
                    super().__init__(*args, **options)
                    {after(header)}
        """)
        )
    return finding_first(package.parent, str(build.SYSTEM_PYTHON), tmp_path / "python")


CHANGES: dict[str, Callable[[Path], str]] = {
    "written": lambda header: f"open({str(header)!r}, 'w').write('#define VERDICT XDP_PASS\\n')",
    "replaced": lambda header: (
        f"import os; open({str(header)!r} + '.new', 'w').write('#define VERDICT XDP_PASS\\n'); "
        f"os.utime({str(header)!r} + '.new', (0, 0)); os.rename({str(header)!r} + '.new', {str(header)!r})"
    ),
    "covered": lambda header: (
        f"open({str(header.parent / 'sub' / header.name)!r}, 'w').write('#define VERDICT XDP_PASS\\n')"
    ),
}


@pytest.mark.skipif(
    not os.path.isdir("/usr/lib/python3/dist-packages/bcc"),
    reason="BCC is not where Debian installs it: the test changes a copy of that",
)
@pytest.mark.parametrize("change", CHANGES)
def test_a_header_that_changes_during_the_compilation(place: Path, tmp_path: Path, change: str) -> None:
    program = write(place / "mine.c", MAIN.format(include='#include "sub/a.h"'))
    write(place / "sub" / "a.h", '#include "b.h"\n')
    header = write(place / "b.h", "#define VERDICT XDP_DROP\n")
    changing = interpreter(tmp_path, CHANGES[change], header)
    assert verdict(program, candidates=[changing]) == DROP
    assert verdict(program) == PASS


def test_what_a_makefile_s_rule_names() -> None:
    rule = "main.o: /virtual/main.c include/a.h \\\n  /x/my\\ \\#1\\ $$HOME/b.h /x/back\\slash.h \\\n  /x/c.h\n"
    names = ["/virtual/main.c", "include/a.h", "/x/my #1 $HOME/b.h", "/x/back\\slash.h", "/x/c.h"]
    assert dependencies._paths(rule) == names


@pytest.mark.parametrize(
    "rule", ["", "main.o:", "main.o: /no/such/header.h", "main.o: relative.h", "main.o: /dev/zero"]
)
def test_a_rule_that_says_nothing_sure_is_nothing_to_keep_by(rule: str) -> None:
    own = str(sources.headers())
    assert dependencies.noted("int x;", rule, time.time_ns(), include=[], kernel_headers=own) is None


def test_the_headers_of_a_kernel_are_found_where_clang_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "include" / "linux" / "x.h", "__has_include is the kernel's own affair\n")
    monkeypatch.setattr(dependencies, "_kernel_places", lambda: (str(tmp_path / "no"), str(tmp_path)))
    later = time.time_ns() + 1_000_000_000
    rule = "main.o: /virtual/main.c include/linux/x.h\n"
    kept = dependencies.noted("int x;", rule, later, include=[], kernel_headers=None)
    assert kept is not None
    assert list(kept["read"]) == [str(tmp_path / "include" / "linux" / "x.h")]
    assert dependencies.hold(kept)
    write(tmp_path / "include" / "linux" / "x.h", "changed\n")
    assert not dependencies.hold(kept)
