# SPDX-License-Identifier: Apache-2.0
"""What tests share is in tests/helpers: no test module is imported by anybody, nor is a conftest."""

from __future__ import annotations

import ast
import re

from tests.helpers import ROOT

IMPORT_AS_TEXT = re.compile(r"^\s*(?:from|import) (tests\.[\w.]+)", re.MULTILINE)  # in programs that tests write


def allowed(module: str) -> bool:
    return module == "tests" or re.fullmatch(r"tests\.helpers(\.\w+)*", module) is not None


def imported(text: str) -> set[str]:
    """The modules below tests/ that this Python text imports, or that programs in its strings do."""
    found = set(IMPORT_AS_TEXT.findall(text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            # `from tests.unit import x`: x is a module as well. A relative import stays inside of its package.
            found |= {"tests." * (node.level > 0) + (node.module or "")}
            if node.module in ("tests", "tests.unit", "tests.kernel"):
                found |= {f"{node.module}.{name.name}" for name in node.names}
    return {name for name in found if name.split(".")[0] == "tests"}


def test_an_import_is_seen_wherever_it_stands() -> None:
    assert imported("from tests.unit.x.test_y import z") == {"tests.unit.x.test_y"}
    assert imported("from tests.unit import x") == {"tests.unit", "tests.unit.x"}
    assert imported("def f():\n    import tests.conftest") == {"tests.conftest"}
    assert imported('CODE = """\n    from tests.kernel.x import y\n"""') == {"tests.kernel.x"}
    assert imported("from .test_y import z") == {"tests.test_y"}
    assert imported("import numpy\nfrom toolkit import tests") == set()


def test_nothing_is_imported_from_a_test_module() -> None:
    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for place in ("tests", "benchmarks", "examples", "scripts")
        for path in sorted((ROOT / place).rglob("*.py"))
        if path.name != "test_helpers.py"
        for module in imported(path.read_text())
        if not allowed(module)
    }
    assert found == set(), "what tests share belongs into tests/helpers"
