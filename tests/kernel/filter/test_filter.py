# SPDX-License-Identifier: Apache-2.0
"""Filters in the kernel: verified, run on a thousand packets each, and held against libpcap's own interpreter."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.helpers import filter_corpus as corpus
from tests.helpers import filter_manual as manual
from tests.helpers import filter_oracle as oracle
from toolkit.abi import libpcap
from toolkit.errors import FilterError, VerifierError
from toolkit.program import Program, build, load, run, sources

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
EXPRESSIONS = corpus.spoken(dict.fromkeys([*manual.EXAMPLES, *manual.PRIMITIVES, *corpus.EXPRESSIONS]))
ONE_BUFFER = 3520  # bytes of a packet that the kernel's test run puts into the first buffer, on pages of 4096


@functools.cache
def _packets() -> list[bytes]:
    """The same packets in every run."""
    return corpus.packets(1000)


Classic = list[libpcap.Instruction]


def _actions(programs: Sequence[Classic], packets: Sequence[bytes], frags: bool) -> Iterator[npt.NDArray[np.uint32]]:
    """What each program, compiled with all others and loaded by itself, does with the packets."""
    source = sources.read(corpus.harness(programs, frags=frags))
    images = build.build_images(source, source.text)
    for i in range(len(programs)):
        fd = load.load_program(images[f"run{i}"], {}, frags=frags, source="the harness")
        try:
            yield run.run_many(fd, packets)
        finally:
            os.close(fd)


def _compare(expressions: Sequence[str], optimise: bool, packets: Sequence[bytes], frags: bool = False) -> int:
    """Hold the kernel's verdicts on expressions against libpcap's; how many packets were accepted."""
    return _hold(expressions, [libpcap.compile_expression(one, optimise) for one in expressions], packets, frags)


def _hold(names: Sequence[str], programs: Sequence[Classic], packets: Sequence[bytes], frags: bool) -> int:
    accepted = unknown = 0
    for name, program, actions in zip(names, programs, _actions(programs, packets, frags), strict=True):
        expected, known = oracle.verdicts(program, packets)
        assert set(actions.tolist()) <= {XDP_PASS, XDP_TX}
        different = np.flatnonzero(((actions == XDP_TX) != expected) & known)
        assert not different.size, f"{name!r}, {len(program)} instructions, on {packets[different[0]].hex()}"
        accepted += int(expected.sum())
        unknown += int((~known).sum())
    assert unknown * 1000 <= len(names) * len(packets)
    return accepted


@pytest.mark.parametrize("frags", [False, True])
@pytest.mark.parametrize("optimise", [True, False])
def test_no_verdict_differs_from_libpcap_s(optimise: bool, frags: bool) -> None:
    assert len(EXPRESSIONS) >= 400
    # All of them as they are used; every second as code that the optimiser never sees.
    chosen = EXPRESSIONS[:: 1 if optimise else 2]
    assert _compare(chosen, optimise, _packets(), frags) > 50 * len(chosen)


@pytest.mark.parametrize("frags", [False, True])
def test_instructions_that_expressions_seldom_use(frags: bool) -> None:
    names, programs = [name for name, _ in corpus.BY_HAND], [program for _, program in corpus.BY_HAND]
    assert _hold(names, programs, [*_packets(), bytes(range(60)), bytes(60)], frags) > 2000


@settings(max_examples=6, derandomize=True, deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
@given(expressions=st.lists(manual.COMBINATIONS, min_size=30, max_size=30, unique=True), frags=st.booleans())
def test_no_random_combination_differs_from_libpcap(expressions: list[str], frags: bool) -> None:
    packets = _packets()
    _compare(expressions, True, packets, frags)
    _compare(expressions[::3], False, packets, frags)


def _jumbo(lengths: Sequence[int]) -> list[bytes]:
    """Packets of these lengths, of UDP over IPv4 whose bytes tell where they stand."""
    header = bytes.fromhex(
        "020000000002 020000000001 0800 45002328 00004000 4011 0000 0a000001 0a000002 14e9 0035 0000 0000"
    )
    body = np.arange(70_000, dtype=np.uint32).astype(">u4").tobytes()
    return [(header + body[len(header) :])[:length] for length in lengths]


JUMBO_EXPRESSIONS = [
    "udp port 53",
    "udp port 54",
    "len > 3520",
    "len = 9000",
    "ether[len - 1] = 207",
    "ether[len - 4:4] > 2000",
    *(
        f"ether[{at}:{size}] {relation} {value}"
        for at in (3515, 3516, 3517, 3518, 3519, 3520, 3521, 8996, 8998, 8999, 9000, 32766, 32767, 32768, 65532, 65535)
        for size in (1, 2, 4)
        for relation, value in ((">=", 0), ("&", "0x0f = 0x0c"))
    ),
    *(f"ether[len - {back}:{size}] & 3 != 0" for back in (1, 2, 3, 4, 5480, 5481, 5482, 5483) for size in (1, 2, 4)),
    "ether[ether[3519:2]] = 0 or udp",
    "not ether[9000] = 0",
    "udp and udp[3490:4] & 0xff > 20 and udp[3000:2] = 0",
]


@pytest.mark.parametrize("optimise", [True, False])
def test_packets_of_several_buffers_are_read_to_their_end(optimise: bool) -> None:
    lengths = [
        60,
        1500,
        3518,
        3519,
        3520,
        3521,
        3522,
        3524,
        4096,
        7616,
        7617,
        8998,
        8999,
        9000,
        9001,
        9014,
        40_000,
        65_535,
    ]
    jumbo = _jumbo(lengths)
    assert _compare(JUMBO_EXPRESSIONS, optimise, jumbo, frags=True) > 300


def test_the_plain_program_sees_no_more_than_the_first_buffer() -> None:
    """What frags=True is for; and that the test above does reach beyond the first buffer."""
    packet = _jumbo([9000])[0]
    program = libpcap.compile_expression(f"ether[{ONE_BUFFER + 100}] >= 0")
    source = sources.read(corpus.harness([program]))
    fd = load.load_program(build.build_images(source, source.text)["run0"], {}, frags=True, source="plain")
    try:
        assert run.run_many(fd, [packet]).tolist() == [XDP_PASS]
    finally:
        os.close(fd)


@pytest.mark.parametrize("frags", [False, True])
@pytest.mark.parametrize("protochains", [1, 2, 3, 4, 6])
def test_protochains_pass_the_verifier(protochains: int, frags: bool) -> None:
    kinds = (
        "ip6 protochain 6",
        "ip protochain 17",
        "ip6 protochain 17",
        "ip protochain 6",
        "protochain 132",
        "protochain 1",
    )
    text = " or ".join(kinds[:protochains])
    if frags and protochains == 6:  # a million steps of the verifier and more: loaded, or refused with the reason
        try:
            Program.build(filter=text, frags=frags).close()
        except VerifierError as refused:
            reason = str(refused)
            if refused.errno != errno.E2BIG or "more than the verifier follows. Next step: " not in reason:
                raise
        return
    Program.build(filter=text, frags=frags).close()


def test_what_is_beyond_the_verifier_says_what_to_do() -> None:
    # Twelve protochains in the form for several buffers are too large as well, but take the verifier eight seconds.
    endless = (
        "int run(struct xdp_md *ctx)\n{\n\tu64 x = 0;\n\tfor (u32 i = 0; i < 10000; i++) {"
        + 'asm volatile("%0 += 1" : "+r"(x));' * 1000
        + "}\n\treturn x;\n}\n"
    )
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VerifierError, match=r"too large. Processed.*Likely cause:.*filter.*fewer `protochain`"):
        Program.build("#include <uapi/linux/bpf.h>\n" + endless)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_list_of_hundreds_of_hosts() -> None:
    hosts = " or ".join(f"host 10.0.{i // 250}.{i % 250 + 1}" for i in range(300))
    header = bytes(12) + bytes.fromhex("0800 45000032 00000000 4011 0000")
    packets = [header + bytes([10, 0, *last, 11, 0, 0, 1]) + bytes(30) for last in ((0, 1), (0, 250), (1, 50), (1, 51))]
    for frags in (False, True):
        with Program.build("xdp_drop.c", filter=hosts, frags=frags) as program:
            assert program.test_run_many(packets).tolist() == [XDP_DROP, XDP_DROP, XDP_DROP, XDP_PASS]


def test_what_libpcap_refuses_is_refused_before_anything_is_loaded() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FilterError, match="syntax error"):
        Program.build(filter="udp prt 53")
    assert len(os.listdir("/proc/self/fd")) == before
