# SPDX-License-Identifier: Apache-2.0
"""The four rings of an AF_XDP socket, over memory shared with the kernel. Indices are free-running u32."""

from toolkit.rings.atomics import fence
from toolkit.rings.completionqueue import CompletionQueue
from toolkit.rings.fillqueue import FillQueue
from toolkit.rings.memory import RingMemory
from toolkit.rings.rxqueue import RXQueue
from toolkit.rings.txqueue import TXQueue

__all__ = ["CompletionQueue", "FillQueue", "RXQueue", "RingMemory", "TXQueue", "fence"]
