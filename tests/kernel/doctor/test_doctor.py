# SPDX-License-Identifier: Apache-2.0
"""`xsk doctor`: what it finds is so, and its remedies cure."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.cli import XSK
from tests.helpers.firewalls import held_by_netlink
from tests.helpers.wire import child_environment, eventually, run_child
from toolkit.doctor import Finding, compiler, examine, libraries, system
from toolkit.errors import LibraryError, SystemCallError
from toolkit.lab import Lab
from toolkit.net import netdev
from toolkit.net.netdev import NETDEV_XDP_ACT_BASIC, abilities
from toolkit.program import Program

COMMANDS = {"ip", "ethtool"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory that is ours."""
    base = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))
    return base / "afxdp-toolkit"


def xsk(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with the environment as it is now: the cache is the test's."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return lab.netns.run([*XSK, *arguments], env=child_environment(), **options)


def findings(lab: Lab, name: str | None = "veth0") -> dict[str, Finding]:
    """What the doctor says of an interface, by check."""
    return {one.check: one for one in examine(name, netns=lab.netns) if one.area == (name or "veth0")}


def cure(lab: Lab, finding: Finding) -> None:
    """Do what the remedy says."""
    words = shlex.split(finding.remedy)
    assert words[0] in COMMANDS, finding
    lab.netns.run(words, check=True)


# --- doctor: an interface -------------------------------------------------------------------------------------------


def test_a_healthy_interface(make_lab: Callable[..., Lab]) -> None:
    found = findings(make_lab(queues=2))
    found.pop("sockets", None)  # of others on this machine, where the kernel does not say on which interface
    assert {check: one.level for check, one in found.items()} == {
        "state": "ok",
        "driver": "ok",
        "xdp": "ok",
        "zero-copy": "note",
        "queues": "note",
        "mtu": "ok",
        "offloads": "ok",
        "checksums": "note",  # those of hosts beside it
        "program": "ok",
    }
    assert "veth" in found["driver"].text
    assert "2 receive queues" in found["queues"].text
    assert "RSS" in found["queues"].text


def test_the_verdict_on_native_mode_is_what_attaching_shows(lab: Lab) -> None:
    with lab.netns.entered(), Program.build("xdp_pass.c") as program:
        for name, native in (("veth0", True), ("lo", False)):
            able = abilities(socket.if_nametoindex(name))
            assert able is not None
            assert bool(able.features & NETDEV_XDP_ACT_BASIC) is native
            with program.attach(name) as link:
                assert (link.mode == "native") is native
    assert findings(lab, "lo")["xdp"].level == "note"


def test_what_the_kernel_does_not_say_is_unknown(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.net.netdev.abilities", lambda ifindex: None)
    found = findings(lab)["xdp"]
    assert (found.level, found.text[:7]) == ("note", "unknown")
    with lab.netns.entered():
        assert abilities(999_999) is None


def test_an_interface_that_is_down_is_a_problem_when_it_is_meant(lab: Lab) -> None:
    lab.set_down()
    assert findings(lab, None)["state"].level == "note"
    found = findings(lab)["state"]
    assert found.level == "problem"
    cure(lab, found)
    assert eventually(lambda: findings(lab)["state"].level == "ok")


def test_a_missing_carrier_is_reported(lab: Lab) -> None:
    with lab.far.entered():
        from toolkit.net import ethtool

        ethtool.set_up(lab.peer, up=False)
    assert eventually(lambda: "no carrier" in findings(lab)["state"].text)


@pytest.mark.parametrize(("mtu", "level"), [(1500, "ok"), (3818, "ok"), (3819, "note"), (9000, "note")])
def test_packets_that_do_not_fit_a_frame(make_lab: Callable[..., Lab], mtu: int, level: str) -> None:
    lab = make_lab(mtu=mtu)
    found = findings(lab)["mtu"]
    assert found.level == level
    if level == "note":
        cure(lab, found)
        assert findings(lab)["mtu"].level == "ok"


@pytest.mark.parametrize(
    ("mtu", "buffers", "level", "remedy"),
    [
        (1500, 1, "ok", ""),
        (3814, 1, "ok", ""),
        (3815, 1, "note", "ip link set dev veth0 mtu 3814"),
        (9000, 1, "note", "ip link set dev veth0 mtu 3814"),
        (9000, 5, "ok", ""),
    ],
)
def test_zero_copy_needs_packets_that_fit_a_frame(
    make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, mtu: int, buffers: int, level: str, remedy: str
) -> None:
    features = netdev.NETDEV_XDP_ACT_BASIC | netdev.NETDEV_XDP_ACT_XSK_ZEROCOPY
    monkeypatch.setattr(netdev, "abilities", lambda ifindex: netdev.Abilities(features, buffers))
    lab = make_lab(mtu=mtu)
    found = findings(lab)["zero-copy"]
    assert (found.level, found.remedy) == (level, remedy)
    if level == "note":
        assert f"not with MTU {mtu}" in found.text
        cure(lab, found)
        assert findings(lab)["zero-copy"].level == "ok"


@pytest.mark.needs("ethtool")
def test_offloads_in_the_way_and_their_remedy(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(offloads=True)
    found = findings(lab)["offloads"]
    assert (found.level, found.remedy) == ("note", "ethtool -K veth0 rxvlan off")
    cure(lab, found)
    assert findings(lab)["offloads"].level == "ok"


def test_a_program_at_work_and_taken_queues_are_named(lab: Lab) -> None:
    with toolkit.open("veth0", filter="udp", netns=lab.netns, ring_size=1024):
        found = findings(lab)
    assert found["program"].level == found["sockets"].level == "note"
    assert f"pid {os.getpid()}" in found["program"].text
    assert f"pid {os.getpid()}" in found["sockets"].text
    if not system.older_than(6, 15):
        assert found["sockets"].text.startswith("queue 0")
        assert found["sockets"].text.count("pid ") == 1  # nobody else on this machine is named


def test_a_program_that_stays_is_no_problem_and_goes_by_its_id(lab: Lab) -> None:
    with held_by_netlink(lab):
        pass
    found = findings(lab)["program"]
    assert found.level == "note"
    assert "`replace=True`" in found.remedy
    assert xsk(lab, "doctor", "veth0").returncode == 0
    assert "`xsk detach veth0`" in found.remedy
    refused = xsk(lab, "detach", "veth0")
    assert refused.returncode == 1
    command = refused.stderr.split("`")[1].split()
    assert command[:4] == ["xsk", "detach", "veth0", "--program"]
    assert xsk(lab, *command[1:]).returncode == 0
    assert findings(lab)["program"].level == "ok"


def test_no_such_interface(lab: Lab) -> None:
    with pytest.raises(SystemCallError, match="no such interface"):
        findings(lab, "nonesuch")
    done = xsk(lab, "doctor", "nonesuch")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# --- doctor: the system ---------------------------------------------------------------------------------------------


def test_the_command_prints_findings_with_their_remedies(lab: Lab) -> None:
    done = xsk(lab, "doctor", "veth0")
    assert done.returncode == 0, done.stdout
    assert "\nveth0\n" in done.stdout
    assert "no problems" in done.stdout
    done = xsk(lab, "doctor", "--json")
    reported = json.loads(done.stdout)
    assert reported["problems"] == 0
    checks = {(one["area"], one["check"]) for one in reported["findings"]}
    assert {
        ("system", check) for check in ("kernel", "af_xdp", "jit", "privileges", "libxdp", "bcc", "cache")
    } <= checks
    assert ("veth0", "driver") in checks


@pytest.mark.needs("setpriv")
def test_missing_privileges_are_named_with_what_they_are_for() -> None:
    out = run_child(
        """
        from toolkit.doctor.system import examine_system
        for one in examine_system():
            print(one.check, one.level, one.text, sep="|")
        """,
        *("setpriv", "--bounding-set", "-all,+net_raw", "--inh-caps", "-all"),
    )
    found = [line.split("|") for line in out.splitlines()]
    missing = {text.split(" ")[0]: level for check, level, text in found if check == "privileges"}
    assert missing == {
        "CAP_NET_ADMIN": "problem",
        "CAP_BPF": "problem",
        "CAP_PERFMON": "note",
        "CAP_IPC_LOCK": "note",
        "CAP_SYS_ADMIN": "note",
    }
    assert any(check == "af_xdp" and level == "ok" for check, level, _ in found)
    assert any(check == "jit" and level == "note" for check, level, _ in found)  # it may not load a program


def test_a_small_memlock_limit_is_a_problem_without_ipc_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 16, 1 << 16))
    assert [one.level for one in system._memlock(locks=False)] == ["problem"]
    assert [one.level for one in system._memlock(locks=True)] == ["ok"]


def test_a_bcc_that_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compiler, "interpreters", lambda: ["/nonexistent/python"])
    (found,) = compiler.examine_compiler()
    assert (found.level, found.check) == ("problem", "bcc")
    assert "/nonexistent/python" in found.text
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\necho "boom" >&2\nexit 3\n')
    broken.chmod(0o755)
    monkeypatch.setattr(compiler, "interpreters", lambda: [str(broken)])
    (found,) = compiler.examine_compiler()
    assert found.level == "problem"
    assert "does not compile" in found.text


