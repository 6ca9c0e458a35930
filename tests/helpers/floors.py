# SPDX-License-Identifier: Apache-2.0
"""The import graph of `toolkit/`, package by package, and the floors that docs/architecture.md promises.

`python -m tests.helpers.floors` prints the table of packages, floors and arrows, and exits with 1 when it is not as it
must be. tests/unit/project/test_architecture.py holds it.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.helpers import ROOT

__all__ = [
    "FLOORS",
    "MOST_MODULES",
    "misdescribed",
    "module_files",
    "modules_of",
    "table",
    "violations",
]

# A package imports from lower floors only, for types too; modules of one package import each other without a circle.
# toolkit/ itself holds __init__.py, errors.py and packages. A new package gets its floor here and in
# docs/architecture.md.
FLOORS = {
    "errors": 0,
    "abi": 1,
    "_base": 2,
    "filter": 3,
    "net": 3,
    "rings": 3,
    "tables": 3,
    "umem": 4,
    "decode": 4,
    "batch": 5,
    "packets": 5,
    "flows": 6,
    "lab": 6,
    "program": 6,
    "capture": 7,
    "doctor": 7,
    "wait": 7,
    "xsk": 8,
    "interface": 9,
    "forward": 10,
    "recorded": 10,
    "workers": 10,
    "cli": 11,
    "": 11,  # toolkit/__init__.py: the public names, on top of everything
}
MOST_BOXES = 30
MOST_MODULES = 20  # of a package, but for the command's


def module_files(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; a package goes by its own name, without `__init__`."""
    modules = {}
    for path in sorted((root / "toolkit").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def modules_of(root: Path, package: str) -> set[str]:
    """The modules and folders inside a package, without `__init__`."""
    inside = (root / "toolkit" / package).iterdir()
    return {path.stem for path in inside if path.stem[:2] != "__" and (path.suffix == ".py" or path.is_dir())}


def import_nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import, inside functions and for type checkers too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def imported_modules(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that `name` imports; a package's `__init__` only where the import names it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    wanted: set[str] = set()
    for node in import_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
            continue
        base = node.module or ""
        if node.level:
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            wanted.add(inner if inner in modules else base)
    return {other for other in wanted if other.split(".")[0] == "toolkit"} - {name}


def graph_of(root: Path) -> dict[str, set[str]]:
    """Every module, and the modules that it imports."""
    modules = module_files(root)
    return {name: imported_modules(name, path, modules) for name, path in modules.items()}


def package_of(name: str) -> str:
    """The package that a module belongs to: "rings" of toolkit.rings.rxqueue."""
    return [*name.split("."), ""][1]


def floor_of(name: str) -> int | None:
    """The floor that a module's package stands on."""
    return FLOORS.get(package_of(name))


def violations(root: Path) -> list[str]:
    """What is wrong with the import graph of the package in `root`, a sentence each."""
    modules, graph = module_files(root), graph_of(root)
    problems = []
    for name, imports in graph.items():
        floor = floor_of(name)
        if floor is None:
            problems.append(
                f"{modules[name].relative_to(root)} has no floor: add {name.split('.')[1]!r} to FLOORS in "
                "tests/helpers/floors.py and to docs/architecture.md"
            )
            continue
        for other in sorted(imports):
            above = floor_of(other)
            if above is not None and above >= floor and package_of(other) != package_of(name):
                problems.append(f"{name} (floor {floor}) imports {other} (floor {above}): imports go down only")
    for path in sorted((root / "toolkit").glob("*.py")):
        if path.name not in ("__init__.py", "errors.py"):
            problems.append(f"{path.relative_to(root)} stands beside the packages: move it into one")
    for package in sorted((root / "toolkit").iterdir()):
        count = sum(path.name != "__init__.py" for path in package.rglob("*.py"))
        if count > MOST_MODULES and package.name != "cli":
            problems.append(f"{package.relative_to(root)} has {count} modules, more than {MOST_MODULES}: two packages?")
    packages = {package_of(name) for name in modules}
    if len(packages) > MOST_BOXES:
        problems.append(f"toolkit/ has {len(packages)} packages, more than {MOST_BOXES}")
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as cycle:
        problems.append("a cycle of imports: " + " <- ".join(cycle.args[1]))
    return problems


def arrows(root: Path) -> dict[str, set[str]]:
    """Every package, and the packages that it imports; "" is toolkit/__init__.py."""
    between: dict[str, set[str]] = {}
    for name, imports in graph_of(root).items():
        package = package_of(name)
        between.setdefault(package, set()).update({package_of(other) for other in imports} - {package})
    return between


def table(root: Path) -> str:
    """Packages, floors and arrows as text, from the top floor down, and the sums below."""
    between = arrows(root)
    lines = [f"{'floor':>5}  {'package':<10} {'modules':>7} {'arrows':>6}  imports"]
    for package in sorted(between, key=lambda one: (-FLOORS.get(one, 99), one)):
        count = sum(package_of(name) == package for name in module_files(root))
        below = sorted(between[package], key=lambda one: (-FLOORS.get(one, 99), one))
        lines.append(
            f"{FLOORS.get(package, '?'):>5}  {package or 'toolkit':<10} {max(count - 1, 1):>7} {len(below):>6}  "
            + ", ".join(one or "toolkit" for one in below)
        )
    upward = sum(FLOORS.get(below, 99) >= FLOORS.get(one, -1) for one, wanted in between.items() for below in wanted)
    floors = len({FLOORS.get(package) for package in between})
    total = sum(len(wanted) for wanted in between.values())
    lines.append(f"{len(between)} packages, {floors} floors, {total} arrows, {upward} of them upward or on one floor")
    return "\n".join(lines)


_ROW = re.compile(r"^\| (\d+) \| `([\w/]+)` \| (.*) \|$", re.MULTILINE)


def misdescribed(root: Path, page: str) -> list[str]:
    """What the table of docs/architecture.md says wrongly of the packages in `root`, a sentence each.

    A row is `| floor | package/ | text |`; the lower-case names between backquotes in the text are the modules.
    """
    problems = []
    rows = {package.rstrip("/"): (int(floor), text) for floor, package, text in _ROW.findall(page)}
    for package, floor in FLOORS.items():
        row = rows.pop(package or "toolkit", None)
        if row is None:
            problems.append(f"{package or 'toolkit'} has no row")
            continue
        if row[0] != floor:
            problems.append(f"{package or 'toolkit'} stands on floor {floor}, not {row[0]}")
        if package in ("", "errors"):
            continue
        named, there = set(re.findall(r"`([a-z_][a-z0-9_]*)/?`", row[1])), modules_of(root, package)
        problems += [f"{package}: there is no module {name}" for name in sorted(named - there)]
        problems += [f"{package}: the module {name} is not named" for name in sorted(there - named)]
    return [*problems, *(f"{name} is no package of toolkit/" for name in rows)]


def main() -> int:
    """Print the table, and on stderr what is wrong with it; the exit code."""
    print(table(ROOT))
    problems = violations(ROOT) + misdescribed(ROOT, (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
