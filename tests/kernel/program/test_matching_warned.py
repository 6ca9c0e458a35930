# SPDX-License-Identifier: Apache-2.0
"""A filter that cannot mean what it says is warned of once a call, at the line of the user."""

from __future__ import annotations

import warnings

import pytest

import toolkit
from tests.helpers import filter_corpus as corpus
from toolkit.filter import FilterWarning
from toolkit.program import Program, forget

pytestmark = pytest.mark.skipif(
    corpus.libpcap_version() >= (1, 11), reason="libpcap 1.11 and later refuse `inbound` themselves"
)
PACKETS = [bytes(8), bytes(60), bytes(4000)]  # for the interpreter, for a program of one buffer, and of several


@pytest.mark.parametrize("expression", ["inbound", "udp and not outbound", "less 100 and inbound"])
def test_matches_warns_once(expression: str) -> None:
    """Though the expression is compiled for each kind of packet."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        toolkit.matches(expression, PACKETS)
    forget()
    mine = [one for one in seen if one.category is FilterWarning]
    assert len(mine) == 1, [str(one.message) for one in mine]
    assert mine[0].filename == __file__


def test_a_program_is_warned_of_where_it_is_built() -> None:
    """At the line of the user, though it is built in a thread of its own."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Program.build("xdp_drop.c", filter="inbound").close()
    assert [one.filename for one in seen if one.category is FilterWarning] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FilterWarning):
            Program.build("xdp_drop.c", filter="inbound")
