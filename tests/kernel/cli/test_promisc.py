# SPDX-License-Identifier: Apache-2.0
"""Which commands make an interface promiscuous, by themselves or when asked to, and that they say so."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.helpers.cli import running
from tests.helpers.promiscuity import seen
from tests.helpers.second_cable import second_cable
from toolkit.lab import Lab

BANNER = "promiscuous until the end"


@pytest.fixture
def two_ports(make_lab: Callable[..., Lab]) -> Lab:
    """veth0 and veth2 in one namespace, each with its other end in that of the far host."""
    lab = make_lab(neighbours=False)
    second_cable(lab.netns, lab.far, bridged=False)
    return lab


@pytest.mark.parametrize(
    ("arguments", "sockets", "expected"),
    [
        (["veth2", "--both", "all"], 4, (1, 1)),
        (["veth2", "all"], 3, (1, 0)),
        (["veth2", "all", "--mac-swap"], 3, (0, 0)),
        (["veth2", "all", "--mac-swap", "--promisc"], 3, (1, 0)),
        (["veth2", "--both", "all", "--no-promisc"], 4, (0, 0)),
        (["--back", "all"], 2, (0, 0)),
        (["--back", "all", "--promisc"], 2, (1, 0)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_forward_does_it_where_packets_come_from(
    two_ports: Lab, arguments: list[str], sockets: int, expected: tuple[int, int]
) -> None:
    with running(two_ports, "forward", "veth0", *arguments, ready=sockets) as process:
        assert tuple(seen(two_ports, name)[0] for name in ("veth0", "veth2")) == expected
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert said.count(BANNER) == sum(expected)
    assert [seen(two_ports, name) for name in ("veth0", "veth2")] == [(0, False), (0, False)]


@pytest.mark.parametrize(
    "command",
    [
        ["receive", "veth0", "udp"],
        ["receive", "veth0", "udp", "--tee"],
        ["receive", "veth0", "udp", "--workers", "1"],
        ["drop", "veth0", "udp"],
        ["top", "veth0", "udp"],
        ["capture", "veth0", "udp", "-w", "/dev/null"],
        ["echo", "veth0"],
    ],
    ids=" ".join,
)
def test_other_commands_do_it_when_asked(lab: Lab, command: list[str]) -> None:
    workers = "--workers" in command
    with running(lab, *command, "--promisc", ready=0 if workers else 1) as process:
        assert process.stderr is not None
        first = "".join(process.stderr.readline() for _ in range(3 if workers else 2))
        assert BANNER in first
        assert seen(lab) == (1, False)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert seen(lab) == (0, False)


def test_the_report_has_it(lab: Lab) -> None:
    for asked in ([], ["--promisc"]):
        with running(lab, "drop", "veth0", "udp", "--json", *asked) as process:
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=30)
        assert json.loads(out)["promisc"] is bool(asked)
