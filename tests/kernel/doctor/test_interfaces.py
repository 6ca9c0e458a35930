# SPDX-License-Identifier: Apache-2.0
"""`xsk doctor` on interfaces and kernels that are not as wished: each is named, with a remedy that is one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import pytest

from toolkit.doctor import Finding, examine, libraries, system
from toolkit.lab import Lab


def findings(lab: Lab, name: str = "veth0") -> dict[str, Finding]:
    """What the doctor says of an interface, by check."""
    return {one.check: one for one in examine(name, netns=lab.netns) if one.area == name}


@pytest.mark.parametrize(("kind", "says"), [("bridge", "a bridge"), ("macvlan", "a macvlan")])
def test_what_stands_on_another_interface_is_not_the_one_to_open(lab: Lab, kind: str, says: str) -> None:
    added = ["ip", "link", "add", *(["link", "veth0"] if kind == "macvlan" else []), "name", "upper0", "type", kind]
    made = lab.netns.run(added, capture_output=True, text=True)
    if made.returncode:  # both are modules, which small kernels, and containers without /lib/modules, do not have
        pytest.skip(f"this kernel has no {kind}: {made.stderr.strip()}")
    found = findings(lab, "upper0")["driver"]
    assert (found.level, says in found.text) == ("note", True)
    assert "ip -d link show upper0" in found.remedy
    assert findings(lab)["driver"].level == "ok"


@pytest.mark.needs("ethtool")
def test_more_queues_than_cpus_and_the_remedy(make_lab: Callable[..., Lab]) -> None:
    cpus = len(os.sched_getaffinity(0))
    lab = make_lab(queues=cpus + 1)
    found = findings(lab)["queues"]
    assert f"more than the {cpus} CPUs" in found.text
    assert found.remedy == f"ethtool -L veth0 rx {cpus}"  # a veth counts receive and transmit queues by themselves
    lab.netns.run(found.remedy.split(), check=True)
    assert "CPUs" not in findings(lab)["queues"].text


@pytest.mark.parametrize(
    ("offload", "switch"), [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw"), ("rx-vlan-hw-parse", "rxvlan")]
)
@pytest.mark.parametrize("free", [True, False])
def test_offloads_of_a_nic(lab: Lab, monkeypatch: pytest.MonkeyPatch, offload: str, switch: str, free: bool) -> None:
    """What a veth has not: told, with the command where the driver lets it be switched off."""
    monkeypatch.setattr("toolkit.doctor.interface.active_offloads", lambda name: {offload: free, "tx-lro": True})
    found = findings(lab)["offloads"]
    assert found.level == "note"
    assert found.remedy == f"ethtool -K veth0 {switch} off" if free else "hypervisor" in found.remedy


@pytest.mark.parametrize(("release", "level"), [("6.1.0-18-amd64", "problem"), ("6.6.0", "note")])
def test_jumbo_frames_on_a_kernel_without_several_buffers(
    make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, release: str, level: str
) -> None:
    lab = make_lab(mtu=9000)
    monkeypatch.setattr(platform, "release", lambda: release)
    assert findings(lab)["mtu"].level == level


@pytest.mark.parametrize(
    ("release", "level"),
    [("5.10.0-28-amd64", "problem"), ("5.15.0", "note"), ("6.0.19", "note"), ("6.1.0-9-amd64", "ok"), ("6.18", "ok")],
)
def test_a_kernel_that_is_too_old(monkeypatch: pytest.MonkeyPatch, release: str, level: str) -> None:
    monkeypatch.setattr(platform, "release", lambda: release)
    found = {one.check: one for one in system._kernel()}
    assert (found["kernel"].level, found["af_xdp"].level) == (level, "ok")
    assert release in found["kernel"].text


@pytest.mark.parametrize(
    ("version", "level"), [("1.2.9", "note"), ("1.3.0", "ok"), ("1.10", "ok"), ("2.0", "ok"), ("not known", "ok")]
)
def test_a_library_that_is_older_than_those_of_the_tests(version: str, level: str) -> None:
    found = libraries._version("libxdp", f"libxdp {version}", version, (1, 3))
    assert found.level == level
    assert f"libxdp {version}" in found.text
    assert ("1.3" in found.remedy) == (level == "note")


def test_programs_that_are_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the kernel says of a program that it has just loaded."""
    (before,) = system._jit()

    class Interpreted(system.abi.ProgInfo):
        @property
        def jited_prog_len(self) -> Any:
            return 0

    monkeypatch.setattr(system.abi, "ProgInfo", Interpreted)
    (found,) = system._jit()
    assert (before.level, found.level) == ("ok", "note")
    assert "bpf_jit_enable=1" in found.remedy
