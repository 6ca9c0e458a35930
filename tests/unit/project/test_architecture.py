# SPDX-License-Identifier: Apache-2.0
"""The floors of docs/architecture.md, held: who imports whom, how long a file may be, what every file says first."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.helpers import ROOT, floors
from tests.helpers.floors import FLOORS, MOST_MODULES, module_files, violations

# What `import toolkit` must not drag in: it costs start-up time and memory, and belongs where it is used.
HEAVY = {"bcc", "click", "matplotlib", "pandas", "pyarrow", "pyroute2", "rich"}

FILE_LINES, FILE_LIMIT = 400, 450  # above the first a warning, above the second a failure
FUNCTION_LINES, FUNCTION_LIMIT = 50, 60  # without the docstring


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """A package of the given files (names below toolkit/), for a test of the test."""
    for name, text in files.items():
        path = root / "toolkit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_imports_go_down_and_never_in_circles() -> None:
    assert module_files(ROOT), "no modules found: the test looks in the wrong place"
    problems = violations(ROOT)
    assert not problems, "\n".join(problems)


def test_the_table_of_packages_floors_and_arrows(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m tests.helpers.floors` prints it."""
    assert floors.main() == 0
    printed = capsys.readouterr().out
    assert len(set(FLOORS.values())) <= 12
    assert len(FLOORS) <= 30
    found = re.search(r"(\d+) packages, (\d+) floors, (\d+) arrows, 0 of them upward", printed)
    assert found, printed
    assert int(found[1]) == len(FLOORS)
    assert int(found[3]) > 100, "too few arrows: the imports are not found"


