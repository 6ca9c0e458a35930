# SPDX-License-Identifier: Apache-2.0
"""Devices whose packets have no Ethernet header: refused with the reason wherever one could be opened."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

import toolkit
from tests.helpers.cli import index_of, xsk
from toolkit.doctor import examine
from toolkit.errors import SystemCallError
from toolkit.lab import Lab
from toolkit.net.device import check_ethernet, describe
from toolkit.program import Program, attached
from toolkit.umem.umem import UMEM
from toolkit.workers import Workers


@pytest.fixture
def tun(lab: Lab) -> Lab:
    """A lab whose near end also has tun0, as a VPN makes it: up, with an address."""
    lab.netns.run(["ip", "tuntap", "add", "dev", "tun0", "mode", "tun"], check=True)
    lab.netns.run(["ip", "address", "add", "10.13.0.1/24", "dev", "tun0"], check=True)
    lab.netns.run(["ip", "link", "set", "dev", "tun0", "up"], check=True)
    return lab


def nothing(worker: Any) -> None:
    """What no worker comes to."""


def opened(lab: Lab) -> None:
    toolkit.open("tun0", filter="all", netns=lab.netns)


def opened_with_frags(lab: Lab) -> None:
    toolkit.open("tun0", filter="udp", frags=True, mode="generic", netns=lab.netns)


def teed(lab: Lab) -> None:
    toolkit.tee("tun0", filter="all", netns=lab.netns)


def bound(lab: Lab) -> None:
    with UMEM(64, 2048) as umem:
        toolkit.Socket("tun0", umem=umem, netns=lab.netns)


def bound_to_send(lab: Lab) -> None:
    with UMEM(64, 2048) as umem:
        toolkit.Socket("tun0", umem=umem, rx=False, netns=lab.netns)


def filtered(lab: Lab) -> None:
    with Program.build("xsk_redirect.c", filter="udp port 53") as program:
        program.attach("tun0", netns=lab.netns)


def worked(lab: Lab) -> None:
    Workers("tun0", nothing, filter="all", netns=lab.netns)


@pytest.mark.parametrize("way", [opened, opened_with_frags, teed, bound, bound_to_send, filtered, worked])
def test_a_tun_device_is_refused_with_the_reason(tun: Lab, way: Callable[[Lab], None]) -> None:
    with pytest.raises(SystemCallError) as refused:
        way(tun)
    assert refused.value.errno == errno.EOPNOTSUPP
    for word in ("tun0", "no Ethernet header", "layer 3", "Next step"):
        assert word in str(refused.value)
    assert attached(index_of(tun.netns, "tun0"), tun.netns) is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["receive", "tun0", "-f", "all"],
        ["drop", "tun0", "-f", "udp", "--on-match", "drop"],
        ["top", "tun0", "-f", "all"],
        ["top", "tun0", "-f", "all", "--tee"],
        ["capture", "tun0", "udp", "-w", "{}/x.pcap"],
        ["capture", "tun0", "udp", "-w", "{}/x.pcap", "--tee"],
        ["send", "tun0", "--frame", "ffffffffffff 020000000002 88b5 48656c6c6f", "-c", "1"],
        ["send", "tun0", "-r", "{}/in.pcap"],
        ["echo", "tun0", "--ip", "10.13.0.9"],
        ["forward", "tun0", "-f", "all"],
        ["forward", "veth0", "tun0", "-f", "udp"],
        ["forward", "tun0", "veth0", "-f", "udp", "--both"],
        ["receive", "tun0", "-f", "all", "--workers", "1"],
    ],
    ids=" ".join,
)
def test_every_command_refuses_it(tun: Lab, tmp_path: Any, arguments: list[str]) -> None:
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    (tmp_path / "in.pcap").write_bytes(header + bytes(8) + (60).to_bytes(4, "little") * 2 + bytes(60))
    with tun.netns.entered(), socket.create_server(("", 8080)):  # no question, and no advice that would be refused then
        done = xsk(tun, *[word.format(tmp_path) for word in arguments], stdin=subprocess.DEVNULL)
    assert done.returncode == 1, done.stdout
    assert "8080" not in done.stderr
    assert "warning" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "tun0" in done.stderr
    assert "no Ethernet header" in done.stderr
    for name in ("tun0", "veth0"):
        assert attached(index_of(tun.netns, name), tun.netns) is None
    assert not (tmp_path / "x.pcap").exists()


def test_doctor_calls_it_a_problem_with_what_to_do(tun: Lab) -> None:
    found = [one for one in examine("tun0", netns=tun.netns) if one.area == "tun0" and one.check == "link"]
    assert [one.level for one in found] == ["problem"]
    assert "no Ethernet header" in found[0].text
    assert "tcpdump -i tun0" in found[0].remedy
    # Of all interfaces, which nobody means to use, it is worth a note.
    found = [one for one in examine(netns=tun.netns) if one.check == "link"]
    assert [(one.area, one.level) for one in found] == [("tun0", "note")]
    done = xsk(tun, "doctor", "tun0")
    assert done.returncode == 1
    assert "no Ethernet header" in done.stdout


def test_status_shows_what_kind_of_device_it_is(tun: Lab) -> None:
    done = xsk(tun, "status", "--json")
    kinds = {one["interface"]: one["link"] for one in json.loads(done.stdout)["interfaces"]}
    assert kinds["veth0"] == kinds["lo"] == "Ethernet"
    assert "layer 3" in kinds["tun0"]


def test_tap_loopback_and_tunnels_that_carry_ethernet_are_welcome(lab: Lab) -> None:
    lab.netns.run(["ip", "tuntap", "add", "dev", "tap0", "mode", "tap"], check=True)
    lab.netns.run(
        ["ip", "link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4789", "dev", "veth0"], check=True
    )
    for name in ("tap0", "vx0", "lo"):
        lab.netns.run(["ip", "link", "set", "dev", name, "up"], check=True)
        with toolkit.open(name, filter="udp port 9", mode="generic", netns=lab.netns) as interface:
            assert interface.device.link == "Ethernet"


@pytest.mark.parametrize("kind", [32, 512, 519, 768, 769, 776, 778, 801, 803, 823, 824, 65534, 4711])
def test_other_kinds_are_named(lab: Lab, kind: int) -> None:
    with lab.netns.entered():
        device = describe("veth0")
    check_ethernet(device)
    with pytest.raises(SystemCallError, match="no Ethernet header"):
        check_ethernet(device._replace(kind=kind))
    assert (str(kind) in device._replace(kind=kind).link) == (kind == 4711)


def test_a_program_of_ones_own_without_filter_may_be_attached(tun: Lab) -> None:
    """It knows what it looks at."""
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(Program.build("xdp_drop.c"))
        stack.enter_context(program.attach("tun0", netns=tun.netns))
        assert attached(index_of(tun.netns, "tun0"), tun.netns) is not None
