# SPDX-License-Identifier: Apache-2.0
"""AF_XDP for Python: packets from the network driver into NumPy arrays and back.

import toolkit

with toolkit.open("eth0", filter="udp port 9") as eth0:  # takes them: this host does not get what matches
    while batch := eth0.receive(timeout=1.0):
        print(len(batch), batch.lengths.sum(), batch.timestamps[0])

What receiving needs is imported at once, other names at first use. A package of `toolkit` is public through its
own `__all__`; the modules inside of it are private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily
from toolkit.abi.if_xdp import XDPDesc
from toolkit.batch.batch import Batch
from toolkit.errors import ToolkitError
from toolkit.interface.interface import Interface
from toolkit.interface.open_interface import open
from toolkit.program.link import Link
from toolkit.program.program import Program
from toolkit.program.rules import Rule, RuleCounters
from toolkit.umem.umem import UMEM
from toolkit.xsk.socket import Socket
from toolkit.xsk.statistics import Statistics

if TYPE_CHECKING:
    from toolkit import capture as capture
    from toolkit import decode as decode
    from toolkit import doctor as doctor
    from toolkit import errors as errors
    from toolkit import filter as filter
    from toolkit import flows as flows
    from toolkit import forward as forward
    from toolkit import lab as lab
    from toolkit import net as net
    from toolkit import packets as packets
    from toolkit import program as program
    from toolkit import recorded as recorded
    from toolkit import rings as rings
    from toolkit import workers as workers
    from toolkit._base.version import __version__
    from toolkit.batch.editable import EditableBatch
    from toolkit.capture.capture import Capture
    from toolkit.capture.statistics import CaptureStatistics
    from toolkit.decode.columns import Columns
    from toolkit.flows.flows import Flow, Flows
    from toolkit.forward.answers import Answers
    from toolkit.forward.forwarder import Forwarder
    from toolkit.forward.responder import Responder
    from toolkit.interface.open_tee import tee
    from toolkit.interface.tee import Tee
    from toolkit.packets.template import Template
    from toolkit.program.matching import matches
    from toolkit.recorded.recorded import Recorded, read
    from toolkit.recorded.replay import Replayed, replay
    from toolkit.workers.pool import Workers

__all__ = [
    "UMEM",
    "Answers",
    "Batch",
    "Capture",
    "CaptureStatistics",
    "Columns",
    "EditableBatch",
    "Flow",
    "Flows",
    "Forwarder",
    "Interface",
    "Link",
    "Program",
    "Recorded",
    "Replayed",
    "Responder",
    "Rule",
    "RuleCounters",
    "Socket",
    "Statistics",
    "Tee",
    "Template",
    "ToolkitError",
    "Workers",
    "XDPDesc",
    "__version__",
    "capture",
    "decode",
    "doctor",
    "errors",
    "filter",
    "flows",
    "forward",
    "lab",
    "matches",
    "net",
    "open",
    "packets",
    "program",
    "read",
    "recorded",
    "replay",
    "rings",
    "tee",
    "workers",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "_base.version": "__version__",
        "batch.editable": "EditableBatch",
        "capture.capture": "Capture CaptureStatistics",
        "decode.columns": "Columns",
        "flows.flows": "Flow Flows",
        "forward.answers": "Answers",
        "forward.forwarder": "Forwarder",
        "forward.responder": "Responder",
        "interface.open_tee": "tee",
        "interface.tee": "Tee",
        "packets.template": "Template",
        "program.matching": "matches",
        "recorded.recorded": "Recorded read",
        "recorded.replay": "Replayed replay",
        "workers.pool": "Workers",
    }
    | {
        name: name
        for name in __all__
        if name.islower() and name not in ("matches", "open", "read", "replay", "tee", "__version__")
    },
)
