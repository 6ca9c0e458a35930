# SPDX-License-Identifier: Apache-2.0
"""Statistics: sums and differences of what the kernel counts, and what it comes to; the struct alone is abi's."""

from __future__ import annotations

import pickle
import struct

import toolkit
from toolkit.abi import if_xdp

RAW = struct.pack("=6Q", 1, 2, 3, 40, 5, 6)


def test_the_struct_is_read_and_has_no_policy() -> None:
    plain = if_xdp.parse_statistics(RAW)
    assert plain == (1, 2, 3, 40, 5, 6)
    assert if_xdp.parse_statistics(RAW[:24]) == (1, 2, 3, 0, 0, 0), "before Linux 5.9"
    assert not hasattr(plain, "dropped")
    assert not [name for name in vars(if_xdp) if hasattr(getattr(if_xdp, name), "_repr_html_")]


def test_sums_differences_and_what_was_dropped() -> None:
    one = toolkit.Statistics(*if_xdp.parse_statistics(RAW))
    assert one.dropped == 41
    assert (one + one) == (2, 4, 6, 80, 10, 12, None)
    assert (one + one - one) == one
    assert isinstance(one + one - one, toolkit.Statistics)
    assert isinstance(one._replace(rx_dropped=0), toolkit.Statistics)
    assert pickle.loads(pickle.dumps(one)).dropped == 41
    assert repr(one).startswith("Statistics(rx_dropped=1,")


def test_what_the_nic_missed_is_unknown_until_somebody_counts_it() -> None:
    one = toolkit.Statistics(*if_xdp.parse_statistics(RAW))
    known = one._replace(missed=7)
    assert (one.missed, known.dropped) == (None, one.dropped), "no part of what was redirected and dropped"
    assert [(one + known).missed, (known + known).missed] == [7, 14]
    assert [(known - one).missed, (known - known).missed, (one - known).missed] == [7, 0, None]
    assert "not known" in one._repr_html_()


def test_a_notebook_shows_them_with_what_they_come_to() -> None:
    html = toolkit.Statistics(1000, 0, 0, 500, 0, 0)._repr_html_()
    for cell in ("rx_ring_full", "dropped", "1,000", "1,500"):
        assert cell in html