def test_libraries_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise LibraryError("cannot load libxdp.so.1: no such file. Likely cause: …")

    monkeypatch.setattr("toolkit.abi.libxdp.libxdp", missing)
    found = {one.check: one for one in libraries.examine_libraries()}
    assert (found["libxdp"].level, found["libxdp"].text) == ("problem", "cannot load libxdp.so.1: no such file")
    assert found["libbpf"].level == found["libpcap"].level == found["libatomic"].level == "ok"


def test_a_cache_that_others_can_write(cache: Path) -> None:
    (before,) = system._cache()
    assert not cache.exists()  # to look is not to make
    cache.mkdir(mode=0o700)
    (mine,) = system._cache()
    cache.chmod(0o777)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the doctor tells it itself
        (found,) = system._cache()
    assert [one.level for one in (before, mine, found)] == ["ok", "ok", "note"]
    assert "others can write" in found.text


# --- what a killed busy-polling process leaves ----------------------------------------------------------------------


DEFER = """
    import sys, time
    from toolkit.net.napi import Deferral
    deferral = Deferral("veth0")
    print("deferred", flush=True)
    time.sleep(60)
"""


def deferral_of(lab: Lab) -> str:
    done = lab.netns.run(
        [
            sys.executable,
            "-c",
            "from toolkit.net.sysfs import InterfaceDirectory as D; d = D('veth0');"
            "print(d.read('napi_defer_hard_irqs'), d.read('gro_flush_timeout'))",
        ],
        env=child_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return str(done.stdout.strip())


def test_interrupts_that_stayed_deferred_are_found_and_restored(lab: Lab) -> None:
    assert deferral_of(lab) == "0 0"
    child = lab.netns.popen(
        [sys.executable, "-c", textwrap.dedent(DEFER)], env=child_environment(), stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "deferred\n"
    assert "napi" not in findings(lab)  # of a living process: as it should be
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert deferral_of(lab) != "0 0"
    found = findings(lab)["napi"]
    assert (found.level, found.remedy) == ("problem", "xsk detach veth0")
    done = xsk(lab, "detach", "veth0")
    assert done.returncode == 0, done.stderr
    assert "repaired: veth0" in done.stdout
    assert deferral_of(lab) == "0 0"
    assert "napi" not in findings(lab)
