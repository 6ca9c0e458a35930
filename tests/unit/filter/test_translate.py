# SPDX-License-Identifier: Apache-2.0
"""Filters mean what libpcap says: the C that they become, compiled by BCC's clang, against libpcap's interpreter."""

from __future__ import annotations

import pytest

from tests.helpers import filter_corpus as corpus
from tests.helpers.ebpf import Machine
from toolkit.abi import libpcap
from toolkit.errors import FilterError
from toolkit.filter.translate import translate, translate_instructions
from toolkit.program import build, sources
from toolkit.program.image import Image

XDP_PASS, XDP_TX = 2, 3


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """Fewer than the kernel test has: each is evaluated in Python. One of exactly 60 B for the loads at the end."""
    return [*corpus.packets(180), bytes(range(60)), bytes(60)]


def _compile(programs: list[list[libpcap.Instruction]]) -> dict[str, Image]:
    source = sources.read(corpus.harness(programs))
    return build.build_images(source, source.text, cache=False)


def _check(names: list[str], programs: list[list[libpcap.Instruction]], packets: list[bytes]) -> int:
    """Compare verdicts; how many packets were accepted."""
    images = _compile(programs)
    accepted = 0
    for i, (name, program) in enumerate(zip(names, programs, strict=True)):
        code = images[f"run{i}"].instructions
        for packet in packets:
            expected = libpcap.offline_filter(program, packet)
            verdict = Machine(packet).run(code)
            assert verdict in (XDP_PASS, XDP_TX)
            assert (verdict == XDP_TX) == expected, f"{name!r} on {packet.hex()}"
            accepted += expected
    return accepted


@pytest.mark.parametrize("optimise", [True, False])
def test_every_expression_means_what_libpcap_says(packets: list[bytes], optimise: bool) -> None:
    programs = [libpcap.compile_expression(expression, optimise) for expression in corpus.EXPRESSIONS]
    assert len(programs) > 120
    assert _check(corpus.EXPRESSIONS, programs, packets) > 1000  # the packets do try the filters


def test_instructions_that_expressions_seldom_use(packets: list[bytes]) -> None:
    names, programs = [name for name, _ in corpus.BY_HAND], [program for _, program in corpus.BY_HAND]
    assert _check(names, programs, packets) > 500


def test_the_same_expression_gives_the_same_text() -> None:
    assert translate("udp port 53") == translate("udp port 53")
    assert "udp port 53" in translate("udp port 53").splitlines()[0]


def test_an_expression_cannot_break_out_of_its_comment() -> None:
    # Both are expressions that libpcap accepts: a multiplication beside a division, a backslash at a line's end.
    for expression in ("ip[8] */**/ 1 = 1", "ip[8] * 2 = 6 and \\ip", "ip or\n udp"):
        try:
            lines = translate(expression).splitlines()
        except FilterError:
            continue
        assert lines[0].startswith("/* ")
        assert lines[0].count("*/") == 1
        assert lines[1].startswith("static")


def test_a_jump_out_of_the_program_is_refused() -> None:
    with pytest.raises(FilterError, match="jumps out"):
        translate_instructions([(0x05, 0, 0, 7)])


def test_unknown_instructions_are_refused() -> None:
    for code in (0xC0, 0xB4, 0x55 | 0x80):
        with pytest.raises(FilterError, match="unknown"):
            translate_instructions([(code, 0, 0, 0), (0x06, 0, 0, 0)])
