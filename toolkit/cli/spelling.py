# SPDX-License-Identifier: Apache-2.0
"""How the command spells what a message of the toolkit names as Python has it: `replace=True` is `--replace` here.

Messages are written for Python, whatever shows them (see toolkit.errors); everything that the command prints of an
exception, a warning, a finding or a log record goes through spelled() first.
"""

from __future__ import annotations

import re

from toolkit.errors import ToolkitError

__all__ = ["ARGUMENTS", "message_of", "spelled"]

# What stands in backquotes in a message -> what to type. A name with three dots serves every value that has no line of
# its own, which is put behind it.
ARGUMENTS = {
    "compress=...": "--compress",
    'filter="all"': "all",
    "eth_dst=...": "--eth-dst",
    "force=True": "--overwrite",
    'mode="auto"': "neither --native nor --generic",
    'mode="generic"': "--generic",
    'mode="native"': "--native",
    "netns=...": "--netns",
    "promisc=True": "--promisc",
    "Queueing(limit=...)": "--buffer",
    'replace="link"': "--replace-link",
    "replace=True": "--replace",
    "queues=...": "--queue",
    "replace=...": "--replace",
    "ring_size=...": "--ring-size",
    "rotate_bytes=...": "-C",
    "rotate_files=...": "-W",
    "rotate_seconds=...": "-G",
    "sample=...": "--sample",
    "snaplen=...": "-s",
    'wait="busy-poll"': "--busy-poll",
    'wait="poll"': "--poll",
    'wait="spin"': "--spin",
    'zero_copy="auto"': "neither --zero-copy nor --copy",
    "zero_copy=False": "--copy",
    "zero_copy=True": "--zero-copy",
}
_QUOTED = re.compile(r"`((?:\w+\()?\w+=)([^`]*)`")


def spelled(text: str) -> str:
    """Put the command's spelling in the place of each argument of Python that `text` names in backquotes."""
    return _QUOTED.sub(_option, text)


def _option(found: re.Match[str]) -> str:
    argument = found[1] + found[2]
    if argument in ARGUMENTS:
        return f"`{ARGUMENTS[argument]}`"
    option = ARGUMENTS.get(f"{found[1]}...")
    return found[0] if option is None else f"`{option} {found[2]}`"


def message_of(error: ToolkitError) -> str:
    """Return the text of an exception as the command prints it: without the number that Python puts in front."""
    return spelled(error.strerror if isinstance(error, OSError) and error.strerror else str(error))
