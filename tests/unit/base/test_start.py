# SPDX-License-Identifier: Apache-2.0
"""What `import toolkit` leaves for later: what only compiling, logging or files need, and what is not asked for."""

from __future__ import annotations

import hashlib
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import ROOT
from toolkit._base.cache import sha256

LATER = {
    "_hashlib": "OpenSSL",
    "json": "the cache, records",
    "logging": "a program that is put back",
    "pathlib": "files",
    "pyroute2": "netlink",
    "rich": "the command",
    "subprocess": "the compiling process",
    "toolkit.batch.editable": "Forwarder",
    "toolkit.decode": "decode()",
    "toolkit.filter": "an expression",
    "toolkit.program.bcc": "compiling",
    "toolkit.program.build": "Program.build()",
}

PROGRAM = """
import sys, numpy
before = set(sys.modules)
import toolkit
print(*sorted(set(sys.modules) - before))
"""


def test_what_is_not_needed_is_imported_later() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not LATER.keys() & set(done.stdout.split())


@given(st.binary(max_size=300))
def test_the_hash_is_that_of_hashlib(text: bytes) -> None:
    assert sha256(text).hexdigest() == hashlib.sha256(text).hexdigest()
