# SPDX-License-Identifier: Apache-2.0
"""Input that cannot work: each is a clear error, before anything is attached."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import pytest

import toolkit
from tests.helpers.wire import what_runs
from toolkit.errors import (
    ArgumentError,
    FilterError,
    SystemCallError,
)
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.umem.umem import UMEM


def test_no_such_interface(lab: Lab) -> None:
    for make in (
        lambda: toolkit.open("nosuch0", filter="all", netns=lab.netns),
        lambda: toolkit.Socket("nosuch0", netns=lab.netns),
    ):
        with pytest.raises(SystemCallError, match=r"nosuch0.*No such device.*ip link") as caught:
            make()
        assert caught.value.errno == 19


@pytest.mark.parametrize("name", ["", "a name", "x" * 16, "a/b", "nul\0", "tab\t", None, 7])
def test_no_name_for_an_interface(lab: Lab, name: str) -> None:
    with pytest.raises(ArgumentError, match="interface"):
        toolkit.open(name, filter="all", netns=lab.netns)


def test_interface_down(lab: Lab) -> None:
    lab.set_down()
    for make in (
        lambda: toolkit.open("veth0", filter="all", netns=lab.netns),
        lambda: toolkit.Socket("veth0", netns=lab.netns),
    ):
        with pytest.raises(SystemCallError, match=r"veth0.*interface is down.*ip link set dev veth0 up") as caught:
            make()
        assert caught.value.errno == 100
    assert what_runs(lab) is None


def test_queue_out_of_range(lab: Lab) -> None:
    for make in (
        lambda: toolkit.open("veth0", filter="all", queues=[0, 1], netns=lab.netns),
        lambda: toolkit.Socket("veth0", 1, netns=lab.netns),
    ):
        with pytest.raises(SystemCallError, match=r"queue 1 of veth0.*has 1 receive queue.*ethtool -L") as caught:
            make()
        assert caught.value.errno == 22
    with pytest.raises(ArgumentError, match="queue"):
        toolkit.Socket("veth0", -1, netns=lab.netns)
    with pytest.raises((ArgumentError, SystemCallError), match="queue"):
        toolkit.open("veth0", filter="all", queues=[-1], netns=lab.netns)
    assert what_runs(lab) is None


@pytest.mark.timing("the refusal is due in 5 s")
def test_queue_taken(make_lab: Callable[..., Lab]) -> None:
    """Also halfway through an open(): what was bound and attached before goes again."""
    lab = make_lab(queues=2)
    with toolkit.Socket("veth0", 1, netns=lab.netns):
        begin = time.monotonic()
        with pytest.raises(
            SystemCallError,
            match=r"queue 1 of veth0.*of this process.*close\(\) the Socket",
        ) as caught:
            toolkit.open("veth0", filter="all", netns=lab.netns)
        assert caught.value.errno == 16
        assert time.monotonic() - begin < 5
        assert what_runs(lab) is None
        with toolkit.Socket("veth0", 0, netns=lab.netns):
            pass


def test_a_program_without_room_for_the_queue(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=4)
    with (
        Program.build("xsk_redirect.c", map_entries={"xsks_map": 2}) as program,
        pytest.raises(ArgumentError, match=r"no room for queue 2.*map_entries"),
    ):
        toolkit.open("veth0", program=program, netns=lab.netns)
    assert what_runs(lab) is None


def test_a_foreign_program_is_named_and_left_alone(lab: Lab) -> None:
    with Program.build("xdp_pass.c") as foreign, foreign.attach("veth0", netns=lab.netns) as link:
        with pytest.raises(SystemCallError, match=rf"program {foreign.id} \(xdp_pass\).*close\(\) the") as caught:
            toolkit.open("veth0", filter="all", netns=lab.netns)
        assert caught.value.errno in (16, 17)
        assert f"program {foreign.id} " in str(what_runs(lab))
        assert not link.closed


def test_a_filter_that_libpcap_refuses(lab: Lab) -> None:
    with pytest.raises(FilterError, match="syntax error"):
        toolkit.open("veth0", filter="udp prot 53", netns=lab.netns)
    assert what_runs(lab) is None
    with pytest.raises(ArgumentError, match="filter="):
        toolkit.open("veth0", netns=lab.netns)


@pytest.mark.parametrize(
    "shape",
    [
        {"frame_size": 1024},
        {"frame_size": 3000},
        {"frame_size": 8192},
        {"frame_size": 0},
        {"frames": 0},
        {"frames": -1},
        {"frames": 3, "frame_size": 2048},
        {"frames": 1 << 25},
        {"headroom": 4000},
        {"headroom": -1},
        {"fill_size": 100},
        {"comp_size": 0},
        {"fill_size": -4},
    ],
)
def test_a_umem_that_the_kernel_would_refuse(shape: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match=r"cannot be|cannot have|refused|fit"):
        UMEM(**shape)


@pytest.mark.parametrize("size", [0, 3, 1000, -8, 1 << 21])
def test_a_ring_size_that_the_kernel_would_refuse(lab: Lab, size: int) -> None:
    with pytest.raises(ArgumentError, match="power of two"):
        toolkit.Socket("veth0", rx_size=size, netns=lab.netns)
    with pytest.raises(ArgumentError, match="power of two"):
        toolkit.open("veth0", filter="all", ring_size=size, netns=lab.netns)
    assert what_runs(lab) is None


def test_our_refusals_are_the_kernels(lab: Lab) -> None:
    """The kernel is asked itself: what UMEM refuses it refuses, what UMEM takes it takes."""
    for frame_size in (1024, 2048, 3000, 4096, 8192):
        with toolkit.Socket("veth0", netns=lab.netns):
            pass
        with socket.socket(44, socket.SOCK_RAW, 0) as raw:
            import ctypes
            import mmap

            memory = mmap.mmap(-1, 1 << 20)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            registration = struct.pack("=QQIIIx3x", address, 1 << 20, frame_size, 0, 0)
            try:
                raw.setsockopt(283, 4, registration)
                accepted = True
            except OSError:
                accepted = False
        assert accepted == (frame_size in (2048, 4096)), frame_size
