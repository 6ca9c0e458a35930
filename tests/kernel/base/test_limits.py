# SPDX-License-Identifier: Apache-2.0
"""At the limits of a process every refusal says which limit it is, with the next step, and leaves nothing behind."""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers import worker_jobs
from tests.helpers.wire import eventually, run_child
from toolkit.abi import libpcap, shared_library
from toolkit.abi.libxdp import libxdp
from toolkit.abi.shared_library import importing
from toolkit.errors import LibraryError, SystemCallError, ToolkitError, explained
from toolkit.filter import expression
from toolkit.lab import Lab
from toolkit.program import Program, build, sources
from toolkit.workers import Workers


class Descriptors:
    """How many more this process may open."""

    def __init__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(self, more: int) -> None:
        """The limit is on the number of a descriptor: so the gaps are closed first."""
        self.fill: list[int] = []
        highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        while (fd := os.open("/dev/null", os.O_RDONLY)) < highest:
            self.fill.append(fd)
        os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + more, self.limits[1]))

    def restore(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)
        for fd in self.__dict__.pop("fill", []):
            os.close(fd)


@pytest.fixture
def descriptors() -> Iterator[Descriptors]:
    made = Descriptors()
    yield made
    made.restore()


THINGS: dict[str, tuple[Callable[[Lab], Any], range]] = {
    "Interface": (lambda lab: toolkit.open("veth0", filter="udp", netns=lab.netns), range(12)),
    "Tee": (lambda lab: toolkit.tee("veth0", filter="udp", netns=lab.netns), range(12)),
    "Socket": (lambda lab: toolkit.Socket("veth0", netns=lab.netns), range(4)),
    "Program": (lambda _: Program.build("xdp_pass.c"), range(4)),
    "Program, compiled": (lambda _: Program.build("xdp_pass.c", cache=False), range(0, 12, 2)),
    "Lab": (lambda _: Lab(), range(3)),
    "Workers": (
        lambda lab: Workers("veth0", worker_jobs.count, filter="udp", workers=1, netns=lab.netns),
        range(0, 24, 4),
    ),
}


def nothing_more(before: set[str]) -> bool:
    gc.collect()
    return len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.mark.parametrize("thing", THINGS)
def test_a_process_with_too_many_descriptors(lab: Lab, descriptors: Descriptors, thing: str) -> None:
    make, counts = THINGS[thing]
    make(lab).close()  # libraries are loaded, modules imported
    before = set(os.listdir("/proc/self/fd"))
    refusals = []
    for more in counts:
        descriptors.leave(more)
        try:
            make(lab).close()
        except SystemCallError as refusal:
            refusals.append((more, refusal.errno, str(refusal)))
        finally:
            descriptors.restore()
        assert eventually(lambda: nothing_more(before)), more
    assert refusals, "the limit was never reached"
    for more, number, said in refusals:
        assert number == errno.EMFILE, (more, said)
        assert "Next step: close some, or raise `ulimit -n`" in said, (more, said)
    make(lab).close()


def test_a_library_is_missing_only_if_it_is(descriptors: Descriptors, tmp_path: Path) -> None:
    libxdp()
    with open("/proc/self/maps") as maps:
        shutil.copy(next(line.split()[5] for line in maps if "/libxdp.so" in line), tmp_path / "libx.so")
    library = str(tmp_path / "libx.so")  # not loaded yet
    descriptors.leave(0)
    with pytest.raises(SystemCallError, match=r"cannot load .*libx.so: Too many open files.*ulimit -n") as refused:
        shared_library.load(library, "x")
    assert refused.value.errno == errno.EMFILE
    assert "package" not in str(refused.value)
    with pytest.raises(SystemCallError, match=r"cannot load libpcap.*Next step: close some"):
        raise expression._absent(OSError("libpcap.so.0.8: cannot open shared object file: Too many open files"))
    descriptors.restore()
    with pytest.raises(LibraryError, match=r"the package nothing is not installed.*apt-get install nothing"):
        shared_library.load("libno-such-thing.so.1", "nothing")


def test_a_library_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "libx.so").write_text("not one")
    with pytest.raises(LibraryError, match=r"the file is damaged.*apt-get install --reinstall x"):
        shared_library.load(str(tmp_path / "libx.so"), "x")
    for said, number in (
        ("libx.so: cannot open shared object file: Permission denied", errno.EACCES),
        ("libx.so: failed to map segment from shared object", errno.ENOMEM),
        ("libx.so: cannot allocate memory in static TLS block", errno.ENOMEM),
    ):
        error = shared_library.not_loaded("libx.so", "x", said)
        assert isinstance(error, SystemCallError)
        assert error.errno == number
        assert "Next step" in str(error)


