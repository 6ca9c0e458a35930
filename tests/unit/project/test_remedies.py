# SPDX-License-Identifier: Apache-2.0
"""A next step can be typed as it stands: commands in messages name the interface at hand, not NAME."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator

import pytest

from tests.helpers import ROOT
from toolkit import errors
from toolkit.errors import kernel_error

# What only the user knows stays a word: the other end of a cable, the sender of packets, a filter, a topic of xsk help.
OPEN = {"PEER", "SENDER", "GATEWAY", "ADDRESS", "EXPRESSION", "MAC", "N", "COMMAND", "TOPIC"}
COMMAND = re.compile(r"`[a-z][^`]*`")
PLACEHOLDER = re.compile(r"(?<![\w.=\"'-])[A-Z]{2,}(?![\w=(])")


@pytest.mark.parametrize(("call", "number"), list(errors._CAUSES), ids=lambda value: str(value) or "any")
def test_no_remedy_of_the_table_has_a_word_to_be_replaced(call: str, number: int) -> None:
    for interface in ("eth7", ""):
        text = str(kernel_error(call, number, "cannot do it", interface=interface))
        assert "NAME" not in text
        assert "{" not in text
        assert not re.search(r"[:,;] ?\.|  |: $", text), text


def test_a_command_with_the_interface_is_whole_or_left_out() -> None:
    down = [str(kernel_error("", errno.ENETDOWN, "cannot", interface=name)) for name in ("eth7", "")]
    assert down[0].endswith("Next step: bring it up: `ip link set dev eth7 up`.")
    assert down[1].endswith("Next step: bring it up.")


def strings() -> Iterator[tuple[str, str]]:
    """Each text of the package that somebody may see: not docstrings, nor what is shown as help."""
    for path in sorted((ROOT / "toolkit").rglob("*.py")):
        if path.name == "topics.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        help_of = {id(word.value) for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
        plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else "x" for one in node.values]
                yield str(path.relative_to(ROOT)), "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in plain | help_of:
                yield str(path.relative_to(ROOT)), node.value


def test_no_command_in_a_message_has_a_placeholder_for_what_is_known() -> None:
    found = {
        (where, command)
        for where, text in strings()
        for command in COMMAND.findall(text)
        if set(PLACEHOLDER.findall(command)) - OPEN
    }
    assert not found
