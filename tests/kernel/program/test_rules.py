# SPDX-License-Identifier: Apache-2.0
"""Several filters in one program: the first that matches decides, everything is counted, nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers import worker_jobs
from tests.helpers.rules import check_shares, opened, seen, send, ways
from tests.helpers.wire import Wire, eventually, frame, udp_frame
from toolkit import Program, Rule
from toolkit.errors import ArgumentError, CompileError, FilterError, VerifierError
from toolkit.lab import Lab
from toolkit.program import directory, import_bcc, load, source_text
from toolkit.program.image import Image
from toolkit.workers import Workers

pytestmark = pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")

XDP_DROP, XDP_PASS = 1, 2
RULES = (
    Rule("udp dst port 53", snaplen=60),
    Rule("udp dst port 54", action="drop"),
    Rule("udp dst port 55", action="count"),
    Rule("udp dst port 56", action="pass"),
    Rule("udp dst portrange 50-59"),
    Rule("udp dst port 53", action="drop"),  # never its turn
)
PORTS = (53, 54, 55, 56, 57, 60)


def to_port(port: int, count: int) -> list[bytes]:
    """UDP frames to a port, each of another length and content."""
    return [udp_frame(bytes([port, i]) * (10 + i), port=port) for i in range(count)]


@ways
def test_the_first_rule_that_matches_decides(lab: Lab, wire: Wire, door: str, mode: str) -> None:
    sent = {port: to_port(port, 5 + i) for i, port in enumerate(PORTS)}
    mixed = [one for row in zip(*(sent[port][:5] for port in PORTS), strict=True) for one in row]
    mixed += [one for port in PORTS for one in sent[port][5:]]
    with Wire(lab, near=True) as kernel, opened(lab, door, mode, rules=RULES) as near:
        assert near.mode == mode
        send(near, wire, mixed)
        got: dict[int, list[bytes]] = {}
        while sum(map(len, got.values())) < 5 + 9 and (batch := near.receive(timeout=5)):
            for rule, length, packet in zip(
                batch.rule_numbers.tolist(), batch.wire_lengths.tolist(), batch, strict=True
            ):
                got.setdefault(rule, []).append(bytes(packet))
                assert length >= len(packet)
        assert got == {0: [one[:60] for one in sent[53]], 4: sent[57]}
        on = [one for one in mixed if int.from_bytes(one[36:38], "big") in (55, 56, 60)]
        assert kernel.receive(len(on)) == on, "whole and in order"
        assert not kernel.receive(1, timeout=0.1)
        check_shares(near)
        outcomes = ("redirected", "dropped", "counted", "passed", "redirected", "dropped")
        for rule, one, port, outcome in zip(
            RULES, near.rule_counters(), (53, 54, 55, 56, 57, None), outcomes, strict=True
        ):
            frames = sent.get(port or 0, [])
            assert one.rule == str(rule)
            assert (one.packets, one.bytes, getattr(one, outcome)) == (len(frames), sum(map(len, frames)), len(frames))
        counters = near.counters()
        assert counters["passed"] == len(sent[56]) + len(sent[60])
        assert counters["matched"] + len(sent[60]) == seen(near) == len(mixed)
        assert counters["redirected"] == 5 + 9
        assert near.statistics().dropped == 0


@ways
@pytest.mark.parametrize("action", ["drop", "count", "pass"])
def test_one_filter_and_what_to_do(lab: Lab, wire: Wire, door: str, mode: str, action: str) -> None:
    frames = [frame(i, 60 + i) for i in range(20)]
    others = to_port(53, 3)
    with (
        Wire(lab, near=True) as kernel,
        opened(lab, door, mode, filter="ether proto 0x88b5", on_match=action) as near,
    ):
        send(near, wire, frames + others)
        on = others if action == "drop" else frames + others
        assert kernel.receive(len(on)) == on
        (rule,) = near.rule_counters()
        assert (rule.packets, rule.bytes) == (20, sum(map(len, frames)))
        assert getattr(rule, {"drop": "dropped", "count": "counted", "pass": "passed"}[action]) == 20
        assert not near.receive(timeout=0)
        check_shares(near)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_under_a_flood_every_packet_is_somewhere(make_lab: Callable[..., Lab], mode: Any) -> None:
    """Faster than anybody takes them: what each rule did adds up, and so does what was redirected."""
    count = 200_000
    frames = [one for port in PORTS for one in to_port(port, 4)]
    rules = [Rule("udp dst port 53", sample=3, snaplen=64), *RULES[1:]]
    lab = make_lab(gro=True)
    received = cut = 0
    with toolkit.open(lab.interface, rules=rules, mode=mode, ring_size=1024, netns=lab.netns) as near:
        with lab.generator(count=count, frame=frames) as generator:
            while generator.running:
                batch = near.receive(timeout=0.01)
                received, cut = received + len(batch), cut + int((batch.lengths < batch.wire_lengths).sum())
            report = generator.wait(60)
        near.detach()
        while batch := near.receive(timeout=0.1):
            received, cut = received + len(batch), cut + int((batch.lengths < batch.wire_lengths).sum())
        check_shares(near)
        # What the generator calls lost may have been lost behind the program: on its way to a full socket, for one.
        assert report.lost is not None
        assert count - report.lost <= seen(near) <= count
        counters = near.counters()
        assert counters["redirected"] == received + near.statistics().dropped
        each = near.rule_counters()
        assert [one.packets > 0 for one in each] == [True] * 5 + [False]
        assert 0 < each[0].sampled_out < each[0].packets
        assert 0 < cut <= each[0].redirected


def test_every_cpu_counts(lab: Lab, wire: Wire) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    with toolkit.open(lab.interface, filter="all", on_match="count", netns=lab.netns) as near:
        for i, cpu in enumerate(cpus):
            try:
                os.sched_setaffinity(0, {cpu})  # veth's receiving end runs where the packet was sent
                send(near, wire, [frame(n) for n in range(10 + i)])
            finally:
                os.sched_setaffinity(0, cpus)
        total = sum(10 + i for i in range(len(cpus)))
        assert near.rule_counters()[0][:3] == ("all [count]", total, total * 64)
        each = near.program.maps["counters"].per_cpu(0)["matched"]
        assert each.sum() == total
        if len(cpus) > 1:
            assert (each > 0).sum() > 1, "or this test shows nothing"


def test_a_rule_for_one_queue(make_lab: Callable[..., Lab]) -> None:
    """It takes what arrives there, and leaves the rest to later rules."""
    lab = make_lab(queues=2)
    rules = [Rule("udp", queue=1), Rule("udp", action="count")]
    with toolkit.open(lab.interface, rules=rules, netns=lab.netns) as near:
        assert near.filter == near.info()["filter"] == "udp [queue 1]; udp [count]"
        lab.udp(count=400, flows=64)
        assert eventually(lambda: seen(near) >= 400)
        first, second = near.rule_counters()
        assert min(first.redirected, second.counted) > 0
        assert first.packets + second.packets == 400
        batches = []
        while sum(map(len, batches)) < first.redirected and (batch := near.receive(timeout=5)):
            batches.append(batch.copy())
        assert {batch.queue for batch in batches} == {1}
        assert sum(map(len, batches)) == first.redirected
    with pytest.raises(ArgumentError, match="queue 1 of veth0, which is not open"):
        toolkit.open(lab.interface, rules=rules, queues=[0], netns=lab.netns)


@pytest.mark.parametrize("frags", [False, True])
def test_rules_for_several_queues(frags: bool) -> None:
    """The test run's packets arrive on queue 0."""
    rules = [
        Rule("udp dst port 53", action="drop", queue=1),
        Rule("udp dst port 53", sample=3, snaplen=64, queue=2),
        Rule("udp dst port 54", action="drop", queue=0),
        Rule("all", action="drop", queue=(1 << 32) - 1),
        Rule("udp dst port 53", action="count", queue=0),
    ]
    with Program.build(rules=rules, frags=frags) as program:
        packets = [udp_frame(b"", port=port) for port in (53, 54, 55)]
        assert program.test_run_many(packets).tolist() == [XDP_PASS, XDP_DROP, XDP_PASS]
        assert [one.packets for one in program.rule_counters()] == [0, 0, 1, 0, 1]
    # Of these, clang makes a program that computes with the context's address, if it is let.
    others = [Rule("tcp port 80", sample=3, snaplen=96, queue=1), Rule("icmp", action="count")]
    with Program.build(
        rules=[Rule("arp", action="pass"), Rule("udp port 53", queue=0), *others], frags=frags
    ) as program:
        assert program.test_run_many(packets).tolist() == [XDP_PASS] * 3
        assert [one.packets for one in program.rule_counters()] == [0, 1, 0, 0]


