# SPDX-License-Identifier: Apache-2.0
"""`--replace` on the command line: what is taken off and put back is named, and kill -9 loses nobody's firewall."""

from __future__ import annotations

import json
import signal

import pytest

from tests.helpers.firewalls import Machine, by_netlink, drops, end, present
from toolkit.lab import Lab
from toolkit.program import Program

pytestmark = [pytest.mark.needs("nsenter")]

TAKING = ("receive", "veth0", "--filter", "udp port 9", "--replace")


@pytest.fixture
def firewall(lab: Lab) -> int:
    """The id of a firewall that works."""
    number = by_netlink(lab)
    assert drops(lab)
    return number


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_both_ends_name_it(lab: Lab, machine: Machine, firewall: int, how: signal.Signals) -> None:
    with machine.running(
        lab, "top", "veth0", "-f", "udp", "--tee", "--replace", "--json", program="xsk_tee"
    ) as process:
        assert not drops(lab)
        shown = machine.xsk(lab, "status").stdout
        assert f"veth0: program {firewall} (firewall), native, was taken off by --replace, put back when pid" in shown
        _, err = end(process, how)
    lines = err.splitlines()
    assert (
        f"xsk: veth0: took off program {firewall} (firewall), native, held by netlink; it is put back at the end"
        in lines
    )
    assert lines[-1] == f"xsk: veth0: program {firewall} (firewall), native, is back on veth0"
    assert drops(lab)


def killed(lab: Lab, machine: Machine) -> None:
    with machine.running(lab, *TAKING) as process:
        process.kill()
        process.communicate()
    assert present(lab) is None
    assert not drops(lab)


def test_kill_and_then_detach(lab: Lab, machine: Machine, firewall: int) -> None:
    killed(lab, machine)
    shown = machine.xsk(lab, "status")
    assert (
        f"program {firewall} (firewall), native, was taken off by --replace, not back: `xsk detach veth0`"
        in shown.stdout
    )
    report = json.loads(machine.xsk(lab, "doctor", "veth0", "--json").stdout)
    (finding,) = [one for one in report["findings"] if one["check"] == "replaced"]
    assert (finding["level"], finding["remedy"]) == ("problem", "xsk detach veth0")
    assert not drops(lab)  # to look is not to repair
    done = machine.xsk(lab, *finding["remedy"].split()[1:])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"repaired: veth0: program {firewall} (firewall), native, is back on veth0\n"
    assert drops(lab)
    assert "taken off" not in machine.xsk(lab, "status").stdout


def test_kill_and_then_the_same_again(lab: Lab, machine: Machine, firewall: int) -> None:
    killed(lab, machine)
    with machine.running(lab, *TAKING) as process:
        _, err = end(process)
    assert err.count("is back on veth0") == 2
    assert err.count(f"took off program {firewall} (firewall)") == 1
    assert drops(lab)


def test_kill_and_then_any_other_command(lab: Lab, machine: Machine, firewall: int) -> None:
    killed(lab, machine)
    done = machine.xsk(lab, "send", "veth0", "--ip-dst", "10.11.0.2", "--count", "1")
    assert f"xsk: veth0: program {firewall} (firewall), native, is back on veth0" in done.stderr.splitlines()
    assert drops(lab)


def test_kill_and_then_one_that_would_take_its_place_unasked(lab: Lab, machine: Machine, firewall: int) -> None:
    killed(lab, machine)
    done = machine.xsk(lab, *TAKING[:-1])
    assert done.returncode == 1
    assert f"program {firewall} (firewall), native, held by netlink" in done.stderr
    assert drops(lab)


def test_a_link_wants_a_flag_of_its_own(lab: Lab, machine: Machine) -> None:
    with Program.build("xdp_pass.c") as other, other.attach("veth0", netns=lab.netns):
        done = machine.xsk(lab, *TAKING)
        assert done.returncode == 1
        assert "--replace-link" in done.stderr
        assert "Traceback" not in done.stderr
        with machine.running(lab, *TAKING[:-1], "--replace-link") as process:
            out, err = end(process)
        assert f"took off program {other.id} (xdp_pass)" in err
        assert "for good" in err
    assert process.returncode == 0, (out, err)


def test_a_closed_stderr_is_no_reason_to_lose_it(lab: Lab, machine: Machine, firewall: int) -> None:
    with machine.running(lab, *TAKING, shell="exec 2>&-") as process:
        end(process)
    assert process.returncode == 0
    assert drops(lab)
