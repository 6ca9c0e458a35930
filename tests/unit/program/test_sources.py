# SPDX-License-Identifier: Apache-2.0
"""Finding sources, and putting filter and macros in front of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.errors import ArgumentError, FilterError
from toolkit.filter.translate import translate
from toolkit.program import build, sources

OWN = ("xsk_redirect.c", "xdp_drop.c", "xdp_pass.c")


@pytest.mark.parametrize("name", OWN)
def test_own_programs_are_found_by_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("somebody else's\n")
    monkeypatch.chdir(tmp_path)
    found = sources.read(name)
    assert found.text.startswith("/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */")
    assert sources.read(tmp_path / name).text == "somebody else's\n"


def test_a_path_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.c").write_text("int x;\n")
    for given in (tmp_path / "mine.c", str(tmp_path / "mine.c")):
        source = sources.read(given)
        assert source.text == "int x;\n"
        assert source.include[0] == str(tmp_path)


def test_text_is_text() -> None:
    assert sources.read("int x;\n").text == "int x;\n"


def test_what_is_not_there_is_named_with_what_is() -> None:
    with pytest.raises(
        ArgumentError, match=r"'xsk_redirekt\.c'.*No such file.*xdp_drop\.c, xdp_pass\.c, xsk_redirect\.c"
    ):
        sources.read("xsk_redirekt.c")


def test_the_filter_takes_the_place_of_the_header_s() -> None:
    text = sources.source_text("xdp_drop.c", filter="udp port 53")
    assert translate("udp port 53") in text
    assert text.index("#define XSK_FILTER_H") < text.index("static __always_inline u32 match") < text.index("#line 1")
    assert "XSK_FILTER_H" not in sources.source_text("xdp_drop.c")


def test_a_filter_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"does not include \"xsk_filter\.h\".*no effect"):
        sources.source_text("xdp_pass.c", filter="udp")
    with pytest.raises(FilterError):
        sources.source_text("xdp_drop.c", filter="no such protocol")


def test_macros_reach_the_program() -> None:
    program = "int first(struct xdp_md *ctx) { return VERDICT + ONE; }\n"
    source = sources.read(program)
    text = sources.assemble(source, "all", {"VERDICT": "XDP_DROP /* not a pass */", "ONE": 1})
    assert build.build_images(source, text, cache=False)["first"].instructions[4] == 2


@pytest.mark.parametrize("name", ["", "1A", "A B", "A\n#include", "A(x)"])
def test_a_macro_has_a_name(name: str) -> None:
    with pytest.raises(ArgumentError, match="the name of a macro cannot be"):
        sources.source_text("xdp_pass.c", defines={name: 1})
