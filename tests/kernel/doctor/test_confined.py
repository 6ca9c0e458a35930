# SPDX-License-Identifier: Apache-2.0
"""Where a privilege, /proc or /sys is less than it seems, findings and errors say so, and nothing stays attached."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.cli import ENVIRONMENT, XSK
from tests.helpers.wire import run_child
from toolkit.lab import Lab

USER_NAMESPACE = ("unshare", "--user", "--map-root-user")
CAPABILITIES = sum(1 << number for number in (12, 13, 14, 38, 39))  # NET_ADMIN, NET_RAW, IPC_LOCK, PERFMON, BPF


def hiding(place: str) -> list[str]:
    """A command that runs the one behind it where `place` is empty. For itself alone."""
    return ["unshare", "--mount", "/bin/sh", "-c", f'mount -t tmpfs none {place} && exec "$@"', "sh"]


def run(lab: Lab, wrapper: list[str], *command: str) -> subprocess.CompletedProcess[str]:
    """In the lab's namespace."""
    return lab.netns.run(
        [*wrapper, *command], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60
    )


@pytest.mark.needs("setpriv")
def test_capabilities_of_a_user_namespace_do_not_count() -> None:
    """They are all there, and for nothing: doctor has a problem, and the error does not advise to run as root."""
    out = run_child(
        """
        from toolkit.doctor.system import examine_system
        from toolkit.program import Program
        for one in examine_system():
            print(one.check, one.level, one.text, sep="|")
        try:
            Program.build("xsk_redirect.c")
        except PermissionError as refused:
            print("error", refused, sep="|")
        """,
        *USER_NAMESPACE,
    )
    found = [line.split("|") for line in out.splitlines()]
    assert [one[1] for one in found if one[0] == "privileges" and "user namespace" in one[2]] == ["problem"]
    (error,) = (one[1] for one in found if one[0] == "error")
    assert "in a user namespace" in error
    assert "Next step: run it as root of the machine, outside" in error


@pytest.mark.needs("setpriv")
def test_capabilities_of_the_interpreters_file_reach_the_compiler(tmp_path: Path) -> None:
    """setcap on a Python: what it has goes to the process that compiles, which makes the program's maps."""
    folder = Path(shutil.copytree(tmp_path, "/var/tmp/" + tmp_path.parent.name + tmp_path.name))  # nobody may go there
    try:
        interpreter = shutil.copy(os.path.realpath(sys.executable), folder / "python")
        words = (0x02000001, CAPABILITIES & 0xFFFFFFFF, 0, CAPABILITIES >> 32, 0)  # struct vfs_cap_data, revision 2
        try:
            os.setxattr(interpreter, "security.capability", struct.pack("<5I", *words))
        except OSError as refused:
            pytest.skip(f"no capabilities of files on this file system: {refused}")
        folder.chmod(0o755)
        code = f"""
import sys
sys.path[:0] = {[path for path in sys.path if path]!r}
from toolkit._base.capabilities import effective
from toolkit.program import Program, build
build.interpreters = lambda: [build.SYSTEM_PYTHON]  # as from a venv: not this one, whose file has them too
before = effective()
Program.build("xsk_redirect.c", filter="udp", cache=False).close()
with open("/proc/thread-self/status") as status:
    sets = dict(line.split() for line in status if line.startswith("Cap"))
print(f"{{before:x}}", f"{{effective():x}}", int(sets["CapInh:"], 16), int(sets["CapAmb:"], 16))
"""
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(interpreter), "-I", "-c", code]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        held = f"{CAPABILITIES:x}"
        assert done.stdout.split() == [held, held, "0", "0"]  # as before: the next program gets none
    finally:
        shutil.rmtree(folder)


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize(
    "command",
    [
        (*XSK, "receive", "veth0", "-f", "udp", "--yes"),
        (*XSK, "receive", "veth0", "-f", "udp"),  # the guard cannot see whom it would harm
        (*XSK, "top", "veth0", "-f", "udp", "--tee"),
        (*XSK, "send", "veth0", "--eth-dst", "02:00:00:00:00:01"),
        (*XSK, "demo"),
        (sys.executable, "-c", "import toolkit; toolkit.open('veth0', filter='udp', netns=1)"),
    ],
    ids=["receive", "guard", "tee", "send", "demo", "netns"],
)
def test_without_proc_the_error_says_so(lab: Lab, command: tuple[str, ...]) -> None:
    """Of the command, and of the calls."""
    done = run(lab, hiding("/proc"), *command)
    assert done.returncode == 1
    assert "/proc is not mounted here, or something hides it. Next step: mount it: `mount -t proc" in done.stderr


@pytest.mark.needs("setpriv")
def test_without_proc_nothing_stays_attached(lab: Lab) -> None:
    """Not even while the process that tried lives on."""
    code = """
import socket
import toolkit
from toolkit.program import attached
for opening in (toolkit.open, toolkit.tee):
    try:
        opening("veth0", filter="udp")
    except toolkit.ToolkitError as refused:
        print(refused.errno, attached(socket.if_nametoindex("veth0")))
"""
    done = run(lab, hiding("/proc"), sys.executable, "-c", code)
    assert done.stdout.split() == ["2", "None"] * 2, done.stderr


@pytest.mark.needs("setpriv")
def test_doctor_and_status_without_proc(lab: Lab) -> None:
    """A finding in place of a traceback."""
    done = run(lab, hiding("/proc"), *XSK, "doctor", "veth0")
    assert "PROBLEM  /proc is not mounted here" in done.stdout, done.stderr
    assert done.returncode == 1
    assert not done.stderr
    assert run(lab, hiding("/proc"), *XSK, "status").returncode == 0


@pytest.mark.needs("setpriv")
def test_without_sys_packets_are_received_and_counted(lab: Lab) -> None:
    """The kernel itself says how many CPUs its counters are for; doctor notes what does not work."""
    code = """
import toolkit
from toolkit.program import maps
with toolkit.open("veth0", filter="udp") as near:
    print(near.counters()["redirected"], maps._values_read())
"""
    done = run(lab, hiding("/sys"), sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    possible = Path("/sys/devices/system/cpu/possible").read_text().strip()  # "0-3", "0"
    assert done.stdout.split() == ["0", str(int(possible.split("-")[-1]) + 1)]
    done = run(lab, hiding("/sys"), *XSK, "doctor", "veth0")
    assert "note     /sys is not mounted here" in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
