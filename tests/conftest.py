# SPDX-License-Identifier: Apache-2.0
"""What all tests share: how hard hypothesis works, who skips, who runs alone and who gets another try, with reasons.

Under CI=true hypothesis works longer, and a skip for want of privilege is a failure: a green run there means that
everything was run. A CI machine is shared, though, and may hold a process up for a second. So a test that is marked as
one that a busy machine changes gets two more tries there, and the report names each. A broken promise fails thrice.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


def _as_in_the_foreground() -> None:
    """Give this process, and so the programs that tests start and send signals to, the signals of a fresh login.

    A suite that runs in the background of a script has SIGINT and SIGQUIT ignored, under nohup SIGHUP, and its children
    inherit that. A signal with a handler goes back to the default in a child: so a hang-up does not end the suite, but
    still ends what a test sends it to.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # which Python itself ignores
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL if number != signal.SIGHUP else lambda *_: None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


_as_in_the_foreground()

# No deadlines: a noisy machine is no bug. CI prints the blob that reproduces a failure elsewhere.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), max_examples=500, print_blob=True)
settings.load_profile("ci" if CI else "default")

_ON_A_KERNEL = [Path(__file__).with_name(name) for name in ("kernel", "guest")]
_CAPABILITIES = {"chown": 0, "net_admin": 12, "net_raw": 13, "sys_admin": 21}  # linux/capability.h
_OF_THE_KERNEL_TESTS = ("net_admin", "net_raw", "sys_admin")


def _effective_capabilities() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))


def _no_privilege(wanted: Iterable[str]) -> str:
    held = _effective_capabilities()
    missing = [f"CAP_{name.upper()}" for name in sorted(wanted) if not held >> _CAPABILITIES[name] & 1]
    return f"needs root: this process has no {', '.join(missing)}" if missing else ""


def _no_library(soname: str, package: str) -> str:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return f"{soname} is missing (package {package})"
    return ""


def _no_bcc() -> str:
    from toolkit.program.build import interpreters

    return "" if any(interpreters()) else "no interpreter that could have BCC"


def _no_af_xdp() -> str:
    import socket

    try:
        socket.socket(44, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0).close()
    except PermissionError:
        return ""  # that is the privilege's business
    except OSError as refused:
        return f"this kernel has no AF_XDP: {refused}"
    return ""


