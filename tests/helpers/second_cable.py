# SPDX-License-Identifier: Apache-2.0
"""A second cable out of a Lab's near host: for what forwards, and for what must not touch the other interface."""

from __future__ import annotations

from toolkit.lab import Namespace
from toolkit.lab.veth import End, connect


def second_cable(
    near: Namespace,
    far: Namespace,
    names: tuple[str, str] = ("veth2", "veth3"),
    *,
    bridged: bool = True,
    mtu: int = 1500,
    neighbours: bool = False,
    offloads: bool = False,
) -> None:
    """Connect two namespaces: 10.12.0.1 near, 10.12.0.3 far; bridged: 10.11.0.3, of the network of the first cable."""
    net = 11 if bridged else 12
    connect(
        End(near, names[0], "02:00:00:00:00:03", "10.12.0.1", "fd12::1"),
        End(far, names[1], "02:00:00:00:00:04", f"10.{net}.0.3", f"fd{net}::3"),
        queues=1,
        mtu=mtu,
        neighbours=neighbours,
        offloads=offloads,
    )
