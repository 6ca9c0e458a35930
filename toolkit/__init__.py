# SPDX-License-Identifier: Apache-2.0
"""AF_XDP for Python: packets from the network driver into NumPy arrays and back.

import toolkit

with toolkit.open("eth0", filter="udp port 9") as eth0:  # takes them: this host does not get what matches
    while batch := eth0.receive(timeout=1.0):
        print(len(batch), batch.lengths.sum(), batch.timestamps[0])
"""

from toolkit.abi.if_xdp import XDPDesc
from toolkit.batch.batch import Batch
from toolkit.errors import ToolkitError
from toolkit.interface.interface import Interface
from toolkit.interface.open_interface import open
from toolkit.interface.open_tee import tee
from toolkit.interface.tee import Tee
from toolkit.program import Link, Program, Rule
from toolkit.program.matching import matches
from toolkit.recorded.recorded import read
from toolkit.recorded.replay import replay
from toolkit.umem.umem import UMEM
from toolkit.xsk.socket import Socket

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