def test_workers_have_rules_too(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=2)
    rules = [Rule("udp port 9"), Rule("udp port 10", action="drop")]
    with Workers(lab.interface, worker_jobs.count, rules=rules, netns=lab.netns) as workers:
        lab.udp(count=100, flows=8)
        lab.udp(count=50, flows=8, destination_port=10)
        assert eventually(lambda: sum(one.packets for one in workers.rule_counters()) == 150)
        assert workers.rule_counters()[0].redirected == 100
        assert workers.rule_counters()[1].dropped == 50
        assert workers.info()["filter"] == "udp port 9; udp port 10 [drop]"
        workers.stop()
        assert sum(one["received"] for one in workers.results(timeout=20)) == 100


def test_tens_of_rules_and_far_too_many() -> None:
    rules = [Rule(f"udp dst port {port}", action="drop" if port & 1 else "count") for port in range(1000, 1064)]
    with Program.build(rules=rules) as program:
        packets = [udp_frame(b"", port=port) for port in range(999, 1065)]
        actions = program.test_run_many(packets).tolist()
        assert actions == [XDP_DROP if port & 1 and 1000 <= port < 1064 else XDP_PASS for port in range(999, 1065)]
        assert [one.packets for one in program.rule_counters()] == [1] * 64
        assert program.counters()["passed"] == 2
    # As far as 450 rules jump, in a third of clang's time.
    far = 'asm volatile("%0 += 1" : "+r"(x));' * 33_000
    text = '#include "xsk_rules.h"\nint run(struct xdp_md *ctx)\n{\n\tu64 x = decide(ctx).rule;\n\tif (x) {'
    says = r"(jump out of range|Branch target out of insn range).*joined with `or`"  # the verifier's words, or LLVM's
    with pytest.raises((VerifierError, CompileError), match=says) as refused:
        Program.build(f"#include <uapi/linux/bpf.h>\n{text}{far}}}\n\treturn x;\n}}\n", rules=rules[:3])
    assert isinstance(refused.value, CompileError) or refused.value.log


