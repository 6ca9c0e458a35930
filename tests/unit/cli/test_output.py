# SPDX-License-Identifier: Apache-2.0
"""How numbers look: three digits, of the unit that says them, at every border between two units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.cli.view import output

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
    assert figure(value) == text  # type: ignore[operator]


@given(st.floats(0.01, 1e17))
def test_no_figure_is_further_off_than_its_digits(value: float) -> None:
    for figure, unit in ((output.count, ""), (output.bits, "bit/s"), (output.octets, "B")):
        text = figure(value)
        assert "e" not in text.removesuffix(unit), text
        assert math.isclose(value_of(text, unit), value, rel_tol=0.0051, abs_tol=0.51), (value, text)