def _no_module(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"the package {name} is missing"


def _no_command(name: str, package: str = "") -> str:
    return "" if shutil.which(name) else f"the command {name} is missing" + (f" (package {package})" if package else "")


def _no_iputils_arping() -> str:
    if missing := _no_command("arping", "iputils-arping"):
        return missing
    shown = subprocess.run(["arping", "-h"], capture_output=True, text=True, check=False)
    return "" if "-D" in shown.stdout + shown.stderr else "this arping has no -D (package iputils-arping has)"


# Why a feature is missing, or "".
FEATURES: dict[str, Callable[[], str]] = {
    "af_xdp": _no_af_xdp,
    "libxdp": lambda: _no_library("libxdp.so.1", "libxdp1"),
    "bcc": _no_bcc,
    "setpriv": lambda: _no_command("setpriv"),
    "nsenter": lambda: _no_command("nsenter") or _no_command("unshare"),
    "ethtool": lambda: _no_command("ethtool"),
    "ping": lambda: _no_command("ping"),
    "arping": lambda: _no_command("arping", "iputils-arping"),
    "iputils-arping": _no_iputils_arping,
    "tcpdump": lambda: _no_command("tcpdump"),
    "tshark": lambda: _no_command("tshark"),
    "capinfos": lambda: _no_command("capinfos"),
    "editcap": lambda: _no_command("editcap"),
    "zstd": lambda: _no_command("zstd"),
    "iperf3": lambda: _no_command("iperf3"),
    "zstandard": lambda: "" if sys.version_info >= (3, 14) else _no_module("zstandard"),
    "pyarrow": lambda: _no_module("pyarrow"),
    "pandas": lambda: _no_module("pandas"),
    "duckdb": lambda: _no_module("duckdb"),
    "polars": lambda: _no_module("polars"),
}


def require(*features: str, capabilities: Iterable[str] = ()) -> None:
    """Skip the running test unless the machine has all of this; under CI=true a want of privilege fails instead."""
    if reason := _no_privilege(capabilities):
        if CI:
            pytest.fail(f"{reason} (CI=true: a skip for privilege is a failure)", pytrace=False)
        pytest.skip(reason)
    for feature in features:
        if reason := FEATURES[feature]():
            pytest.skip(reason)


# Each takes one argument, the reason. A test that runs alone is one that a busy machine changes as well.
SENSITIVE = {
    "timing": "a busy machine changes what it sees (a deadline, a rate, the order of threads): tried again in CI",
    "alone": "other tests beside it would change what it sees (CPU time, rates): scripts/test runs it after those",
}
_RERUNS = 2
BOOTS = "boots emulated machines, minutes each: not run unless named by -m, as scripts/test --all does"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, for --strict-markers."""
    for name, meaning in SENSITIVE.items():
        config.addinivalue_line("markers", f"{name}(reason): {meaning}")
    config.addinivalue_line("markers", f"boots(reason): {BOOTS}")
    wanted = f"of {', '.join(_CAPABILITIES)}; without any named: {', '.join(_OF_THE_KERNEL_TESTS)}"
    config.addinivalue_line("markers", f"needs_root(capability, ...): needs these capabilities, {wanted}")
    config.addinivalue_line("markers", f"needs(feature, ...): needs features of the machine: {', '.join(FEATURES)}")


def _reasons(item: pytest.Item) -> list[str]:
    """Why a busy machine changes this test; empty: it does not."""
    found = []
    for name in SENSITIVE:
        for marker in item.iter_markers(name):
            if len(marker.args) != 1 or not isinstance(marker.args[0], str) or marker.kwargs:
                raise pytest.UsageError(f"{item.nodeid}: the marker {name} takes one argument, its reason")
            found.append(marker.args[0])
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a kernel; in CI, try again what a busy machine changes. Leave out what boots machines.

    Each report carries the reason for which its test may be tried again.
    """
    if "boots" not in str(config.getoption("-m")):
        items[:] = [item for item in items if not item.get_closest_marker("boots")]
    for item in items:
        if any(item.path.is_relative_to(one) for one in _ON_A_KERNEL):
            item.add_marker(pytest.mark.needs_root)
            item.add_marker(pytest.mark.needs("af_xdp", "libxdp"))
        if reasons := _reasons(item):
            item.user_properties.append(("sensitive", "; ".join(reasons)))
            if CI:
                item.add_marker(pytest.mark.flaky(reruns=_RERUNS, reruns_delay=2))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name every retry: the test, what failed, and why it may be tried again."""
    retried = terminalreporter.stats.get("rerun", [])
    if not retried:
        return
    terminalreporter.section(f"tried again: {len(retried)} (a busy machine changes these tests)")
    for report in retried:
        crash = getattr(report.longrepr, "reprcrash", None)
        failure = (crash.message if crash else str(report.longrepr)).strip().splitlines() or ["?"]
        reason = dict(report.user_properties).get("sensitive", "no reason given")
        terminalreporter.line(f"{report.nodeid} ({report.when})")
        terminalreporter.line(f"    failed: {failure[0]}")
        terminalreporter.line(f"    tried again because: {reason}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Decide about the skips that markers ask for, before any fixture runs."""
    features = [feature for marker in item.iter_markers("needs") for feature in marker.args]
    of_root = [marker.args or _OF_THE_KERNEL_TESTS for marker in item.iter_markers("needs_root")]
    require(*features, capabilities={capability for some in of_root for capability in some})
