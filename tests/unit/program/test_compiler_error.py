# SPDX-License-Identifier: Apache-2.0
"""A program that cannot be compiled is refused with clang's line, and with a next step, before the verifier sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import ArgumentError, CompileError
from toolkit.program import Program, build, sources
from toolkit.program.compiler_error import next_step

TUTORIAL = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "GPL";
"""
LIBBPF_MAP = """#include <linux/bpf.h>
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
} counts;
int pass(struct xdp_md *ctx) { return XDP_PASS; }
"""


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refusal(text: str | Path) -> str:
    source = sources.read(text)
    with pytest.raises(CompileError) as refused:
        build.build_images(source, sources.assemble(source, "all", {}))
    return str(refused.value)


@pytest.mark.parametrize("call", ["foo(ctx->data)", "printf(1)", "bpf_xdp_no_such_helper(ctx)"])
def test_an_undeclared_function_is_named_with_its_line(call: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.c"
    path.write_text(f"int mine(struct xdp_md *ctx)\n{{\n\treturn {call} ? XDP_DROP : XDP_PASS;\n}}\n")
    says = refusal(path)
    name = call.partition("(")[0]
    assert f"{path}:3:9: error:" in says
    assert f"'{name}'" in says
    assert f"no function {name} is known here" in says
    assert "Next step: define it in the program" in says


@pytest.mark.parametrize(
    "says",
    [
        "m.c:2:9: error: implicit declaration of function 'foo' is invalid in C99 [-Werror,-Wimplicit-function-declara",
        "m.c:2:9: error: call to undeclared function 'foo'; ISO C99 and later do not support implicit function declar",
        "m.c:2:9: error: implicitly declaring library function 'foo' with type 'int (const char *, ...)'",
        "m.c:2:9: error: call to undeclared library function 'foo' with type 'int (const char *, ...)'",
    ],
)
def test_every_clang_s_way_to_say_it(says: str) -> None:
    assert "no function foo is known here" in next_step(says)


def test_a_program_that_ends_without_a_verdict() -> None:
    """It would be loaded, and whatever is in the register would decide."""
    says = refusal("int mine(struct xdp_md *ctx)\n{\n\tif (ctx->data)\n\t\treturn XDP_PASS;\n}\n")
    assert "<text>:5:1: error: non-void function does not return a value in all control paths" in says


@pytest.mark.parametrize("text", [TUTORIAL, LIBBPF_MAP])
def test_the_dialect_of_libbpf_has_a_next_step(text: str) -> None:
    says = refusal(text)
    assert "error:" in says
    assert "Likely cause: it is written for libbpf" in says
    assert "Next step: leave out SEC(...)" in says


def test_another_s_error_is_not_put_down_to_libbpf() -> None:
    says = refusal("/* not SEC(...) as libbpf has it */\nint mine(struct xdp_md *ctx)\n{\n\treturn NO_SUCH;\n}\n")
    assert "libbpf" not in says.partition("error:")[2]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(range(256)), "a compiled object file"),
        ("int f(struct xdp_md *ctx) { return 2; }\n".encode("utf-16"), "not a text file"),
    ],
)
def test_what_is_no_source(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match=rf"cannot compile the program '{path}': it is {what}.*Next step: .*\.c"):
        Program.build(path)


def test_a_comment_in_another_encoding(tmp_path: Path) -> None:
    """Some editors write Latin-1; the code of a program has ASCII only."""
    path = tmp_path / "latin.c"
    path.write_bytes(b"/* f\xfcr alle */\nint latin(struct xdp_md *ctx)\n{\n\treturn XDP_PASS;\n}\n")
    source = sources.read(path)
    for _ in range(2):  # compiled, and out of the cache
        assert list(build.build_images(source, sources.assemble(source, "all", {}))) == ["latin"]


def test_a_file_without_a_function(tmp_path: Path) -> None:
    path = tmp_path / "empty.c"
    path.write_text("static int hidden(struct xdp_md *ctx)\n{\n\treturn XDP_PASS;\n}\n")
    with pytest.raises(ArgumentError, match=r"no function that could be an XDP program.*not static, such as"):
        Program.build(path)
