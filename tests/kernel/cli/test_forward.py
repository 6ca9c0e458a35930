# SPDX-License-Identifier: Apache-2.0
"""`xsk forward` as a process, between unmodified kernels at both ends of the wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.cli import WAITS, ended, index_of, reconciles, running, transfer, xsk
from tests.helpers.second_cable import second_cable
from tests.helpers.wire import Wire, frame
from toolkit.lab import Lab
from toolkit.lab.namespace import Namespace
from toolkit.lab.sniffer import Sniffer
from toolkit.packets import frames
from toolkit.program import attached

pytestmark = pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU")


class Bridged:
    """far (veth1) ══ veth0 [near] veth2 ══ veth3 (beyond): near holds both ends that `xsk forward` joins."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.beyond = Namespace()
        try:
            second_cable(self.lab.netns, self.beyond)
        except BaseException:
            self.beyond.close()
            raise


@pytest.fixture
def bridged(make_lab: Callable[..., Lab]) -> Iterator[Bridged]:
    made = Bridged(make_lab(neighbours=False))
    yield made
    made.beyond.close()


def numbered(count: int) -> list[bytes]:
    """Frames of many lengths, each with its number and a body that can be checked."""
    return [frame(i, 60 + 37 * i % 1400) for i in range(count)]


@pytest.mark.parametrize("how", [*WAITS, ["--generic"], ["--copy", "--no-need-wakeup"]], ids=" ".join)
def test_forward_sends_packets_back_with_swapped_macs(lab: Lab, wire: Wire, how: list[str]) -> None:
    sent = numbered(300)
    with running(lab, "forward", "veth0", "-f", "all", "--mac-swap", "--json", *how) as process:
        wire.send(sent)
        back = wire.receive(300)
        report = ended(process)
    assert back == [one[6:12] + one[:6] + one[12:] for one in sent]
    (way,) = report["directions"]
    assert reconciles(way)
    assert way["received"] == way["forwarded"] == 300
    assert way["octets"] == sum(map(len, sent))
    assert way["edited_out"] == way["no_room"] == 0
    assert way["all_sent"]


@pytest.mark.parametrize("how", WAITS, ids=" ".join)
def test_forward_both_ways_is_a_bridge_for_two_kernels(bridged: Bridged, how: list[str]) -> None:
    lab = bridged.lab
    with running(lab, "forward", "veth0", "veth2", "-f", "all", "--both", "--json", *how, ready=4) as process:
        for address in ("10.11.0.3", "fd11::3"):  # ARP and neighbour discovery go across as well
            told = lab.far.run(
                ["ping", "-n", "-c", "20", "-i", "0.01", address], capture_output=True, text=True, timeout=30
            )
            assert " 20 received" in told.stdout, told.stdout
        assert transfer(bridged.beyond, lab.far, "10.11.0.3", 1_000_000)
        report = ended(process)
    there, back = report["directions"]
    assert (there["from"], there["to"], back["from"], back["to"]) == ("veth0", "veth2", "veth2", "veth0")
    for way in (there, back):
        assert reconciles(way)
        assert way["received"] == way["forwarded"] >= 41
        assert way["all_sent"]
    assert there["forwarded"] > 600  # a megabyte in packets of an MTU


def test_forward_one_way_leaves_the_other_interface_to_the_kernel(bridged: Bridged) -> None:
    lab, sent = bridged.lab, numbered(200)
    with (
        Wire(lab) as wire,
        Sniffer("veth3", bridged.beyond) as beyond,
        running(lab, "forward", "veth0", "veth2", "-f", "ether proto 0x88b5", "--json", ready=3) as process,
    ):
        assert attached(index_of(lab.netns, "veth2"), lab.netns) is None
        wire.send(sent)
        got = [one for one in beyond.frames(timeout=2.0) if one[12:14] == b"\x88\xb5"]
        report = ended(process)
    assert got == sent
    (way,) = report["directions"]
    assert reconciles(way)
    assert way["received"] == way["forwarded"] == 200
    assert (way["from"], way["to"]) == ("veth0", "veth2")


