# SPDX-License-Identifier: Apache-2.0
"""`xsk detach`: it takes off what it is asked to, and nothing that is in use unasked."""

from __future__ import annotations

import json
import os
import socket

import pytest

import toolkit
from tests.helpers.cli import xsk
from tests.helpers.firewalls import held_by_netlink, present
from toolkit.abi import libbpf as abi
from toolkit.errors import DetachedError, SystemCallError, ToolkitError
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.program.removal import take_off


def test_detach_where_nothing_is_attached(lab: Lab) -> None:
    done = xsk(lab, "detach", "veth0")
    assert (done.returncode, done.stdout) == (0, "veth0: no XDP program is attached\n")
    done = xsk(lab, "detach", "nonesuch")
    assert done.returncode == 1
    assert "nonesuch" in done.stderr


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_detach_takes_off_what_it_is_asked_to_by_name(lab: Lab, mode: str) -> None:
    with held_by_netlink(lab, mode=abi.XDP_FLAGS_DRV_MODE if mode == "native" else abi.XDP_FLAGS_SKB_MODE):
        pass
    there = present(lab)
    assert there.mode == mode
    done = xsk(lab, "detach", "veth0")  # it may be a firewall
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.rstrip().endswith(f"Next step: if it may go, `xsk detach veth0 --program {there.program.id}`.")
    done = xsk(lab, "detach", "veth0", "--program", "xdp_drop")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"not xdp_drop is attached, but program {there.program.id} (xdp_pass)" in done.stderr
    assert present(lab) == there
    how = ["--program", str(there.program.id)] if mode == "native" else ["--program", "xdp_pass"]
    done = xsk(lab, "detach", "veth0", *how)
    assert done.returncode == 0, done.stderr
    assert f"detached program {there.program.id} (xdp_pass), {mode}, held by netlink" in done.stdout
    assert present(lab) is None


def test_detach_refuses_what_a_process_still_has_open(lab: Lab) -> None:
    with held_by_netlink(lab) as program:
        done = xsk(lab, "detach", "veth0", "--program", str(program.id))
        assert done.returncode == 1
        assert f"in use by pid {os.getpid()}" in done.stderr
        assert "--force" in done.stderr
        assert present(lab).program.id == program.id
        done = xsk(lab, "detach", "veth0", "--force", "--json")
        assert json.loads(done.stdout)["refused"] is None
        assert present(lab) is None


def test_detach_refuses_a_link_and_says_whose(lab: Lab) -> None:
    with toolkit.open("veth0", filter="udp", netns=lab.netns, ring_size=1024) as near:
        done = xsk(lab, "detach", "veth0")
        assert done.returncode == 1
        assert f"in use by pid {os.getpid()}" in done.stderr
        lab.udp(count=3)
        assert len(near.receive(timeout=20)) > 0  # undisturbed
        done = xsk(lab, "detach", "veth0", "--force")
        assert done.returncode == 0, done.stderr
        assert "detached program" in done.stdout
        assert present(lab) is None
        with pytest.raises(DetachedError, match="somebody took the XDP program xsk_redirect off"):
            list(iter(lambda: bool(near.receive(timeout=20)), False))  # what came before that goes first
    assert present(lab) is None


def test_detach_leaves_xdp_tools_dispatcher(lab: Lab) -> None:
    text = "#include <uapi/linux/bpf.h>\nint xdp_dispatcher(struct xdp_md *ctx) { return XDP_PASS; }\n"
    with Program.build(text) as program, lab.netns.entered():
        ifindex = socket.if_nametoindex("veth0")
        assert abi.libbpf().bpf_xdp_attach(ifindex, program.fd, 0, None) == 0
    done = xsk(lab, "detach", "veth0")
    assert done.returncode == 1
    assert "xdp-loader unload" in done.stderr
    assert present(lab) is not None
    assert xsk(lab, "detach", "veth0", "--force").returncode == 0
    assert present(lab) is None


def test_detach_takes_off_only_what_it_has_shown(lab: Lab) -> None:
    with held_by_netlink(lab):
        shown = present(lab)
    with Program.build("xdp_drop.c") as other, lab.netns.entered():
        assert abi.libbpf().bpf_xdp_attach(shown.ifindex, other.fd, abi.XDP_FLAGS_DRV_MODE, None) == 0
        # The one that was shown is gone from the kernel; with it still open, the kernel has to tell them apart.
        with pytest.raises(ToolkitError):
            take_off("veth0", shown)
        with Program.build("xdp_pass.c") as third:
            info = shown.program.__class__(third.id, "xdp_pass", 0, 0)
            with pytest.raises(SystemCallError, match="another program took its place"):
                take_off("veth0", shown.__class__(shown.ifindex, info, "native", ()))
        assert present(lab).program.id == other.id
