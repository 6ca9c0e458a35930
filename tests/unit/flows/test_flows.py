# SPDX-License-Identifier: Apache-2.0
"""Flows: the same counts as a dictionary that is filled packet by packet, whatever the traffic and the table's size."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.any_packets import any_packet
from tests.helpers.decode_reference import reference
from tests.helpers.interrupts import Interrupt, every_line
from tests.helpers.scapy_packets import PACKETS
from tests.helpers.tables import NAT, T0, batch_of
from toolkit.errors import ArgumentError
from toolkit.flows import Flows
from toolkit.flows.flows import Order
from toolkit.packets.frames import udp_frame

GROUPS = ("flow", "source", "destination", "port", "protocol")
ALL = [bytes(packet) for packet in PACKETS.values()]


def key(row: dict[str, Any], group: str) -> tuple[Any, ...]:
    """The key of a packet, from the plain decoder's columns."""
    version = row["ip_version"]
    kind = ("ip", row["ip_proto"]) if version > 0 else ("eth", max(row["ethertype"], 0))
    ends = {
        4: (row["ip_src"], row["ip_dst"]),
        6: (row["ip6_src"], row["ip6_dst"]),
        -1: (max(row["eth_src"], 0), max(row["eth_dst"], 0)),
    }[version]
    source, destination = (version, ends[0]), (version, ends[1])
    return {
        "flow": (kind, source, row["src_port"], destination, row["dst_port"]),
        "source": source,
        "destination": destination,
        "port": (kind, min(row["src_port"], row["dst_port"])),
        "protocol": kind,
    }[group]


def plain(batches: list[list[bytes]], group: str) -> dict[Any, list[int]]:
    """packets, bytes, first, last, flags by key, one packet at a time."""
    reported: dict[Any, list[int]] = {}
    for packets in batches:
        for number, packet in enumerate(packets):
            row = reference(packet)
            at = T0 + 1001 * number
            one = reported.setdefault(key(row, group), [0, 0, at, at, 0])
            one[0] += 1
            one[1] += len(packet) + 1  # batch_of() says that it was longer on the wire
            one[2], one[3] = min(one[2], at), max(one[3], at)
            one[4] |= max(int(row["tcp_flags"]), 0) if group == "flow" else 0
    return reported


def counted(flows: Flows) -> list[list[int]]:
    return sorted(
        [flow.packets, flow.bytes, int(flow.first.view("i8")), int(flow.last.view("i8")), flow.tcp_flags]
        for flow in flows.top(None)
    )


@given(st.lists(st.lists(any_packet, max_size=10), max_size=4), st.sampled_from(GROUPS))
def test_counts_are_those_of_a_dictionary(batches: list[list[bytes]], group: Any) -> None:
    flows = Flows(group=group)
    for packets in batches:
        flows.add(batch_of(packets))
    assert counted(flows) == sorted(plain(batches, group).values())
    assert flows.packets == sum(map(len, batches))


@pytest.mark.parametrize("group", GROUPS)
def test_every_protocol_is_counted_by(group: Any) -> None:
    flows = Flows(group=group)
    flows.add(batch_of(ALL))
    flows.add(batch_of(ALL[::-1]))
    reported = plain([ALL, ALL[::-1]], group)
    assert len(flows) == len(reported)
    assert counted(flows) == sorted(reported.values())
    assert len({str(flow) for flow in flows.top(None)}) >= len(reported) - 2  # two share a name


def traffic(seed: int, batches: int, size: int, hosts: int) -> list[list[bytes]]:
    rng = np.random.default_rng(seed)
    frames: dict[tuple[int, int], bytes] = {}
    reported = []
    for _ in range(batches):
        ends = np.minimum(rng.geometric(4 / hosts, (size, 2)), hosts)
        for source, port in ends.tolist():
            if (source, port) not in frames:
                frames[source, port] = udp_frame(
                    bytes(port % 50), source_port=1000 + port, source_ip=f"10.0.0.{source}"
                )
        reported.append([frames[source, port] for source, port in ends.tolist()])
    return reported


def test_a_long_run_is_exact() -> None:
    batches = traffic(1, 30, 500, 200)
    flows = Flows()
    for packets in batches:
        flows.add(batch_of(packets))
    assert len(flows) > 2000
    assert counted(flows) == sorted(plain(batches, "flow").values())
    assert flows.evicted == (0, 0, 0)


@pytest.mark.parametrize("max_flows", [1, 7, 64, 1000])
def test_a_full_table_loses_nothing_but_names(max_flows: int) -> None:
    flows = Flows(max_flows)
    batches = traffic(2, 20, 300, 100)
    for packets in batches:
        flows.add(batch_of(packets))
        assert len(flows) <= max_flows
        assert sum(flow.packets for flow in flows.top(None)) + flows.evicted.packets == flows.packets
        assert sum(flow.bytes for flow in flows.top(None)) + flows.evicted.bytes == flows.bytes
    assert flows.evicted.flows > 0
    assert flows.packets == 6000


