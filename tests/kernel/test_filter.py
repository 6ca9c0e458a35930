# SPDX-License-Identifier: Apache-2.0
"""Filters in the kernel: verified, run on a thousand packets each, and held against libpcap's own interpreter."""

from __future__ import annotations

import os

import filter_corpus as corpus
import numpy as np
import pytest

from toolkit.abi import libpcap
from toolkit.errors import FilterError
from toolkit.program import Program, build, load, run, sources

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    """The same packets in every run."""
    return corpus.packets(1000)


@pytest.mark.parametrize("optimise", [True, False])
def test_no_verdict_differs_from_libpcap_s(packets: list[bytes], optimise: bool) -> None:
    programs = [libpcap.compile_expression(expression, optimise) for expression in corpus.EXPRESSIONS]
    source = sources.read(corpus.harness(programs))
    images = build.build_images(source, source.text)
    accepted = 0
    for i, (expression, program) in enumerate(zip(corpus.EXPRESSIONS, programs, strict=True)):
        fd = load.load_program(images[f"run{i}"], {}, frags=False, source=expression)
        try:
            actions = run.run_many(fd, packets)
        finally:
            os.close(fd)
        expected = np.array([libpcap.offline_filter(program, packet) for packet in packets])
        assert set(actions.tolist()) <= {XDP_PASS, XDP_TX}
        different = np.flatnonzero((actions == XDP_TX) != expected)
        assert not different.size, f"{expression!r} on {packets[different[0]].hex()}"
        accepted += int(expected.sum())
    assert accepted > 10_000


@pytest.mark.parametrize("protochains", [1, 2, 3, 4, 6])
def test_protochains_pass_the_verifier(protochains: int) -> None:
    kinds = (
        "ip6 protochain 6",
        "ip protochain 17",
        "ip6 protochain 17",
        "ip protochain 6",
        "protochain 132",
        "protochain 1",
    )
    with Program.build(filter=" or ".join(kinds[:protochains])):
        pass


def test_a_list_of_hundreds_of_hosts() -> None:
    hosts = " or ".join(f"host 10.0.{i // 250}.{i % 250 + 1}" for i in range(300))
    header = bytes(12) + bytes.fromhex("0800 45000032 00000000 4011 0000")
    packets = [header + bytes([10, 0, *last, 11, 0, 0, 1]) + bytes(30) for last in ((0, 1), (0, 250), (1, 50), (1, 51))]
    with Program.build("xdp_drop.c", filter=hosts) as program:
        assert program.test_run_many(packets).tolist() == [XDP_DROP, XDP_DROP, XDP_DROP, XDP_PASS]


def test_what_libpcap_refuses_is_refused_before_anything_is_loaded() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FilterError, match="syntax error"):
        Program.build(filter="udp prt 53")
    assert len(os.listdir("/proc/self/fd")) == before
