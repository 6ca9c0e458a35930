# SPDX-License-Identifier: Apache-2.0
"""Error messages: what failed, the likely cause, the next step, in that order; in the field's words."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import toolkit
from toolkit._base.arguments import cannot_be
from toolkit.errors import _CAUSES, _PRIVILEGES, ToolkitError, kernel_error
from toolkit.lab import Lab
from toolkit.program import Rule
from toolkit.program.link import attach

PACKAGE = Path(toolkit.__file__).parent
OLD = re.compile(r"\b(lent|lend|loans?|custody|patience|twins|fate|so many|in words)\b")
CAUSE, STEP = "Likely cause: ", "Next step: "


# What is raised with a text that is made elsewhere, by its first argument, and where the next step comes from.
MADE_ELSEWHERE = {
    "_base/closing.py": {"stuck(self._subject)": "stuck()"},
    "_base/uninterrupted.py": {"stuck": "the caller's text"},
    "capture/handler.py": {"write_error(refused, self.name)": "write_error()", "failure.why": "write_error()"},
    "capture/table_writer.py": {"why": "write_error()", "write_error(refused, self._name)": "write_error()"},
    "filter/expression.py": {"explain(expression, message, _messages)": "explain()"},
    "program/build.py": {"text": "compiler_error.next_step()"},
    "program/load.py": {"errno.E2BIG": "verifier_error.LIMITS"},
    "program/verifier_error.py": {"number": "LIMITS or _UNKNOWN"},
    "rings/memory.py": {"closing.stuck('a ring')": "stuck()"},
    "tables/arrow.py": {"missing": "the line above"},
    "tables/data_frame.py": {"missing": "the line above"},
    "umem/ledger.py": {"f": "_why(), _FOREIGN, RING_LIES"},
    "wait/waiter.py": {"sock.gone": "kernel_error()"},
    "workers/errors.py": {"f": "the exception whose cause this is"},
    "xsk/wakeup.py": {"number": "kernel_error()"},
}
# What ends a command, and is no class of ours.
_OF_CLICK = {"UsageError", "BadParameter", "fail"}


def classes() -> set[str]:
    """The names of every exception of the toolkit's own, those of private modules too."""
    found: set[str] = set()
    waiting: list[type] = [ToolkitError]
    while waiting:
        one = waiting.pop()
        found.add(one.__name__)
        waiting += one.__subclasses__()
    return found | _OF_CLICK


def text_of(node: ast.AST, module: ModuleType) -> str:
    """The constant parts of an expression, in order; a name of a text that the module has is that text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.Name):
        text = getattr(module, node.id, None)
        return text if isinstance(text, str) else ""
    return "".join(text_of(child, module) for child in ast.iter_child_nodes(node))


def made() -> Iterator[tuple[str, str, str]]:
    """(file, where, text) of each exception of ours that is made anywhere, but for those of MADE_ELSEWHERE."""
    for path in MODULES:
        file = str(path.relative_to(PACKAGE))
        module = importlib.import_module(".".join(["toolkit", *path.relative_to(PACKAGE).with_suffix("").parts]))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            if name not in CLASSES:
                continue
            first = "f" if isinstance(node.args[0], ast.JoinedStr) else ast.unparse(node.args[0])
            text = "".join(text_of(argument, module) for argument in node.args)
            if STEP in text or first not in MADE_ELSEWHERE.get(file, {}):
                yield file, f"{file}:{node.lineno}: {name}", text


MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]
for _path in MODULES:  # so that every class is known
    importlib.import_module(".".join(["toolkit", *_path.relative_to(PACKAGE).with_suffix("").parts]))
CLASSES = classes()
MADE = list(made())


def test_every_message_has_a_next_step_after_its_cause() -> None:
    """Of every exception that is made with a text, the command's own too; kernel_error() and cannot_be() add theirs."""
    assert len(MADE) > 150, "the test has lost what it is about"
    found = []
    for _file, where, text in MADE:
        if OLD.search(text):
            found.append(f"{where}: old word: {text}")
        if STEP not in text:
            found.append(f"{where}: no next step: {text}")
        elif CAUSE in text and text.index(CAUSE) > text.index(STEP):
            found.append(f"{where}: the next step before its cause: {text}")
        if text.count(STEP) > 1 or text.count(CAUSE) > 1:
            found.append(f"{where}: twice: {text}")
    assert not found, "\n".join(found)


def test_nothing_is_excused_that_is_not_there() -> None:
    for file, firsts in MADE_ELSEWHERE.items():
        source = ast.unparse(ast.parse((PACKAGE / file).read_text()))
        for first in firsts:
            assert re.search(rf"Error\({re.escape(first)}", source), f"{file} has no Error({first} any more"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3, "3"),
        ("x", "'x'"),
        (np.zeros((2, 3), np.uint8), "an array of shape (2, 3) and dtype uint8"),
        (np.float32(1.5), "1.5"),
        (b"x" * 1000, f"b'{'x' * 78} ..."),
    ],
)
def test_an_argument_is_named_with_its_value_and_what_is_allowed(value: object, shown: str) -> None:
    assert str(cannot_be("limit", value, "a number")) == f"limit cannot be {shown}. Next step: give a number."


@pytest.mark.parametrize(("call", "number"), [*_CAUSES, *((call, 1) for call in _PRIVILEGES)])
def test_what_the_kernel_refuses(call: str, number: int) -> None:
    """Each line of the tables makes a whole sentence with both, and no old word in it."""
    text = str(kernel_error(call, number, "cannot do it on veth0"))
    assert re.fullmatch(r"\[Errno \d+\] cannot do it on veth0: .+ \(E\w+\)\. Likely cause: .+\. Next step: .+\.", text)
    assert not OLD.search(text)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: Rule("udp", snaplen=3), "snaplen"),
    (lambda: Rule("udp", action="count", snaplen=64), "redirected"),
    (lambda: Rule("udp", action="burn"), "burn"),
    (lambda: toolkit.matches("", [bytes(60)]), "filter is empty"),
    (lambda: toolkit.matches("udp\0", [bytes(60)]), "zero byte"),
    (lambda: toolkit.matches("udp", "text"), "packets cannot be"),
    (lambda: toolkit.matches("udp", ["text"]), "packet 0"),
    (lambda: toolkit.matches("udp", np.zeros(3)), "float64"),
    (lambda: toolkit.matches("udp", [bytes(70_000)]), "70000 bytes"),
    (lambda: toolkit.Capture(None, "x.pcap", rotate_files=3), "number of files"),
    (lambda: toolkit.Capture(None, "x.parquet", snaplen=64), "snaplen"),
    (lambda: toolkit.Capture(object(), "x.pcap"), "Interface or a Tee"),
    (lambda: toolkit.open("veth0", filter="udp", netns="nowhere"), "nowhere"),
    (lambda: attach(0, "program", "no-such-device", "auto", False, None), "no-such-device"),
    (lambda: Lab(mtu=1), "mtu"),
]


@pytest.mark.parametrize(("call", "about"), BAD)
def test_bad_arguments_are_refused_in_a_sentence(call: Callable[[], object], about: str) -> None:
    """It names what is wrong, and the next step."""
    with pytest.raises(ToolkitError) as refused:
        call()
    text = str(refused.value)
    assert about in text
    assert STEP in text, text
    assert not OLD.search(text)
