# SPDX-License-Identifier: Apache-2.0
"""Check arguments: any kind of integer is an int, any kind of number are seconds; an ArgumentError names the others."""

from __future__ import annotations

import contextlib
import numbers
import operator
from typing import Any

from toolkit.errors import ArgumentError

__all__ = ["cannot_be", "one_of", "seconds", "whole"]

_SHOWN = 80  # characters of a value, at most


def cannot_be(name: str, value: Any, give: str) -> ArgumentError:
    """Return the error for an argument of a wrong value. `give` says what is allowed, as in "a number from 1 on".

    Of an array its shape and dtype are shown, in place of its items; a number of NumPy is shown as Python's.
    """
    if hasattr(value, "dtype") and value.shape:
        shown = f"an array of shape {value.shape} and dtype {value.dtype}"
    elif len(shown := repr(value.item() if hasattr(value, "dtype") else value)) > _SHOWN:
        shown = f"{shown[:_SHOWN]} ..."
    return ArgumentError(f"{name} cannot be {shown}. Next step: give {give}.")


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return `value`, an integer of any type from `least` to `most`, as an int.

    ArgumentError for anything else, and for a bool.
    """
    number: int | None = None
    if type(value) is int:  # without the fixed costs below, which would show in receive(limit=1)
        number = value
    elif not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            number = operator.index(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        bounds = "" if least is None else f" from {least:,} on" if most is None else f" from {least:,} to {most:,}"
        raise cannot_be(name, value, f"a whole number{bounds}")
    return number


def one_of(name: str, value: Any, *choices: Any) -> Any:
    """Return the one of `choices` (text, numbers, True and False) that `value` is; ArgumentError when it is none."""
    if isinstance(value, str | numbers.Number) or type(value).__name__ == "bool":  # NumPy's is no Number
        for choice in choices:
            if value == choice and isinstance(value, str) == isinstance(choice, str):
                return choice
    shown = [f'"{choice}"' if isinstance(choice, str) else repr(choice) for choice in choices]
    raise cannot_be(name, value, f"{', '.join(shown[:-1])} or {shown[-1]}")


def seconds(name: str, value: Any, least: float | None = None) -> float:
    """Return `value`, a number of any type from `least` on, as a float. ArgumentError for anything else, and NaN."""
    try:
        if not isinstance(value, str | bytes | bytearray):  # float() would parse them
            number = float(value)
            # No NaN, which is neither before a deadline nor after it.
            if number == number and (least is None or number >= least):
                return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise cannot_be(name, value, "a number of seconds" + ("" if least is None else f" from {least:g} on"))
