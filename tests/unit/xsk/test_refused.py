# SPDX-License-Identifier: Apache-2.0
"""Where the MTU is why zero-copy was refused, the error says so, with what helps; else it stays as it was."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from toolkit.errors import SystemCallError, kernel_error
from toolkit.net import netdev
from toolkit.net.device import Device
from toolkit.umem.umem import zero_copy_mtu
from toolkit.xsk.refused import with_mtu

HAS_IT = netdev.NETDEV_XDP_ACT_BASIC | netdev.NETDEV_XDP_ACT_XSK_ZEROCOPY


def told(mtu: int, *, buffers: int = 1, features: int = HAS_IT, number: int = errno.EINVAL, **shape: int) -> str:
    """The text for an interface of this MTU; "" where the error stays as it was."""
    before = kernel_error("bind", number, "cannot bind to queue 0 of eth0", interface="eth0")
    device = Device("eth0", 7, True, True, mtu, bytes(6), 1, "igb", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netdev, "abilities", lambda ifindex: netdev.Abilities(features, buffers))
        options: dict[str, Any] = {"frame_size": 4096, "headroom": 0, "sg": True, **shape}
        after = with_mtu(before, device, "cannot bind zero-copy to queue 0 of eth0", **options)
    assert isinstance(after, SystemCallError)
    assert after.errno == number
    return "" if after is before else str(after)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_packet_that_fits_no_frame(number: int) -> None:
    text = told(9000, number=number)
    assert "eth0 has an MTU of 9000" in text
    assert "do not fit a frame of 4096 bytes" in text
    assert "`zero_copy=False`; or a smaller MTU: `ip link set dev eth0 mtu 3814`." in text
    assert "queue" not in text.split("Likely cause")[1], "it is not that the queue is not there"


def test_larger_frames_are_proposed_where_they_help() -> None:
    assert "Next step: frames of 4096 bytes; or copy mode" in told(3000, frame_size=2048)
    assert "frames of 4096 bytes; or" not in told(9000, frame_size=2048)


def test_otherwise_the_error_stays() -> None:
    assert not told(1500)
    assert not told(3814)
    assert told(3815)
    assert not told(9000, buffers=5), "the driver chains frames"
    assert told(9000, buffers=5, sg=False), "but nobody wants packets of several"
    assert not told(9000, features=netdev.NETDEV_XDP_ACT_BASIC), "this driver has no zero-copy at all"
    assert not told(9000, number=errno.EBUSY)


@pytest.mark.parametrize(
    ("frame_size", "headroom", "buffers", "most"),
    [(4096, 0, 1, 3814), (2048, 0, 1, 1766), (4096, 256, 1, 3558), (4096, 0, 5, 5 * 3456 - 26)],
)
def test_the_limit_is_the_kernels(frame_size: int, headroom: int, buffers: int, most: int) -> None:
    """net/xdp/xsk_buff_pool.c of Linux 7.1: room in steps of 128 bytes, MTU and 26 bytes around it."""
    assert zero_copy_mtu(frame_size, headroom, buffers=buffers) == most
