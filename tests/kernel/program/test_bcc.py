# SPDX-License-Identifier: Apache-2.0
"""The other door: what it takes from a BPF object of BCC's, and finding BCC itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.programs import FRAME
from toolkit.errors import ArgumentError, LibraryError
from toolkit.program import Program, import_bcc
from toolkit.program import bcc as bcc_door


def test_from_bcc_wants_an_open_bpf_object_and_a_function_that_is_there() -> None:
    with pytest.raises(ArgumentError, match=r"not an open bcc\.BPF"):
        Program.from_bcc(object(), "x")
    bcc = import_bcc()
    bpf = bcc.BPF(text=b"int one(struct xdp_md *ctx) { return 1; }\nint two(struct xdp_md *ctx) { return 2; }\n")
    with pytest.raises(ArgumentError, match="'three'"):
        Program.from_bcc(bpf, "three")
    with pytest.raises(ArgumentError, match="one, two"):
        Program.from_bcc(bpf)
    with Program.from_bcc(bpf, "two") as two:
        assert two.test_run(FRAME)[0] == 2
    bpf.cleanup()
    with pytest.raises(ArgumentError, match=r"not an open bcc\.BPF"):
        Program.from_bcc(bpf, "one")


def test_import_bcc_passes_by_the_package_of_pypi(tmp_path: Path) -> None:
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text("__version__ = '1.0'\n")
    script = "import bcc; assert not hasattr(bcc, 'BPF')\nfrom toolkit.program import import_bcc\nimport_bcc().BPF\n"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


def test_import_bcc_without_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc_door, "PLACES", ())
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(LibraryError, match="python3-bpfcc"):
        import_bcc()
