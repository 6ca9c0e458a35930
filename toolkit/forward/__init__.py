# SPDX-License-Identifier: Apache-2.0
"""Forward packets to another interface (Forwarder, ready edits), or answer them (Responder)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily

if TYPE_CHECKING:
    from toolkit.forward.answers import Answers
    from toolkit.forward.edits import decrement_ttl, pop_vlan, push_vlan, set_macs, swap_ips_and_ports, swap_macs
    from toolkit.forward.forwarder import Edit, Forwarder, ForwarderStatistics
    from toolkit.forward.responder import Responder

__all__ = [
    "Answers",
    "Edit",
    "Forwarder",
    "ForwarderStatistics",
    "Responder",
    "decrement_ttl",
    "pop_vlan",
    "push_vlan",
    "set_macs",
    "swap_ips_and_ports",
    "swap_macs",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "forwarder": "Edit Forwarder ForwarderStatistics",
        "responder": "Responder",
        "answers": "Answers",
        "edits": "decrement_ttl pop_vlan push_vlan set_macs swap_ips_and_ports swap_macs",
    },
)
