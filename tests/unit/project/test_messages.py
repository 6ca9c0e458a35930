# SPDX-License-Identifier: Apache-2.0
"""Error messages: what failed, the likely cause, the next step, in that order; in the field's words."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import toolkit
from toolkit.errors import _CAUSES, _PRIVILEGES, ToolkitError, kernel_error
from toolkit.lab import Lab
from toolkit.program import Rule
from toolkit.program.link import attach

PACKAGE = Path(toolkit.__file__).parent
OLD = re.compile(r"\b(lent|lend|loans?|custody|patience|twins|fate|so many|in words)\b")
CAUSE, STEP = "Likely cause: ", "Next step: "


def raised() -> Iterator[tuple[str, str]]:
    """(where, text) of what is raised anywhere: the constant parts of every argument, in order."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                for argument in node.exc.args:
                    parts = [one.value for one in ast.walk(argument) if isinstance(one, ast.Constant)]
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(p for p in parts if isinstance(p, str))


def test_the_order_and_the_words() -> None:
    """Of every message that is written where it is raised."""
    found = []
    for where, text in raised():
        if OLD.search(text):
            found.append(f"{where}: old word: {text}")
        if CAUSE in text and STEP in text and text.index(CAUSE) > text.index(STEP):
            found.append(f"{where}: the next step before its cause: {text}")
        if text.count(STEP) > 1 or text.count(CAUSE) > 1:
            found.append(f"{where}: twice: {text}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("call", "number"), [*_CAUSES, *((call, 1) for call in _PRIVILEGES)])
def test_what_the_kernel_refuses(call: str, number: int) -> None:
    """Each line of the tables makes a whole sentence with both, and no old word in it."""
    text = str(kernel_error(call, number, "cannot do it on veth0"))
    assert re.fullmatch(r"\[Errno \d+\] cannot do it on veth0: .+ \(E\w+\)\. Likely cause: .+\. Next step: .+\.", text)
    assert not OLD.search(text)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Rule("udp", snaplen=3), "snaplen"),
    (lambda: Rule("udp", action="count", snaplen=64), "redirected"),
    (lambda: Rule("udp", action="burn"), "burn"),  # type: ignore[arg-type]
    (lambda: toolkit.matches("", [bytes(60)]), "filter is empty"),
    (lambda: toolkit.matches("udp\0", [bytes(60)]), "zero byte"),
    (lambda: toolkit.matches("udp", "text"), "packets cannot be"),
    (lambda: toolkit.matches("udp", ["text"]), "packet 0"),
    (lambda: toolkit.matches("udp", np.zeros(3)), "float64"),
    (lambda: toolkit.matches("udp", [bytes(70_000)]), "70000 bytes"),
    (lambda: toolkit.Capture(None, "x.pcap", rotate_files=3), "number of files"),
    (lambda: toolkit.Capture(None, "x.parquet", snaplen=64), "snaplen"),
    (lambda: toolkit.Capture(object(), "x.pcap"), "Interface or a Tee"),  # type: ignore[arg-type]
    (lambda: toolkit.open("veth0", filter="udp", netns="nowhere"), "nowhere"),
    (lambda: attach(0, "program", "no-such-device", "auto", False, None), "no-such-device"),
    (lambda: Lab(mtu=1), "MTU"),
]


@pytest.mark.parametrize(("call", "about"), BAD)
def test_bad_arguments_are_refused_in_a_sentence(call: Callable[[], object], about: str) -> None:
    """It names what is wrong, and either what is right or the next step."""
    with pytest.raises(ToolkitError) as refused:
        call()
    text = str(refused.value)
    assert about in text
    assert STEP in text or re.search(r"\b(is|are|has|takes) .*\bnot\b", text), text
    assert not OLD.search(text)