def test_those_that_were_idle_longest_make_room() -> None:
    flows = Flows(8)
    frames = [udp_frame(b"", source_port=1000 + number) for number in range(12)]
    flows.add(batch_of(frames[:8], times=[T0 + number for number in range(8)]))
    flows.add(batch_of([frames[0]], times=[T0 + 100]))  # the oldest, but no longer idle
    flows.add(batch_of(frames[8:10], times=[T0 + 200, T0 + 201]))
    assert sorted(flow.source_port or 0 for flow in flows.top(None)) == [1000, 1003, 1004, 1005, 1006, 1007, 1008, 1009]
    assert flows.evicted == (2, 2, 2 * (len(frames[0]) + 1))


def weak(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """Hashes of so few bits that different keys have the same."""
    strong: Callable[..., Any] = Flows._hashes
    monkeypatch.setattr(Flows, "_hashes", lambda *given: strong(*given) & np.uint64((1 << bits) - 1))


@pytest.mark.parametrize("bits", [0, 3, 8])
def test_keys_of_the_same_hash_stay_apart(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weak(monkeypatch, bits)
    batches = traffic(3, 4, 100, 12)
    flows = Flows(256)
    for packets in batches:
        flows.add(batch_of(packets))
    assert counted(flows) == sorted(plain(batches, "flow").values())


def test_both_directions_are_one_row() -> None:
    there = udp_frame(b"ask", source_port=5000, destination_port=53, source_ip="10.0.0.9", destination_ip="10.0.0.2")
    back = udp_frame(b"answer!", source_port=53, destination_port=5000, source_ip="10.0.0.2", destination_ip="10.0.0.9")
    for first, second in ((there, back), (back, there)):
        flows = Flows(bidirectional=True)
        flows.add(batch_of([first, first, second]))
        flows.add(batch_of([second, second, second, first]))
        (flow,) = flows.top()
        assert (flow.packets, flow.back_packets) == (7, 4)
        assert (flow.bytes, flow.back_bytes) == (3 * (len(first) + 1) + 4 * (len(second) + 1), 4 * (len(second) + 1))
        source = "10.0.0.9:5000 → 10.0.0.2:53" if first is there else "10.0.0.2:53 → 10.0.0.9:5000"
        assert str(flow) == f"{source} UDP"


@settings(max_examples=50)
@given(st.lists(st.lists(any_packet, max_size=10), max_size=4))
def test_both_directions_add_up(batches: list[list[bytes]]) -> None:
    flows = Flows(bidirectional=True)
    reported: dict[Any, list[Any]] = {}
    for packets in batches:
        flows.add(batch_of(packets))
        for packet in packets:
            kind, source, source_port, destination, port = key(reference(packet), "flow")
            ends = ((source, source_port), (destination, port))
            one = reported.setdefault((kind, frozenset(ends)), [0, 0, ends])
            one[0] += 1
            one[1] += ends != one[2]
    wanted = sorted(value[:2] for value in reported.values())
    assert sorted([flow.packets, flow.back_packets] for flow in flows.top(None)) == wanted


hosts = st.sampled_from(["10.0.0.1", "10.0.0.2", "9.0.0.9"])
hosts6 = st.sampled_from(["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::2"])
ports = st.sampled_from([5, 6, 53])
ends = st.one_of(st.tuples(hosts, hosts, ports, ports), st.tuples(hosts6, hosts6, ports, ports))


@given(st.lists(ends, min_size=1, max_size=30), st.integers(1, 30))
def test_both_directions_of_few_hosts_add_up(chosen: list[tuple[str, str, int, int]], times: int) -> None:
    """Many packets of few flows: sorting must not change which direction was first."""
    flows = Flows(bidirectional=True)
    reported: dict[Any, list[Any]] = {}
    frames = []
    answers = [(destination, source, port, source_port) for source, destination, source_port, port in chosen]
    for source, destination, source_port, port in (chosen + answers) * times:
        frames.append(
            udp_frame(source_port=source_port, destination_port=port, source_ip=source, destination_ip=destination)
        )
        there = ((source, source_port), (destination, port))
        one = reported.setdefault(frozenset(there), [there, 0, 0])
        one[1] += 1
        one[2] += there != one[0]
    flows.add(batch_of(frames))
    assert sorted(
        (flow.source, flow.source_port, flow.packets, flow.back_packets) for flow in flows.top(None)
    ) == sorted((*there[0], packets, back) for there, packets, back in reported.values())


def test_an_interval_begins_at_mark() -> None:
    flows = Flows()
    one, other = udp_frame(b"1", source_port=1), udp_frame(b"2", source_port=2)
    flows.add(batch_of([one] * 5 + [other]))
    flows.mark()
    assert flows.top(recent=True) == []
    flows.add(batch_of([other] * 2))
    (flow,) = flows.top(recent=True)
    assert (flow.source_port, flow.packets, flow.recent_packets) == (2, 3, 2)
    assert [flow.source_port for flow in flows.top(by="packets")] == [1, 2]


def test_order_and_number_of_rows() -> None:
    frames = [udp_frame(bytes(number), source_port=1000 + number) for number in range(50)]
    flows = Flows()
    flows.add(batch_of([frame for number, frame in enumerate(frames) for _ in range(50 - number)]))
    orders: tuple[Order, ...] = ("bytes", "packets", "last")
    for by in orders:
        whole = [getattr(flow, by) for flow in flows.top(None, by)]
        assert whole == sorted(whole, reverse=True)
        assert [getattr(flow, by) for flow in flows.top(7, by)] == whole[:7]
    assert flows.top(0) == []
    flows.clear()
    assert (len(flows), flows.packets) == (0, 0)


def test_a_packet_without_a_time_was_seen_now() -> None:
    flows = Flows()
    before = np.datetime64("now", "ns") - np.timedelta64(2, "s")
    flows.add(batch_of([udp_frame(b"")], times=[NAT]))
    assert before < flows.top()[0].first == flows.top()[0].last


@pytest.mark.needs("pyarrow", "pandas")
@pytest.mark.parametrize("group", GROUPS)
def test_rows_become_tables(group: Any) -> None:
    flows = Flows(group=group)
    flows.add(batch_of(ALL))
    table = flows.to_arrow()
    table.validate(full=True)
    assert table.column("packets").to_pylist() == [flow.packets for flow in flows.top(None)]
    frame = flows.to_pandas(3)
    assert frame["bytes"].tolist() == [flow.bytes for flow in flows.top(3)]
    if group == "flow":
        sources = table.column("source").to_pylist()
        assert sorted(sources) == sorted(flow.source for flow in flows.top(None))
        flags = {flow["tcp_flags"] for flow in table.to_pylist() if flow["protocol"] != "TCP"}
        assert flags == {None}


def test_it_shows_itself() -> None:
    flows = Flows()
    assert repr(flows) == "<Flows: 0 flows, 0 packets, 0 bytes>"
    flows.add(batch_of(ALL))
    assert "10.1.2.3:40000 → 192.168.200.254:443 TCP" in repr(flows) + str([str(flow) for flow in flows.top(None)])
    assert "<th>flow</th>" in flows._repr_html_()
    assert flows.__rich__().row_count == 10
    ports = Flows(group="port")
    ports.add(batch_of([udp_frame(b"", destination_port=53)]))
    assert [str(port) for port in ports.top()] == ["53/UDP"]


@pytest.mark.parametrize("options", [{"group": "host"}, {"bidirectional": True, "group": "port"}, {"max_flows": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        Flows(**options)
    with pytest.raises(ArgumentError, match="by cannot be"):
        Flows().top(by="rate")


@pytest.mark.parametrize("odd", [1.5, "8", True])
def test_numbers_of_any_kind_and_nothing_else(odd: Any) -> None:
    flows = Flows(np.int64(8))
    flows.add(batch_of([udp_frame(b"")]))
    assert len(flows.top(np.int64(3))) == 1
    with pytest.raises(ArgumentError, match="max_flows"):
        Flows(odd)
    with pytest.raises(ArgumentError, match=r"n cannot be .*whole number from 0 on"):
        flows.top(odd)


def test_one_thread_counts_while_another_reads() -> None:
    flows = Flows(100)
    batches = [batch_of(packets) for packets in traffic(4, 20, 200, 40)]
    over = threading.Event()
    wrong: list[Any] = []

    def look() -> None:
        while not over.is_set():
            wrong.extend(flow for flow in flows.top(None) if flow.packets < 1 or flow.last < flow.first)

    reader = threading.Thread(target=look)
    reader.start()
    for batch in batches:
        flows.add(batch)
    over.set()
    reader.join()
    assert not wrong


def test_nothing_holds_the_batch() -> None:
    flows = Flows()
    batch = batch_of(ALL)
    flows.add(batch)
    gone = weakref.ref(batch)
    del batch
    gc.collect()
    assert gone() is None


def test_add_interrupted_at_every_line() -> None:
    """Of a full table, where rows make room: each row stands once, and the totals are those of the rows."""
    first, second = traffic(5, 2, 40, 30)

    def at(k: int) -> bool:
        flows, interrupt = Flows(16), Interrupt(k)
        flows.add(batch_of(first))
        batch = batch_of(second)
        came = interrupt.run(lambda: flows.add(batch))
        flows.add(batch_of(first))
        rows = flows.top(None)
        assert len({str(row) for row in rows}) == len(rows) == len(flows) <= 16, interrupt.where
        assert sum(row.packets for row in rows) + flows.evicted.packets == flows.packets, interrupt.where
        assert sum(row.bytes for row in rows) + flows.evicted.bytes == flows.bytes, interrupt.where
        assert 80 <= flows.packets <= 120, interrupt.where
        return came

    assert every_line(at) > 50
