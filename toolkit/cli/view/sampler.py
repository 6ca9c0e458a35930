# SPDX-License-Identifier: Apache-2.0
"""Which protocols and flows the traffic consists of, estimated from some of the Batches, so that a flood is not slowed
down: at low rates all of them, in a flood one every few milliseconds, which stands for those before it.
"""

from __future__ import annotations

import time
from collections import Counter, deque

import numpy as np

from toolkit.batch.batch import Batch

__all__ = ["Sampler"]

_LARGE = 32  # packets: a Batch from here on may stand for those that were passed over
_SHARE = 10  # a look of 1 ms is followed by 10 ms without one
_FORGET = 0.2  # seconds after which packets that were passed over are forgotten, if no large Batch comes
_FLOWS_KEPT = 4096
_LINES_KEPT = 6


class Sampler:
    """Estimates of packets per protocol and flow, and a few packets in words."""

    def __init__(self) -> None:
        self.protocols: Counter[str] = Counter()  # estimated packets
        self.flows: Counter[str] = Counter()  # estimated packets
        self.lines: deque[str] = deque(maxlen=_LINES_KEPT)  # the last packets that were looked at
        self.decoded = 0  # packets that were really decoded
        self._undecoded = 0  # packets since the last decoded Batch: it stands for them too
        self._next = 0.0  # monotonic seconds

    def add(self, batch: Batch) -> None:
        """Look at a Batch, or let it pass: a tenth of the time at most goes into looking."""
        if not batch:
            return
        began = time.monotonic()
        # A handful of packets must not stand for the thousands that were passed over before it.
        unfit = len(batch) < _LARGE and self._undecoded and began < self._next + _FORGET
        if began < self._next or unfit:
            self._undecoded += len(batch)
            return
        weight = 1 + self._undecoded / len(batch) if len(batch) >= _LARGE else 1.0
        self._undecoded = 0
        self.decoded += len(batch)
        self._decode(batch, weight)
        self._next = began + _SHARE * (time.monotonic() - began)

    def _decode(self, batch: Batch, weight: float) -> None:
        from toolkit.decode import top
        from toolkit.decode.text import ethertype_name, flow, protocol_name, summary

        columns = batch.decode()
        for number, packets in zip(*np.unique(columns["ip_proto"], return_counts=True), strict=True):
            if number >= 0:
                self.protocols[protocol_name(int(number))] += round(packets * weight)
        rest = columns["ethertype"][columns["ip_proto"] < 0]
        for number, packets in zip(*np.unique(rest, return_counts=True), strict=True):
            self.protocols[ethertype_name(int(number))] += round(packets * weight)
        groups = top(columns, count=16)
        for key, packets, _ in groups.rows():
            self.flows[flow(key)] += round(packets * weight)
        if len(self.flows) > _FLOWS_KEPT:
            self.flows = Counter(dict(self.flows.most_common(_FLOWS_KEPT // 2)))
        for row in range(min(len(batch), 2 if len(batch) >= _LARGE else _LINES_KEPT)):
            self.lines.append(summary(columns, row))
