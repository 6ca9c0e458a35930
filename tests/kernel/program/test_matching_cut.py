# SPDX-License-Identifier: Apache-2.0
"""toolkit.matches() on packets that were cut: the verdicts of pcap_offline_filter(), whose `len` is the wire's."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers import filter_corpus as corpus
from tests.helpers.captures import DNS
from tests.helpers.wire import Wire, udp_frame
from toolkit.abi import libpcap
from toolkit.capture import Capture
from toolkit.errors import ArgumentError
from toolkit.lab import Lab
from toolkit.program import matching

EXPRESSIONS = (
    "greater 1000",
    "less 1000",
    "not greater 1000",
    "len = 1500",
    "len - 14 > ip[2:2]",
    "ether[len - 1] = 1",
    "udp and greater 100",
    "not (udp and less 100)",
    "ip[2:2] > 100 or len & 1 = 1",
    "udp port 53",
    "tcp[13] & 2 != 0 or icmp",
    "ether[60] = 0 or ether[13] = 0",
    "vlan and greater 64",
    "ip6 protochain 6",
)


@pytest.fixture(autouse=True)
def forgotten(conservation: object) -> Iterator[None]:
    """No program of a test stays loaded."""
    yield
    matching.forget()


def batch_of(packets: Sequence[bytes], wire: Sequence[int]) -> Any:
    lengths = np.array([len(one) for one in packets], dtype=np.uint64)
    descs = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)
    memory = np.frombuffer(b"".join(packets) or b"\0", dtype=np.uint8)
    return toolkit.Batch(None, descs, memory=memory, wire_lengths=np.array(wire, dtype=np.uint32))


def verdicts(expression: str, packets: Sequence[bytes], wire: Sequence[int]) -> list[bool]:
    """pcap_offline_filter()'s own, asked one by one."""
    program = libpcap.compile_expression(expression)
    return [libpcap.offline_filter(program, one, length) for one, length in zip(packets, wire, strict=True)]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("snaplen", [0, 13, 14, 60, 96, 4000])
def test_every_cut_has_libpcap_s_verdict(expression: str, snaplen: int) -> None:
    whole = [*corpus.packets(150), *(DNS[:42] + bytes(size) for size in (0, 900, 958, 959, 1458, 5000, 9000))]
    cut, wire = [one[:snaplen] for one in whole], [len(one) for one in whole]
    expected = verdicts(expression, cut, wire)
    assert toolkit.matches(expression, batch_of(cut, wire)).tolist() == expected
    mixed = [one if i & 1 else part for i, (one, part) in enumerate(zip(whole, cut, strict=True))]
    assert toolkit.matches(expression, batch_of(mixed, wire)).tolist() == verdicts(expression, mixed, wire)


def test_a_length_beyond_what_any_interface_carries() -> None:
    """A recording may say whatever it likes of the wire."""
    wire = [2**32 - 1, 100_000, 36, 0]
    packets = [DNS] * 4
    for expression in ("greater 1000", "less 36", "len = 4294967295"):
        assert toolkit.matches(expression, batch_of(packets, wire)).tolist() == verdicts(expression, packets, wire)


def test_a_chain_and_a_length_are_refused_of_cut_packets_only() -> None:
    expression = "ip6 protochain 6 and greater 100"
    assert toolkit.matches(expression, batch_of([DNS], [len(DNS)])).tolist() == [False]
    with pytest.raises(ArgumentError, match=r"protochain.*Next step: ask for the two apart"):
        toolkit.matches(expression, batch_of([DNS], [1500]))


@pytest.mark.parametrize("name", ["x.pcap", "x.pcapng"])
def test_recordings_cut_at_snaplen(tmp_path: Path, name: str) -> None:
    """The same packets have the same verdict, however much of each was kept."""
    packets = [udp_frame(bytes(size)) for size in (10, 900, 957, 958, 959, 1400)]
    with Capture(None, tmp_path / name, snaplen=64) as capture:
        capture.write(batch_of(packets, [len(one) for one in packets]))
    with toolkit.read(tmp_path / name) as recorded:
        (batch,) = recorded
    assert batch.lengths.max() == 64
    expected = [len(one) >= 1000 for one in packets]
    assert toolkit.matches("greater 1000", batch).tolist() == expected
    assert toolkit.matches("udp and less 999", batch).tolist() == [not one for one in expected]
    with toolkit.read(io.BytesIO((tmp_path / name).read_bytes())) as again:
        (kept,) = [batch.copy() for batch in again]
    assert toolkit.matches("greater 1000", kept).tolist() == expected


@pytest.mark.needs("bcc")
def test_live_packets_cut_at_snaplen(lab: Lab, wire: Wire) -> None:
    packets = [udp_frame(bytes(size)) for size in (10, 957, 958, 1400)]
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp", snaplen=64) as near:
        wire.send(packets)
        reported: list[bool] = []
        while len(reported) < len(packets) and (batch := near.receive(timeout=5)):
            reported += toolkit.matches("greater 1000", batch).tolist()
    assert reported == [len(one) >= 1000 for one in packets]
