# SPDX-License-Identifier: Apache-2.0
"""A real network without a NIC: anonymous namespaces, a veth pair, and traffic on it.

    with Lab(queues=2) as lab:
        with toolkit.open(lab.interface, netns=lab.netns, filter="icmp or icmp6") as near:
            lab.ping(count=3)

Nothing is named in /run/netns and nothing outlives the process, however it ends. Needs root (CAP_SYS_ADMIN and
CAP_NET_ADMIN).
"""

from __future__ import annotations

from toolkit.lab.lab import Lab
from toolkit.lab.namespace import Namespace

__all__ = ["Lab", "Namespace"]
