# SPDX-License-Identifier: Apache-2.0
"""--tee: commands that look, while the kernel gets every packet."""

from __future__ import annotations

import pytest

from tests.helpers.cli import ended_after, running, xsk
from toolkit.lab import Lab


@pytest.mark.parametrize("command", ["receive", "top"])
def test_both_get_every_packet(lab: Lab, command: str) -> None:
    with (
        lab.capture() as kernel,
        running(lab, command, "veth0", "-f", "udp", "--tee", "--json", ready=1) as process,
    ):
        lab.udp(count=60, size=100, destination_port=4000)
        reached = kernel.frames(60, timeout=20)
        report = ended_after(process, lab, 60)
    assert len(reached) == 60
    assert (report["tee"], report["matched"], report["received"], report["dropped"]) == (True, 60, 60, 0)
    assert report["received_bytes"] == 60 * 142
    if command == "top":
        assert [(flow["packets"], flow["bytes"]) for flow in report["top"]] == [(60, 60 * 142)]


def test_it_says_so(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "-f", "udp", "--tee", ready=1) as process:
        lab.udp(count=30)
        said = ended_after(process, lab, 30)
    assert "the kernel gets them as well" in said.splitlines()[0]
    assert "passed on to the kernel: 30\n" in said
    assert "redirected 30 = received 30\n" in said


@pytest.mark.parametrize("other", [["--spin"], ["--busy-poll"], ["--zero-copy"], ["--workers", "2"]], ids=" ".join)
def test_what_does_not_go_with_it(lab: Lab, other: list[str]) -> None:
    done = xsk(lab, "receive", "veth0", "-f", "udp", "--tee", *other)
    assert done.returncode == 2
    assert "--tee" in done.stderr
