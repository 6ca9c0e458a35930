# SPDX-License-Identifier: Apache-2.0
"""The public face: what `import toolkit` offers, and that whoever stands outside of the package keeps to it."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import toolkit
from tests.helpers import ROOT
from tests.helpers.papers import PAGES, programs_of, prose_of
from tests.helpers.public import PUBLIC


def test_dir_is_what_is_public() -> None:
    code = "import json, toolkit; print(json.dumps([dir(toolkit), toolkit.__all__]))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    shown, public = json.loads(run.stdout)
    assert shown == sorted(public)
    assert set(public) >= PUBLIC


@pytest.mark.parametrize("order", ["sorted", "reversed"])
def test_every_name_is_there_in_a_fresh_interpreter(order: str) -> None:
    code = f"import toolkit; print(*[name for name in {order}(toolkit.__all__) if getattr(toolkit, name) is None])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not run.stdout.strip()
    subprocess.run([sys.executable, "-c", "from toolkit import *; Workers, tee, lab"], cwd=ROOT, check=True)


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_a_package_has_what_it_names(package: str) -> None:
    module = importlib.import_module(f"toolkit.{package}")
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(dir(module)) >= set(module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="module 'toolkit' has no attribute 'recieve'"):
        _ = toolkit.recieve


def test_the_version_is_that_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{toolkit.__version__}"' in project


@pytest.mark.parametrize("name", [name for name in toolkit.__all__ if inspect.isclass(getattr(toolkit, name))])
def test_the_source_of_a_class_can_be_shown(name: str) -> None:
    assert f"class {name}" in inspect.getsource(getattr(toolkit, name))


@pytest.mark.parametrize("name", ["open", "tee", "read", "replay", "matches"])
def test_the_source_of_a_function_can_be_shown(name: str) -> None:
    assert f"def {name}(" in inspect.getsource(getattr(toolkit, name))


def test_a_pickled_batch_names_the_package_only() -> None:
    """So that it can be read after the next move of a file."""
    memory, descs = np.zeros(60, dtype=np.uint8), np.array([[0, 60]], dtype=np.uint64)
    batch = toolkit.Batch(None, descs, memory=memory, arrival_ns=np.zeros(1, dtype=np.int64))
    pickled = pickle.dumps(batch)
    assert b"toolkit.batch" in pickled
    assert b"toolkit.batch.batch" not in pickled
    assert pickle.loads(pickled).lengths.tolist() == [60]


# --- who stands outside ---------------------------------------------------------------------------------------------


def programs() -> Iterator[tuple[str, str]]:
    """Every Python program of README, docs, examples and scripts: where it stands, and its text."""
    for page in PAGES:
        for block in programs_of(page):
            yield page.name, block
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "code":
                yield notebook.name, "".join(cell["source"])
    for script in sorted((ROOT / "scripts").glob("*.py")):
        yield script.name, script.read_text(encoding="utf-8")


def private_names(text: str) -> list[str]:
    """What a program imports from toolkit, or names of it, that is not public."""
    wrong = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "toolkit":
            wrong += [f"{node.module}.{alias.name}" for alias in node.names if not _public(node.module, alias.name)]
        elif isinstance(node, ast.Import):
            wrong += [a.name for a in node.names if a.name.startswith("toolkit.") and a.name[8:] not in PUBLIC]
        elif (
            isinstance(node, ast.Attribute)
            and ast.unparse(node.value) == "toolkit"
            and node.attr not in toolkit.__all__
        ):
            wrong.append(f"toolkit.{node.attr}")
    return wrong


def _public(module: str, name: str) -> bool:
    if module == "toolkit":
        return name in toolkit.__all__
    package = module.removeprefix("toolkit.")
    return package in PUBLIC and name in importlib.import_module(module).__all__


def test_programs_in_the_papers_use_public_names_only() -> None:
    found = list(programs())
    assert len(found) > 10, "no programs found: the test looks in the wrong place"
    wrong = [f"{where}: {name}" for where, text in found for name in private_names(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "from toolkit.rings.memory import RingMemory",
        "from toolkit.umem import UMEM",
        "import toolkit.xsk",
        "import toolkit\ntoolkit.xsk",
        "from toolkit.packets import as_matrix",
        "from toolkit import door",
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert private_names(text)


def test_a_public_name_is_not() -> None:
    assert not private_names(
        "import toolkit\nfrom toolkit.lab import Lab\nfrom toolkit import errors\ntoolkit.open('eth0')"
    )


# --- names in prose -------------------------------------------------------------------------------------------------

# Where a page tells of what is private, by its name: page, name.
PRIVATE_IN_PROSE = {("architecture.md", "toolkit.batch")}


def wrong_in_prose(text: str) -> list[str]:
    """Names between backquotes that `import toolkit` does not have: of `toolkit`, and of its classes."""
    wrong = [name for name in re.findall(r"`(toolkit(?:\.\w+)+)", text) if not _in_prose(name.split(".")[1:])]
    for name, attribute in re.findall(r"`([A-Z]\w+)\.([a-z]\w*)", text):
        if name in toolkit.__all__ and not _has(getattr(toolkit, name), attribute):
            wrong.append(f"{name}.{attribute}")
    return wrong


def _in_prose(names: list[str]) -> bool:
    if names[-1] == "__all__":
        return len(names) == 1 or names[0] in PUBLIC
    if names[0] not in toolkit.__all__:
        return False
    found = getattr(toolkit, names[0])
    for name in names[1:]:
        if not (name in found.__all__ if inspect.ismodule(found) else _has(found, name)):
            return False
        found = getattr(found, name, None)
    return True


def _has(cls: type, attribute: str) -> bool:
    """Whether objects of a class have an attribute: one of the class, or one that __init__ sets."""
    sources = (inspect.getsource(base) for base in cls.__mro__ if base.__module__.startswith("toolkit."))
    return hasattr(cls, attribute) or any(re.search(rf"self\.{attribute}\b.* = ", source) for source in sources)


def test_names_in_the_prose_of_the_papers_are_public() -> None:
    wrong = [
        f"{page.name}: `{name}`"
        for page in PAGES
        for name in wrong_in_prose(prose_of(page))
        if (page.name, name) not in PRIVATE_IN_PROSE
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "`toolkit.decode.Columns.explain_all()` lists them",
        "count them: `toolkit.flows.flows.Flows().add(batch)`",
        "`toolkit.packets.checksum_offload.finish_checksums(matrix)`",
        "`toolkit.receive()`",
        "`Interface.lend()`",
        "`Batch.told`",
    ],
)
def test_a_wrong_name_in_prose_is_found(text: str) -> None:
    assert len(wrong_in_prose(text)) == 1


def test_a_right_name_in_prose_is_not() -> None:
    right = (
        "`toolkit.Columns.explain()`, `Interface.counters()`, `Interface.device`, `toolkit.errors`, `Batch.lengths[0]`"
    )
    assert wrong_in_prose(right) == []
