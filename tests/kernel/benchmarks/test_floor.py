# SPDX-License-Identifier: Apache-2.0
"""The floor in C: it takes what waits in the rings, leaves them as they were, and says what it lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toolkit
from benchmarks.floor import Floor, MissingFloorError
from toolkit.lab import Lab

PACKETS = 600


@pytest.mark.parametrize("read", [False, True])
def test_it_takes_each_packet_once_and_leaves_all_of_them(lab: Lab, read: bool) -> None:
    floor = Floor()
    with toolkit.open(lab.interface, netns=lab.netns, filter="udp", ring_size=1024) as interface:
        for _ in range(3):  # around the rings
            with lab.generator(count=PACKETS) as generator:
                generator.wait(10)
            packets, seconds = floor.receive(interface, 64, PACKETS, read=read)
            assert packets == PACKETS
            assert seconds > 0
            heads, lengths = [], []
            while batch := interface.receive(timeout=0):
                heads.append(batch.head(64))
                lengths.append(batch.lengths)
            received = np.concatenate(heads)
            assert len(received) == PACKETS, "as if nobody had taken them"
            if read:
                last = PACKETS % 64
                assert np.array_equal(floor._heads[:last], received[-last:])
                assert np.array_equal(floor._lengths[:last], np.concatenate(lengths)[-last:])
            assert floor.receive(interface, 64, PACKETS, read=read)[0] == 0


def test_what_it_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingFloorError, match="no C compiler"):
        Floor()
    (tmp_path / "cc").write_text("#!/bin/sh\necho 'floor.c:10: fatal error: xdp/xsk.h: No such file' >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    with pytest.raises(MissingFloorError, match="libxdp-dev"):
        Floor()