def test_the_architecture_page_names_the_packages_and_their_modules() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    problems = floors.misdescribed(ROOT, page)
    assert not problems, "docs/architecture.md:\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("| 3 | `rings/` |", "| 4 | `rings/` |", "rings stands on floor 3, not 4"),
        ("| 4 | `umem/` |", "| 4 | `memory/` |", "umem has no row"),
        ("`rxqueue`", "`rx`", "rings: there is no module rx"),
        ("`ledger`", "ledger", "umem: the module ledger is not named"),
        ("| 0 | `errors` |", "| 0 | `errors` | |\n| 0 | `faults` |", "faults is no package of toolkit/"),
    ],
)
def test_a_row_that_is_wrong_is_found(old: str, new: str, expected: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert old in page
    assert expected in floors.misdescribed(ROOT, page.replace(old, new))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"umem/a.py": "import toolkit.xsk.b", "xsk/b.py": ""}, "imports toolkit.xsk.b (floor 8)"),
        ({"errors.py": "def f():\n    from toolkit import cli", "cli/__init__.py": ""}, "imports toolkit.cli"),
        ({"abi/a.py": "from ..rings.rx import RX", "rings/rx.py": "RX = 1"}, "imports toolkit.rings.rx"),
        (
            {"umem/a.py": "import typing\nif typing.TYPE_CHECKING:\n    import toolkit.xsk.b", "xsk/b.py": ""},
            "toolkit.umem.a (floor 4) imports toolkit.xsk.b",
        ),
        ({"cli/main.py": "from toolkit import UMEM", "__init__.py": "UMEM = 1"}, "imports toolkit (floor 11)"),
        ({"net/a.py": "import toolkit.filter.b", "filter/b.py": ""}, "imports toolkit.filter.b (floor 3)"),
        ({"xsk/a.py": "import toolkit.xsk.b", "xsk/b.py": "import toolkit.xsk.a"}, "a cycle of imports"),
        ({"rings/__init__.py": "from .rx import RX", "rings/rx.py": "from toolkit.rings import RX"}, "a cycle"),
        ({"novelty/a.py": ""}, "toolkit/novelty/a.py has no floor: add 'novelty'"),
        ({"umem.py": ""}, "toolkit/umem.py stands beside the packages"),
        ({f"umem/m{i}.py": "" for i in range(MOST_MODULES + 1)}, "toolkit/umem has 21 modules"),
    ],
    ids=[
        "upward",
        "upward-in-function",
        "relative",
        "for-types",
        "from-the-top",
        "sideways",
        "cycle",
        "cycle-through-init",
        "no-floor",
        "no-package",
        "crowded",
    ],
)
def test_a_violation_is_found(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    problems = violations(write_tree(tmp_path, files))
    assert len(problems) == 1
    assert expected in problems[0]


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    files = {
        "errors.py": "import numpy",
        "umem/__init__.py": "from toolkit.errors import E\nimport numpy",
        "rings/__init__.py": "from toolkit.rings.rx import RX",
        "rings/rx.py": "from ..errors import E",
        "xsk/socket.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toolkit import rings, umem",
        "__init__.py": "from .xsk.socket import Socket\nfrom toolkit.errors import E",
    }
    assert violations(write_tree(tmp_path, files)) == []


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from its `def`, without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_files_and_functions_stay_small() -> None:
    failures: list[str] = []
    for path in module_files(ROOT).values():
        text = path.read_text(encoding="utf-8")
        sizes = [(f"{path.relative_to(ROOT)}", len(text.splitlines()), FILE_LINES, FILE_LIMIT)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}()"
                sizes.append((where, own_lines(node), FUNCTION_LINES, FUNCTION_LIMIT))
        for where, lines, wanted, limit in sizes:
            if lines > limit:
                failures.append(f"{where} has {lines} lines (limit {limit}): split it by idea")
            elif lines > wanted:
                warnings.warn(f"{where} has {lines} lines, more than {wanted}", stacklevel=1)
    assert not failures, "\n".join(failures)


def public_names(tree: ast.Module) -> set[str]:
    """The names without underscore that a module defines (not those that it imports)."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_")}


def test_every_module_says_what_it_offers() -> None:
    lacking = []
    for name, path in module_files(ROOT).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        has_all = any("__all__" in ast.unparse(n) for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign))
        if not has_all and (public_names(tree) or name == "toolkit"):
            lacking.append(str(path.relative_to(ROOT)))
    assert not lacking, f"no __all__ in: {', '.join(lacking)}"


def test_every_file_names_its_licence_and_the_licence_is_here() -> None:
    python = [p for top in ("toolkit", "tests", "examples") for p in (ROOT / top).rglob("*.py")]
    scripts = [p for p in (*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run") if p.is_file()]
    programs = [p for top in ("progs", "toolkit") for p in (ROOT / top).rglob("*.[ch]")]
    assert python, "no Python files found: the test looks in the wrong place"
    assert scripts, "no scripts found: the test looks in the wrong place"
    assert programs, "no C programs found: the test looks in the wrong place"
    problems = []
    for path in (*python, *scripts, *programs):
        head = path.read_text(encoding="utf-8").splitlines()[:2]
        head = head[1:] if head and head[0].startswith("#!") else head[:1]
        found = re.search(r"SPDX-License-Identifier: ([\w.() -]+?)\s*(\*/)?$", head[0]) if head else None
        wanted = "GPL-2.0-only OR Apache-2.0" if path in programs else "Apache-2.0"
        if found is None or found.group(1) != wanted:
            problems.append(f"{path.relative_to(ROOT)}: the first line must say SPDX-License-Identifier: {wanted}")
    assert not problems, "\n".join(problems)
    for name in ("Apache-2.0", "GPL-2.0-only"):
        assert (ROOT / "LICENSES" / f"{name}.txt").stat().st_size > 10_000
    assert (ROOT / "LICENSE").read_bytes() == (ROOT / "LICENSES" / "Apache-2.0.txt").read_bytes()


def test_import_toolkit_is_light() -> None:
    code = "import sys, toolkit; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "toolkit" in run.stdout.split()
    assert HEAVY.isdisjoint(run.stdout.split()), f"import toolkit pulls in {HEAVY.intersection(run.stdout.split())}"
