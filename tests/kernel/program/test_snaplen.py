# SPDX-License-Identifier: Apache-2.0
"""snaplen: only the first bytes are delivered; how long a packet was is known; what goes on to the kernel is whole."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

import toolkit
from tests.helpers.rules import check_shares, opened, send, ways
from tests.helpers.wire import Wire, collect, frame
from toolkit import Program, Rule
from toolkit.abi.xsk_meta import NO_RULE
from toolkit.errors import ArgumentError
from toolkit.lab import Lab

LENGTHS = (14, 15, 60, 63, 64, 65, 127, 128, 129, 1000, 1514)


@ways
@pytest.mark.parametrize("snaplen", [14, 128, 1514])
def test_the_first_bytes_of_each_packet_come(lab: Lab, wire: Wire, door: str, mode: str, snaplen: int) -> None:
    frames = [frame(i, length) for i, length in enumerate(LENGTHS)]
    with opened(lab, door, mode, filter="all", snaplen=snaplen) as near:
        assert near.mode == mode
        send(near, wire, frames)
        packets: list[bytes] = []
        lengths: list[int] = []
        on_wire: list[int] = []
        while len(packets) < len(frames) and (batch := near.receive(timeout=5)):
            kept = pickle.loads(pickle.dumps(batch))
            assert (kept.wire_lengths == batch.wire_lengths).all()
            assert (kept.rule_numbers == batch.rule_numbers).all()
            assert (batch.rule_numbers == 0).all()
            assert (batch.arrival_ns > 0).all()
            packets += [bytes(packet) for packet in batch]
            lengths += batch.lengths.tolist()
            on_wire += batch.wire_lengths.tolist()
        assert packets == [one[:snaplen] for one in frames]
        assert lengths == [min(len(one), snaplen) for one in frames]
        assert on_wire == list(LENGTHS)
        (rule,) = near.rule_counters()
        assert (rule.packets, rule.bytes, rule.redirected) == (len(frames), sum(LENGTHS), len(frames))
        assert near.statistics().dropped == 0


@ways
def test_what_is_not_taken_reaches_the_kernel_whole(lab: Lab, wire: Wire, door: str, mode: str) -> None:
    """No match, and a match without a socket to take it: both go on as they came."""
    frames = [frame(i, length) for i, length in enumerate(LENGTHS)]
    with Wire(lab, near=True) as kernel, opened(lab, door, mode, filter="ether[17] & 1 = 0", snaplen=14) as near:
        send(near, wire, frames)
        odd = [one for i, one in enumerate(frames) if len(one) < 18 or i & 1]
        assert kernel.receive(len(odd)) == odd
        assert len(collect(near.receive, len(frames) - len(odd))) == len(frames) - len(odd)
        near.program.unregister(0)
        send(near, wire, frames)
        assert kernel.receive(len(frames)) == frames
        assert near.counters()["no_socket"] == len(frames) - len(odd)
        check_shares(near)
        assert not near.receive(timeout=0.05)


@pytest.mark.filterwarnings("ignore:veth0 has an MTU")  # larger than a frame: what it warns of is meant here
def test_jumbo_frames_are_received_when_they_are_cut(make_lab: Callable[..., Lab]) -> None:
    """A packet of several buffers does not fit a frame; its beginning does."""
    lab = make_lab(mtu=9000)
    frames = [frame(i, length) for i, length in enumerate((60, 1514, 4000, 9014))]
    with (
        Wire(lab) as wire,
        Program.build(filter="all", snaplen=256, frags=True) as program,
        toolkit.open(lab.interface, program=program, frame_size=2048, netns=lab.netns) as near,
    ):
        assert near.mode == "native"
        send(near, wire, frames)
        packets: list[bytes] = []
        on_wire: list[int] = []
        while len(packets) < len(frames) and (batch := near.receive(timeout=5)):
            packets += [bytes(one) for one in batch]
            on_wire += batch.wire_lengths.tolist()
        assert packets == [one[:256] for one in frames]
        assert on_wire == [len(one) for one in frames]
        assert near.rule_counters()[0].bytes == sum(map(len, frames))


def test_a_program_of_one_s_own_says_nothing_of_lengths_and_rules(lab: Lab, wire: Wire) -> None:
    text = """
    #include <uapi/linux/bpf.h>
    BPF_XSKMAP(xsks_map, 64);
    int bare(struct xdp_md *ctx) { return xsks_map.redirect_map(ctx->rx_queue_index, XDP_PASS); }
    """
    with Program.build(text) as program, toolkit.open(lab.interface, program=program, netns=lab.netns) as near:
        wire.send([frame(1, 60)])
        batch = near.receive(timeout=5)
        assert batch.wire_lengths.tolist() == batch.lengths.tolist() == [60]
        assert batch.rule_numbers.tolist() == [NO_RULE]
        assert near.counters() == program.counters() == {}
        assert "rx_dropped" in near._repr_html_()
        with pytest.raises(ArgumentError, match="counts no rules"):
            near.rule_counters()


@pytest.mark.parametrize("snaplen", [13, 0, -1, 1 << 31, 64.0, True, "64"])
def test_a_snaplen_that_cannot_be(snaplen: object) -> None:
    with pytest.raises(ArgumentError, match="snaplen"):
        Rule("all", snaplen=snaplen)


def test_options_without_a_filter_to_go_with() -> None:
    with pytest.raises(ArgumentError, match="cannot be given beside rules="):
        Program.build(rules=[Rule("udp")], snaplen=64)
    with Program.build("xdp_pass.c") as program, pytest.raises(ArgumentError, match="finished"):
        toolkit.open("lo", program=program, snaplen=64)
    with pytest.raises(ArgumentError, match=r"xsk_rules\.h"):
        Program.build("xdp_drop.c", filter="udp", on_match="count")