def test_no_jump_ends_elsewhere_unnoticed() -> None:
    """clang cuts a jump to 16 bits, and the verifier sees it only where that ends outside of the program."""
    step, end = bytes([0xB7]) + bytes(7), bytes([0x95]) + bytes(7)  # r0 = 0; exit
    for count, fits in ((1 << 16, True), ((1 << 16) + 1, False)):
        image = Image("run", "GPL", step * (count - 1) + end, (), ())
        if fits:
            os.close(load.load_program(image, {}, frags=False, source="a test"))
        else:
            with pytest.raises(VerifierError, match=r"65537 instructions.*Next step"):
                load.load_program(image, {}, frags=False, source="a test")


def test_rules_of_a_program_that_bcc_loaded() -> None:
    text = source_text(rules=["udp", Rule("tcp", action="drop")]).encode()
    bpf = import_bcc().BPF(text=text, cflags=[f"-I{directory()}"])
    try:
        with Program.from_bcc(bpf, "xsk_redirect", rules=["udp", Rule("tcp", "drop")]) as program:
            assert [one.rule for one in program.rule_counters()] == ["udp", "tcp [drop]"]
        with Program.from_bcc(bpf, "xsk_redirect") as program:
            assert [one.rule for one in program.rule_counters()] == ["rule 0", "rule 1"]
        with (
            Program.from_bcc(bpf, "xsk_redirect", rules=[Rule("udp")]) as program,
            pytest.raises(ArgumentError, match="has 2 rules, and 1 were named: udp"),
        ):
            program.rule_counters()
        with pytest.raises(ArgumentError, match="give a list such as"):
            Program.from_bcc(bpf, "xsk_redirect", rules="udp")
    finally:
        bpf.cleanup()


def test_rules_as_text() -> None:
    assert str(Rule("udp")) == "udp"
    assert str(Rule("udp", sample=1 / 100, snaplen=64)) == "udp [1 of 100, first 64 B]"
    assert str(Rule("tcp port 23", action="drop", sample=3, queue=2)) == "tcp port 23 [drop, 1 of 3, queue 2]"


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ArgumentError, match="'steal'"):
        Rule("udp", action="steal")
    with pytest.raises(ArgumentError, match="redirected: those of"):
        Rule("udp", action="drop", snaplen=64)
    with pytest.raises(ArgumentError, match="queue cannot be"):
        Rule("udp", queue=-1)
    with pytest.raises(ArgumentError, match="queue cannot be"):
        Rule("udp", queue=1 << 32)
    with pytest.raises(ArgumentError, match="expression"):
        Rule(53)
    for wrong in ([], "udp", [53]):
        with pytest.raises(ArgumentError, match="give a list such as"):
            Program.build(rules=wrong)
    with pytest.raises(ArgumentError, match="cannot be given beside rules="):
        Program.build(filter="tcp", rules=[Rule("udp")])
    with pytest.raises(FilterError, match="no such port"):
        Program.build(rules=[Rule("udp"), Rule("no such port 3", action="drop")])
    with Program.build("xdp_pass.c") as program, pytest.raises(ArgumentError, match="or two arguments do"):
        toolkit.open("lo", program=program, rules=[Rule("udp")])
