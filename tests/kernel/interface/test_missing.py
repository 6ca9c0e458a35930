# SPDX-License-Identifier: Apache-2.0
"""Without privilege, memory or libraries: what is missing is named, with the next step."""

from __future__ import annotations

import textwrap

import pytest

from tests.helpers.wire import run_child
from toolkit.lab import Lab

OPEN_AS_NOBODY = """
    import os, sys
    import toolkit
    from toolkit.errors import PrivilegeError
    import ctypes
    from toolkit.lab import Lab
    from toolkit.program import Program
    import toolkit.program.build
    with Lab() as lab, lab.netns.entered():
        program = Program.build("xsk_redirect.c") if {with_program} else None
        # Every capability goes; the user stays, who alone may read a checkout below a private home.
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None, use_errno=True).capset(header, none) == 0
        try:
            {attempt}
        except PrivilegeError as refused:
            assert isinstance(refused, PermissionError)
            print(refused.errno, refused, flush=True)
        os._exit(0)  # the way back to the first namespace needs the privilege that was dropped
"""


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        ('toolkit.Socket("veth0")', "CAP_NET_RAW"),
        ('toolkit.open("veth0", filter="all")', "run as root"),
        ("UMEM = toolkit.UMEM(16); toolkit.Socket('veth0', umem=UMEM)", "CAP_NET_RAW"),
        ("toolkit.UMEM(16); Lab()", "CAP_SYS_ADMIN"),
    ],
)
def test_no_privilege(attempt: str, says: str, tmp_path: object) -> None:
    out = run_child(textwrap.dedent(OPEN_AS_NOBODY).format(attempt=attempt, with_program=False))
    assert out.startswith("1 "), out
    assert says in out


def test_no_privilege_for_the_socket_only(lab: Lab) -> None:
    """The program is loaded and attached; then the bind is refused, and the program is off again."""
    code = """
    import ctypes, os, socket
    import toolkit
    from toolkit.errors import PrivilegeError
    from toolkit.lab import Lab
    from toolkit.program import attached
    with Lab() as lab:
        with lab.netns.entered():
            index = socket.if_nametoindex("veth0")
        # Drop CAP_NET_RAW (13) from the effective set of this thread.
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, data) == 0
        data[0] &= ~(1 << 13)
        assert libc.capset(header, data) == 0
        try:
            toolkit.open("veth0", filter="all", netns=lab.netns)
        except PrivilegeError as refused:
            print(refused.errno, refused)
        print("attached", attached(index, lab.netns))
    """
    out = run_child(code)
    assert out.startswith("1 "), out
    assert "CAP_NET_RAW" in out
    assert "attached None" in out


def test_memlock_too_small() -> None:
    code = """
    import ctypes, resource
    import toolkit
    from toolkit.lab import Lab
    with Lab() as lab:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, data) == 0
        data[0] &= ~(1 << 14)  # CAP_IPC_LOCK
        assert libc.capset(header, data) == 0
        try:
            toolkit.open("veth0", filter="all", netns=lab.netns)
        except OSError as refused:
            print(refused.errno, refused)
        with toolkit.UMEM(8, 4096) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns):
            print("a small one is fine")
    """
    out = run_child(code)
    assert out.startswith("105 "), out
    assert "RLIMIT_MEMLOCK" in out
    assert "a small one is fine" in out


WITHOUT = """
    import ctypes, toolkit
    from toolkit.abi import shared_library
    from toolkit.errors import LibraryError
    from toolkit.lab import Lab
    real = ctypes.CDLL
    class Instead(real):
        def __init__(self, name, *args, **options):
            super().__init__({instead!r} if name and "libxdp" in str(name) else name, *args, **options)
    shared_library.ctypes.CDLL = Instead
    with Lab() as lab:
        try:
            toolkit.Socket("veth0", netns=lab.netns)
        except LibraryError as refused:
            assert isinstance(refused, ImportError)
            print(refused)
        try:
            toolkit.open("veth0", filter="all", netns=lab.netns)
        except LibraryError as refused:
            print(refused)
        from toolkit.program import attached
        import socket
        with lab.netns.entered():
            print("attached", attached(socket.if_nametoindex("veth0")))
"""


def test_libxdp_absent() -> None:
    """The dynamic linker is asked for a library that is not there."""
    out = run_child(textwrap.dedent(WITHOUT).format(instead="libnosuchthing.so.1"))
    assert out.count("Likely cause: the package libxdp1 is not installed") == 2, out
    assert "apt-get install libxdp1" in out
    assert "attached None" in out


def test_libxdp_too_old() -> None:
    """A real library without the calls we need stands in for an old libxdp."""
    out = run_child(textwrap.dedent(WITHOUT).format(instead="libc.so.6"))
    assert out.count("libxdp is older than 1.2.0") == 2, out
    assert "install libxdp1" in out
    assert "attached None" in out