def test_forward_counts_the_time_to_live_down(lab: Lab, wire: Wire) -> None:
    def packet(ttl: int, payload: bytes, vlans: tuple[int, ...] = ()) -> bytes:
        body = frames.ipv4(frames.udp(payload, 1, 2), frames.IPPROTO_UDP, ttl=ttl)
        return frames.ethernet(body, frames.ETH_P_IP, vlans=vlans)

    def packet6(limit: int) -> bytes:
        return frames.ethernet(frames.ipv6(b"x" * 30, frames.IPPROTO_UDP, hop_limit=limit), frames.ETH_P_IPV6)

    alive = [packet(64, b"a" * 18), packet(2, b"b" * 500), packet(255, b"", (7,)), packet6(9), frame(1, 60)]
    dead = [packet(1, b"c"), packet(0, b"d"), packet6(1)]
    with running(lab, "forward", "veth0", "-f", "all", "--ttl", "--json") as process:
        wire.send([alive[0], *dead, *alive[1:]])
        back = wire.receive(len(alive))
        report = ended(process)
    after = [packet(63, b"a" * 18), packet(1, b"b" * 500), packet(254, b"", (7,)), packet6(8), frame(1, 60)]
    # The kernel takes the tag out of what it hands to a packet socket.
    after[2] = after[2][:12] + after[2][16:]
    assert back == after
    (way,) = report["directions"]
    assert (way["received"], way["forwarded"], way["edited_out"]) == (8, 5, 3)
    assert reconciles(way)


def test_forward_adds_and_removes_vlan_tags(lab: Lab) -> None:
    plain = [frame(i, 60 + i) for i in range(40)]
    tagged = [one[:12] + b"\x81\x00\x00\x2a" + one[12:] for one in plain]
    short = frame(1, 14)[:12] + b"\x81\x00"  # announces a tag and ends: goes out, but no kernel shows it to anybody
    for option, sent, wanted in (
        (["--vlan-push", "42"], plain, tagged),
        (["--vlan-pop"], tagged, plain),
        (["--vlan-pop"], [*plain, short, *tagged], [*plain, *plain]),
        (["--vlan-pop", "--vlan-push", "42"], tagged, tagged),
    ):
        with (
            Sniffer("veth1", lab.far) as far,
            running(lab, "forward", "veth0", "-f", "all", *option, "--json") as process,
        ):
            with Wire(lab) as wire:
                wire.send(sent)
            back = far.frames(len(wanted), timeout=3.0)
            report = ended(process)
        assert back == wanted, option
        (way,) = report["directions"]
        assert way["forwarded"] == way["received"] == len(sent)
        assert reconciles(way)


def test_forward_prints_lines_and_what_adds_up(lab: Lab, wire: Wire) -> None:
    command = [
        "forward",
        "veth0",
        "-f",
        "ether proto 0x88b5",
        "--mac-swap",
        "--seconds",
        "1.2",
        "--interval",
        "0.5",
        "--extra",
    ]
    with running(lab, *command) as process:
        wire.send(numbered(100))
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "MAC addresses swapped" in err
    assert out.count("veth0 → veth0  ") == 2
    assert "redirected 100 = received 100\n" in err
    assert "received 100 = forwarded 100\n" in err
    assert "redirected" not in out


def test_forward_says_which_interface_vanished(bridged: Bridged) -> None:
    lab = bridged.lab
    with running(lab, "forward", "veth0", "veth2", "-f", "udp", "--both", "--json", ready=4) as process:
        lab.netns.run(["ip", "link", "del", "veth2"], check=True)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "veth2" in err
    assert len(json.loads(out)["directions"]) == 2
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["veth0", "nope0", "-f", "udp"], 1, ["nope0", "ENODEV"]),
        (["veth0", "udp", "port", "7"], 1, ["udp is no interface", "xsk forward veth0 --back"]),
        (["veth0", "-f", "udp prot"], 1, ["udp prot"]),
        (["veth0"], 2, ["filter", "`all`", "SSH"]),
        (["veth0", "-f", "udp", "--both"], 2, ["--both", "two interfaces"]),
        (["veth0", "veth0", "-f", "udp", "--both"], 2, ["both ends", "xsk forward veth0 --back"]),
        (["veth0", "lo", "-f", "udp", "--ring-size", "1000"], 1, ["1000", "power of two"]),
    ],
)
def test_forward_refuses_in_a_sentence(lab: Lab, arguments: list[str], status: int, words: list[str]) -> None:
    done = xsk(lab, "forward", *arguments)
    assert done.returncode == status, done.stdout
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None
