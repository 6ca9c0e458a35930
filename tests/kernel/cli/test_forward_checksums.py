# SPDX-License-Identifier: Apache-2.0
"""iperf3 through `xsk forward` between unmodified hosts, which leave checksums to "the hardware"."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

import numpy as np
import pytest

import toolkit
from tests.helpers.cli import ended, reconciles, transfer
from tests.helpers.forwarding import moved
from tests.helpers.offloads import Hosts, csum_errors, iperf3, watched
from tests.helpers.wire import eventually
from toolkit.batch.editable import EditableBatch
from toolkit.forward.forwarder import Forwarder
from toolkit.packets.checksum import update
from toolkit.umem.umem import UMEM

pytestmark = [pytest.mark.needs("iperf3")]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with contextlib.ExitStack() as stack:
        yield Hosts(stack)


@pytest.mark.parametrize("address", ["10.11.0.3", "fd11::3"], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("options", [[], ["-R"]], ids=["there", "back"])
def test_iperf3_tcp_passes_between_unmodified_hosts(hosts: Hosts, address: str, options: list[str]) -> None:
    with hosts.bridged("--native") as process:
        report = iperf3(hosts.right, hosts.left, address, "-t", "1", *options)
        result = ended(process)
    assert report["end"]["sum_received"]["bytes"] > 500_000  # without them not even the handshake comes about
    assert not any({**csum_errors(hosts.left), **csum_errors(hosts.right)}.values())
    for way in result["directions"]:
        assert way["mode"] == "native"
        assert reconciles(way)
        assert way["checksums_finished"] > 20


@pytest.mark.parametrize("address", ["10.11.0.3", "fd11::3"], ids=["ipv4", "ipv6"])
def test_iperf3_udp_passes_between_unmodified_hosts(hosts: Hosts, address: str) -> None:
    with hosts.bridged("--native") as process:
        report = iperf3(hosts.right, hosts.left, address, "-u", "-b", "4M", "-t", "1", "-l", "1200")
        there, _ = ended(process)["directions"]
    total = report["end"]["sum"]
    assert total["packets"] > 200
    assert total["lost_packets"] <= total["packets"] * 0.05  # a busy machine may lose some; checksums would lose all
    assert there["checksums_finished"] >= total["packets"]
    for host in (hosts.left, hosts.right):
        assert not any(csum_errors(host).values())


def test_checksums_left_as_they_are_do_not_pass(hosts: Hosts) -> None:
    """The option, and proof that these hosts leave them open: the other kernel counts every one as broken."""
    with hosts.bridged("--leave-checksums") as process:
        sender = udp(hosts, "10.11.0.3", b"x" * 99)
        with contextlib.closing(sender):
            assert eventually_broken(hosts)
        result = ended(process, signal.SIGINT)
    assert [way["checksums_finished"] for way in result["directions"]] == [0, 0]


@pytest.mark.needs("tcpdump")
def test_tcpdump_beside_the_receiver_finds_every_checksum_correct(hosts: Hosts) -> None:
    with hosts.bridged("--native") as process, watched(hosts.right, "veth3") as lines:
        assert transfer(hosts.right, hosts.left, "10.11.0.3", 200_000)
        assert transfer(hosts.right, hosts.left, "fd11::3", 200_000)
        with contextlib.closing(udp(hosts, "10.11.0.3", b"x" * 99)):
            assert eventually(lambda: sum(".4444: [" in line for line in lines) >= 10, 10.0)
        ended(process)
    text = "\n".join(lines)
    assert "incorrect" not in text
    assert "bad udp" not in text
    assert text.count("(correct)") > 200
    assert text.count("udp sum ok") >= 10


def test_edits_that_correct_checksums_meet_whole_ones(hosts: Hosts) -> None:
    """RFC 1624 on a sum of the pseudo header alone would be wrong: it is finished before the edit sees it."""
    with hosts.lab.netns.entered():
        umem = UMEM(4096, 2048)
        first = toolkit.open("veth0", filter="udp port 4444", umem=umem)
        second = toolkit.open("veth2", filter="udp port 4444", umem=umem)

    def translate(batch: EditableBatch) -> None:
        """A NAT: another source port, and the checksum corrected by the difference."""
        heads = batch.head(42)
        old = heads[:, 34:36].copy().view(">u2")[:, 0]
        heads[:, 34:36] = [7777 >> 8, 7777 & 255]
        update(heads, 40, old, np.uint16(7777), udp=True)
        batch.put_head(heads)

    with (
        umem,
        first,
        second,
        hosts.right.entered(),
        contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sink,
    ):
        sink.bind(("", 4444))
        sink.settimeout(10)
        hosts.know_each_other()
        forwarder = Forwarder(first, second, translate)
        with contextlib.closing(udp(hosts, "10.11.0.3", b"y" * 333)):
            moved(forwarder, 10)
        assert [sink.recvfrom(2000) for _ in range(10)] == [(b"y" * 333, ("10.11.0.2", 7777))] * 10
        assert forwarder.statistics().finished == 10
    assert not any(csum_errors(hosts.right).values())


def udp(hosts: Hosts, address: str, payload: bytes) -> socket.socket:
    with hosts.left.entered():
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(10):
        made.sendto(payload, (address, 4444))
    return made


def eventually_broken(hosts: Hosts) -> bool:
    return eventually(lambda: csum_errors(hosts.right).get("Udp", 0) >= 10, 10.0)
