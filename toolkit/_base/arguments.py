# SPDX-License-Identifier: Apache-2.0
"""Check arguments: any kind of integer is an int, any kind of number are seconds; an ArgumentError names the others."""

from __future__ import annotations

import numbers
import operator
from typing import Any

from toolkit.errors import ArgumentError

__all__ = ["one_of", "seconds", "whole"]


def whole(name: str, value: Any) -> int:
    """Return `value`, an integer of any type, as an int. ArgumentError for anything else, and for a bool."""
    if isinstance(value, bool):
        raise ArgumentError(f"{name} is a whole number, not {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{name} is a whole number, not {value!r}") from None


def one_of(name: str, value: Any, *choices: Any) -> Any:
    """Return the one of `choices` (text, numbers, True and False) that `value` is; ArgumentError when it is none."""
    if isinstance(value, str | numbers.Number) or type(value).__name__ == "bool":  # NumPy's is no Number
        for choice in choices:
            if value == choice and isinstance(value, str) == isinstance(choice, str):
                return choice
    shown = [f'"{choice}"' if isinstance(choice, str) else repr(choice) for choice in choices]
    raise ArgumentError(f"{name} is {', '.join(shown[:-1])} or {shown[-1]}, not {value!r}")


def seconds(name: str, value: Any) -> float:
    """Return `value`, a number of any type, as a float. ArgumentError for anything else, and for NaN."""
    try:
        if not isinstance(value, str | bytes | bytearray):  # float() would parse them
            number = float(value)
            if number == number:  # no NaN, which is neither before a deadline nor after it
                return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ArgumentError(f"{name} is a number of seconds, not {value!r}")
