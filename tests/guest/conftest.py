# SPDX-License-Identifier: Apache-2.0
"""Checks that run over any driver: on a veth, or on what GUEST_NICS names, in a guest.

scripts/test --guests runs them in guests. What each has seen from outside is in the report, if GUEST_REPORT names a
file: one JSON object a test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.accounts import Accounts
from tests.helpers.cable import NICS, Cable
from tests.helpers.drivers import MODES, missing

_SLOW = "no guest is quick: everything is emulated"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this directory may be slow."""
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.timing(_SLOW))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Write what became of each test into the report."""
    report: pytest.TestReport = yield
    path = os.environ.get("GUEST_REPORT")
    if path and (report.when == "call" or report.outcome != "passed"):
        properties = dict(item.user_properties)
        given = item.callspec.params if hasattr(item, "callspec") else {}
        why = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message if crash else str(report.longrepr)
        with open(path, "a") as file:
            what = {"test": item.nodeid, "nic": given.get("nic", "veth"), "mode": given.get("mode", "")}
            what |= {"outcome": report.outcome, "seen": properties.get("seen", ""), "why": why}
            file.write(json.dumps(what | {"when": report.when, "seconds": round(report.duration, 1)}) + "\n")
    return report


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Call it with what was seen from outside, for the table of what is supported."""
    return lambda text: record_property("seen", text)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, nic: str) -> str:
    """Each mode that the driver has on this kernel."""
    if reason := missing(request.param, nic):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(scope="session", params=NICS)
def nic(request: pytest.FixtureRequest) -> str:
    """Each kind of interface that there is."""
    return str(request.param)


@pytest.fixture(scope="session")
def _cable(nic: str) -> Iterator[Cable]:
    with Cable(kind=nic) as made:
        yield made


@pytest.fixture(scope="session")
def _second(nic: str, _cable: Cable) -> Iterator[Cable]:
    with Cable(1, beside=_cable, kind=nic) as made:
        yield made


@pytest.fixture
def cable(_cable: Cable) -> Cable:
    """The near end under test, and the far end that is its witness."""
    return _cable


@pytest.fixture
def second(_second: Cable) -> Cable:
    """Another pair, whose near end is in the same namespace."""
    return _second


@pytest.fixture(autouse=True)
def conservation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Accounts]:
    """Nothing lost, nothing left: frames, attached programs, file descriptors, threads."""
    for name in ("_cable", "_second"):  # they stay
        if name.strip("_") in request.fixturenames:
            request.getfixturevalue(name)
    accounts = Accounts(monkeypatch)
    if NICS != ("veth",):  # a zero-copy driver may write to frames for some seconds after close(): UMEM keeps them
        accounts.may_retire = 1 << 20
    yield accounts
    accounts.check()
