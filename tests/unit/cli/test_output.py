# SPDX-License-Identifier: Apache-2.0
"""How numbers look: three digits, of the unit that says them, at every border between two units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.cli.view import output
from toolkit.xsk.statistics import Statistics

UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def value_of(text: str, unit: str) -> float:
    """What a figure says."""
    figure, _, name = text.removesuffix(unit).strip().partition(" ")
    return float(figure.replace(",", "")) * UNITS[name]


@pytest.mark.parametrize(
    ("figure", "value", "text"),
    [
        (output.count, 950, "950"),
        (output.count, 9_999, "9,999"),
        (output.count, 9_999.7, "10 k"),
        (output.count, 12_340, "12.3 k"),
        (output.count, 999_499, "999 k"),
        (output.count, 999_500, "1 M"),
        (output.count, 999_999_999, "1 G"),
        (output.count, 4.5e12, "4.5 T"),
        (output.bits, 0, "0 bit/s"),
        (output.bits, 999.6, "1 kbit/s"),
        (output.bits, 999_950_000, "1 Gbit/s"),
        (output.bits, 106e6, "106 Mbit/s"),
        (output.bits, 1.6e12, "1.6 Tbit/s"),
        (output.octets, 9_999, "9,999 B"),
        (output.octets, 999_960, "1 MB"),
        (output.octets, 999_600_000, "1 GB"),
        (output.octets, 3e15, "3,000 TB"),
    ],
)
def test_figures(figure: object, value: float, text: str) -> None:
    assert figure(value) == text


@given(st.floats(0.01, 1e17))
def test_no_figure_is_further_off_than_its_digits(value: float) -> None:
    for figure, unit in ((output.count, ""), (output.bits, "bit/s"), (output.octets, "B")):
        text = figure(value)
        assert "e" not in text.removesuffix(unit), text
        assert math.isclose(value_of(text, unit), value, rel_tol=0.0051, abs_tol=0.51), (value, text)


def test_an_account_has_no_part_that_is_zero() -> None:
    assert output.equation("redirected", 9_000, {"received": 8_000, "dropped": 1_000}) == (
        "redirected 9,000 = received 8,000 + dropped 1,000"
    )
    assert output.equation("redirected", 9, {"received": 9, "dropped": 0}) == "redirected 9 = received 9"
    assert output.equation("redirected", 0, {"received": 0, "dropped": 0}) == "redirected 0"


def test_of_the_kernels_counters_those_that_count() -> None:
    none = Statistics(0, 0, 0, 0, 0, 0)
    assert output.kernel_counters(none, sending=True) == []
    assert output.reasons(none) == ""
    some = none._replace(rx_ring_full=1_234, tx_ring_empty_descs=7)
    title, line = output.kernel_counters(some)
    assert title == "counted by the kernel:"
    assert line.split() == ["1,234", *output.DROP_REASONS["rx_ring_full"].split(), "rx_ring_full"]
    assert [line.split()[-1] for line in output.kernel_counters(some, sending=True)[1:]] == [
        "rx_ring_full",
        "tx_ring_empty_descs",
    ]