def test_the_compiler_and_the_filter_s_child_at_the_limit(
    descriptors: Descriptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.read("xdp_pass.c")
    descriptors.leave(1)
    with pytest.raises(SystemCallError, match=r"cannot start .*python.*Next step: close some"):
        build.build_images(source, source.text, cache=False, candidates=[build.SYSTEM_PYTHON])
    with pytest.raises(SystemCallError, match=r"filter 'udp port domain': Too many.*Next step: close some"):
        expression._in_child(10.0, expression="udp port domain", optimise=True)
    descriptors.restore()
    report = {"status": "absent", "detail": "libbcc.so.0: failed to map segment from shared object"}
    monkeypatch.setattr(build, "_run", lambda *_: (report, ""))
    with pytest.raises(SystemCallError, match=r"cannot load BCC.*ulimit -v"):
        build.build_images(source, source.text, cache=False)


MEMORY = """
    import resource, sys
    import toolkit
    from toolkit.errors import SystemCallError, ToolkitError
    from toolkit.lab import Lab
    with Lab() as lab:
        makes = {
            "UMEM": lambda: toolkit.UMEM(1 << 20, 4096),
            "open": lambda: toolkit.open("veth0", filter="udp", netns=lab.netns, ring_size=1 << 16),
            "tee": lambda: toolkit.tee("veth0", filter="udp", netns=lab.netns, slots=1 << 15),
        }
        with toolkit.open("veth0", filter="udp", netns=lab.netns):
            pass
        with toolkit.tee("veth0", filter="udp", netns=lab.netns):
            pass
        size = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (size + (60 << 20), -1))
        for name, make in makes.items():
            try:
                make()
            except SystemCallError as refused:
                print(name, refused.errno, refused)
"""


def test_memory_that_is_not_to_be_had() -> None:
    lines = run_child(MEMORY).splitlines()
    assert [line.split()[:2] for line in lines] == [["UMEM", "12"], ["open", "12"], ["tee", "12"]], lines
    for line in lines:
        assert "Cannot allocate memory (ENOMEM). Likely cause: " in line
        assert "Next step: " in line
    assert "cannot map the ring buffer copies" in lines[2]
    assert "this process may have (`ulimit -v`, its cgroup)" in lines[2]
    assert "4,294,967,296 bytes of memory for packets, 1,048,576 frames" in lines[0]


PACKAGES = """
    import os, resource
    from toolkit.capture.compression import compressor
    from toolkit.errors import ToolkitError
    from toolkit.tables.arrow import pyarrow
    from toolkit.tables.data_frame import data_frame
    makes = {{"pyarrow": lambda: pyarrow("x")}}
    if {descriptors}:
        makes |= {{"pandas": lambda: data_frame([]), "zstandard": lambda: compressor("zstd")}}
        limit, most = resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd")))
    else:
        size = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize"))
        limit, most = resource.RLIMIT_AS, size + (8 << 20)
    resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
    for name, make in makes.items():
        try:
            make()
        except ToolkitError as refused:
            print(name, getattr(refused, "errno", None), refused)
"""


@pytest.mark.needs("pyarrow")
@pytest.mark.parametrize(("descriptors", "number"), [(True, errno.EMFILE), (False, errno.ENOMEM)])
def test_a_python_package_is_missing_only_if_it_is(descriptors: bool, number: int) -> None:
    lines = run_child(PACKAGES.format(descriptors=descriptors)).splitlines()
    assert "pyarrow" in [line.split()[0] for line in lines]
    for line in lines:
        name = line.split()[0]
        assert line.startswith(f"{name} {number} "), line
        assert f"cannot load {name}: " in line
        assert "ulimit" in line
        assert "pip install" not in line


def test_a_python_package_that_is_not_there_or_damaged() -> None:
    with (
        pytest.raises(LibraryError, match="take it from there"),
        importing("nothing", LibraryError("take it from there")),
    ):
        importlib.import_module("nothing")
    with (
        pytest.raises(LibraryError, match=r"cannot load the Python package it: undefined symbol.*force-reinstall it`"),
        importing("it", LibraryError("missing")),
    ):
        raise ImportError("undefined symbol: PyX")


def test_what_is_explained_already_stays_as_it_is() -> None:
    for error in (ToolkitError("so"), SystemCallError(1, "so"), ValueError("so"), RuntimeError("so"), OSError("so")):
        with pytest.raises(type(error)) as raised, explained("cannot"):
            raise error
        assert raised.value is error
    with pytest.raises(SystemCallError, match=r"cannot: .*EAGAIN.*ulimit -u"), explained("cannot"):
        raise RuntimeError("can't start new thread")
    with pytest.raises(SystemCallError, match=r"cannot: .*ENOMEM"), explained("cannot"):
        raise MemoryError


BUSY = """
    import ctypes
    import toolkit
    from toolkit.errors import PrivilegeError
    from toolkit.lab import Lab
    with Lab() as lab, lab.netns.entered():
        program = toolkit.Program.build()
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, data) == 0
        data[0] &= ~(1 << 21)  # CAP_SYS_ADMIN: sysfs cannot be mounted for this namespace
        if {net_admin}:
            data[0] &= ~(1 << 12)
        assert libc.capset(header, data) == 0
        try:
            toolkit.open("veth0", program=program, wait="busy-poll")
        except PrivilegeError as refused:
            print(refused.errno, refused, flush=True)
        import os
        os._exit(0)
"""


@pytest.mark.parametrize(("net_admin", "names"), [(False, "CAP_SYS_ADMIN"), (True, "CAP_NET_ADMIN")])
def test_busy_polling_without_privilege_names_the_privilege(net_admin: bool, names: str) -> None:
    said = run_child(BUSY.format(net_admin=net_admin))
    assert said.startswith("1 "), said
    assert names in said
    assert "no such interface" not in said


def test_in_a_process_that_sees_another_namespace_s_sysfs() -> None:
    """As after `nsenter --net`: the whole process is in the namespace, and /sys is not."""
    inside = BUSY.format(net_admin=False).replace("with Lab() as lab, lab.netns.entered():", "if True:")
    text = f"""
    import os
    from toolkit.lab import Lab
    from toolkit.abi.libc import setns, CLONE_NEWNET
    lab = Lab()
    setns(lab.netns.fileno(), CLONE_NEWNET)
{inside}
    """
    said = run_child(text)
    assert said.startswith("1 "), said
    assert "/sys shows another one" in said
    assert "no such interface" not in said


def test_a_library_of_the_c_world_gives_its_errno_as_text_only() -> None:
    """What refused_by() leans on: the dynamic linker's text has the C library's own words."""
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)) as refused:
        ctypes.CDLL("libno-such-thing.so.1")
    assert refused.value.errno is None
    assert libpcap.libpcap()
