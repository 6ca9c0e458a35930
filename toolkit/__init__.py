# SPDX-License-Identifier: Apache-2.0
"""AF_XDP for Python: packets from the network driver into NumPy arrays and back.

import toolkit

with toolkit.open("eth0", filter="udp port 9") as eth0:  # takes them: this host does not get what matches
    while batch := eth0.receive(timeout=1.0):
        print(len(batch), batch.lengths.sum(), batch.timestamps[0])
"""

from toolkit.abi.if_xdp import XDPDesc
from toolkit.batch import Batch
from toolkit.capture.reading import read
from toolkit.errors import ToolkitError
from toolkit.interface import Interface
from toolkit.matching import matches
from toolkit.opening import open
from toolkit.program import Link, Program, Rule
from toolkit.replaying import replay
from toolkit.tee_interface import Tee
from toolkit.teeing import tee
from toolkit.umem import UMEM
from toolkit.xsk import Socket

__all__ = [
    "UMEM",
    "Batch",
    "Interface",
    "Link",
    "Program",
    "Rule",
    "Socket",
    "Tee",
    "ToolkitError",
    "XDPDesc",
    "matches",
    "open",
    "read",
    "replay",
    "tee",
]
