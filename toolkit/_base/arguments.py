# SPDX-License-Identifier: Apache-2.0
"""Arguments as people give them: NumPy's integers are integers, and what is none is refused in words."""

from __future__ import annotations

import operator
from typing import Any

from toolkit.errors import ArgumentError

__all__ = ["seconds", "whole"]


def whole(name: str, value: Any) -> int:
    """Return `value` as an int, whatever kind of integer it is; ArgumentError when it is none (or a bool)."""
    if isinstance(value, bool):
        raise ArgumentError(f"{name} is a whole number, not {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is a whole number, not {value!r}") from None


def seconds(name: str, value: Any) -> float:
    """Return `value` as a float, whatever kind of number it is; ArgumentError when it is none."""
    try:
        if not isinstance(value, str | bytes | bytearray):  # float() would read them
            number = float(value)
            if number == number:  # no NaN, which is neither before a deadline nor after it
                return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ArgumentError(f"{name} is a number of seconds, not {value!r}")
