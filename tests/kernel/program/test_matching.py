# SPDX-License-Identifier: Apache-2.0
"""toolkit.matches(): the verdicts of the real program, on packets in every form and of every length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers import filter_corpus as corpus
from tests.helpers.captures import DNS
from tests.helpers.wire import run_child
from toolkit.abi import libpcap
from toolkit.errors import ArgumentError, FilterError
from toolkit.program import matching, run

OTHER = DNS[:36] + b"\x00\x36" + DNS[38:]


@pytest.fixture(autouse=True)
def forgotten(conservation: object) -> Iterator[None]:
    """No program of a test stays loaded."""
    yield
    matching.forget()


def test_every_form_of_packets() -> None:
    packets = [DNS, OTHER, DNS]
    batch = toolkit.Batch(
        None,
        np.array([[i * len(DNS), len(DNS)] for i in range(3)], dtype=np.uint64),
        memory=np.frombuffer(b"".join(packets), dtype=np.uint8),
    )
    forms: list[Any] = [
        packets,
        tuple(packets),
        iter(packets),
        [bytearray(DNS), memoryview(OTHER), np.frombuffer(DNS, dtype=np.uint8)],
        np.frombuffer(b"".join(packets), dtype=np.uint8).reshape(3, -1),
        np.asfortranarray(np.frombuffer(b"".join(packets), dtype=np.uint8).reshape(3, -1)),
        batch,
    ]
    for form in forms:
        verdicts = toolkit.matches("udp port 53", form)
        assert verdicts.dtype == np.bool_
        assert verdicts.tolist() == [True, False, True]
    assert toolkit.matches("udp port 53", []).shape == (0,)


@pytest.mark.parametrize(
    "expression", ["len >= 13", "ether[13] = 0", "ether[len - 1] = 1", "not ether[13] = 1", "less 13", "all", "ip"]
)
def test_every_length_has_libpcap_s_verdict(expression: str) -> None:
    lengths = [*range(64), 1500, 3070, 3072, 3073, 3519, 3520, 3521, 4096, 9000, 40_000, 65_535]
    packets = [(b"\x01" + bytes(12) + b"\x00\x01" * 40_000)[:length] for length in lengths]
    if expression == "all":
        expected = [True] * len(packets)
    else:
        expected = libpcap.offline_filter_many(libpcap.compile_expression(expression), packets)
    assert toolkit.matches(expression, packets).tolist() == expected


def test_a_thousand_packets_of_all_kinds() -> None:
    packets = corpus.packets(1000)
    for expression in ("tcp port 80 or vlan", "ip[8] - 7 > 50"):
        program = libpcap.compile_expression(expression)
        assert toolkit.matches(expression, packets).tolist() == libpcap.offline_filter_many(program, packets)


def test_it_is_the_kernel_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(fd: int, packets: list[bytes]) -> Any:
        asked.append(os.readlink(f"/proc/self/fd/{fd}"))
        return run.run_many(fd, packets)

    monkeypatch.setattr(matching, "run_many", spy)
    toolkit.matches("udp port 53", [DNS, bytes(9000), b""])
    assert asked == ["anon_inode:bpf-prog"] * 2


def test_a_program_is_kept_for_the_next_call_and_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = toolkit.Program.build

    def count(*args: Any, **options: Any) -> toolkit.Program:
        built.append(options["filter"])
        return build(*args, **options)

    monkeypatch.setattr(toolkit.Program, "build", count)
    monkeypatch.setattr(matching, "MOST_KEPT", 2)
    for port in (1, 1, 2, 1, 3, 1, 2):
        toolkit.matches(f"port {port}", [DNS])
    assert built == [f"port {port}" for port in (1, 2, 3, 2)]
    descriptors = len(os.listdir("/proc/self/fd"))
    toolkit.matches("port 4", [DNS])
    assert len(os.listdir("/proc/self/fd")) == descriptors
    matching.forget()
    assert len(os.listdir("/proc/self/fd")) < descriptors


def test_what_are_no_packets_is_said() -> None:
    for packets, words in (
        (DNS, r"\[packet\]"),
        ("udp", "cannot be a str"),
        (7, "cannot be a int"),
        ([DNS, "x"], "packet 1 of 2 is not bytes-like but of type str"),
        ([DNS, 5], "packet 1 of 2 is not bytes-like but of type int"),
        ([np.zeros(20, dtype=np.uint16)], "packet 0 of 1 is an array of shape"),
        (np.zeros(20, dtype=np.uint8), "one row for each packet"),
        (np.zeros((2, 20), dtype=np.int64), "int64"),
        ([DNS, bytes(70_000)], "packet 1 of 2 has 70000 bytes"),
    ):
        with pytest.raises(ArgumentError, match=words):
            toolkit.matches("udp port 53", packets)


def test_a_filter_that_is_none_is_refused_whatever_it_is_asked_about() -> None:
    for wrong in (5, [], b"udp", None):
        with pytest.raises(ArgumentError, match="filter cannot be"):
            toolkit.matches(wrong, [b"short"])
    for packets in ([DNS], [], [b""]):
        with pytest.raises(FilterError, match="syntax error"):
            toolkit.matches("udp prt 53", packets)


def test_threads_do_not_take_each_other_s_programs_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads make the same program, and one is kept: the other must outlive the question it was made for."""

    def meanwhile(fd: int, packets: list[bytes]) -> Any:
        matching._kept["udp port 53"]._programs.clear()
        return run.run_many(fd, packets)

    monkeypatch.setattr(matching, "run_many", meanwhile)
    assert toolkit.matches("udp port 53", [DNS, bytes(60)]).tolist() == [True, False]


def test_a_forked_child_has_programs_of_its_own() -> None:
    done = run_child(
        f"""
        import os, toolkit
        packet = bytes.fromhex("{DNS.hex()}")
        assert toolkit.matches("udp port 53", [packet]).all()
        child = os.fork()
        if not child:
            os._exit(0 if toolkit.matches("udp port 53", [packet]).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert toolkit.matches("udp port 53", [packet]).all()
        print("same")
        """
    )
    assert done == "same\n"
