# SPDX-License-Identifier: Apache-2.0
"""Bad input and bad days: each is a clear error, with nothing lost and nothing left attached."""

from __future__ import annotations

import gc
import socket
import struct
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from support import Wire, assert_all_free, frame, numbers, piece_by_piece, run_child

import toolkit
from toolkit.errors import (
    ArgumentError,
    ClosedError,
    DeviceGoneError,
    FilterError,
    FrameError,
    StaleBatchError,
    SystemCallError,
    ToolkitError,
)
from toolkit.lab import Lab
from toolkit.program import Program, attached
from toolkit.umem import UMEM

pytestmark = pytest.mark.timeout(60)


def what_runs(lab: Lab) -> object:
    """What is attached to the near end."""
    with lab.netns.entered():
        index = socket.if_nametoindex(lab.interface)
    return attached(index, lab.netns)


@pytest.fixture
def near(lab: Lab) -> Iterator[toolkit.Interface]:
    """The near end, open for everything."""
    with toolkit.open("veth0", filter="all", netns=lab.netns) as interface:
        yield interface


# --- input that cannot work -----------------------------------------------------------------------------------------


def test_no_such_interface(lab: Lab) -> None:
    for make in (
        lambda: toolkit.open("nosuch0", filter="all", netns=lab.netns),
        lambda: toolkit.Socket("nosuch0", netns=lab.netns),
    ):
        with pytest.raises(SystemCallError, match=r"nosuch0.*No such device.*ip link") as caught:
            make()
        assert caught.value.errno == 19


@pytest.mark.parametrize("name", ["", "a name", "x" * 16, "a/b", "nul\0", "tab\t", None, 7])
def test_no_name_for_an_interface(lab: Lab, name: str) -> None:
    with pytest.raises(ArgumentError, match="interface"):
        toolkit.open(name, filter="all", netns=lab.netns)


def test_interface_down(lab: Lab) -> None:
    lab.set_down()
    for make in (
        lambda: toolkit.open("veth0", filter="all", netns=lab.netns),
        lambda: toolkit.Socket("veth0", netns=lab.netns),
    ):
        with pytest.raises(SystemCallError, match=r"veth0.*interface is down.*ip link set dev veth0 up") as caught:
            make()
        assert caught.value.errno == 100
    assert what_runs(lab) is None


def test_queue_out_of_range(lab: Lab) -> None:
    for make in (
        lambda: toolkit.open("veth0", filter="all", queues=[0, 1], netns=lab.netns),
        lambda: toolkit.Socket("veth0", 1, netns=lab.netns),
    ):
        with pytest.raises(SystemCallError, match=r"queue 1 of veth0.*has 1 receive queue.*ethtool -L") as caught:
            make()
        assert caught.value.errno == 22
    with pytest.raises(ArgumentError, match="queue"):
        toolkit.Socket("veth0", -1, netns=lab.netns)
    with pytest.raises((ArgumentError, SystemCallError), match="queue"):
        toolkit.open("veth0", filter="all", queues=[-1], netns=lab.netns)
    assert what_runs(lab) is None


def test_queue_taken(make_lab: Callable[..., Lab]) -> None:
    """Also halfway through an open(): what was bound and attached before goes again."""
    lab = make_lab(queues=2)
    with toolkit.Socket("veth0", 1, netns=lab.netns):
        begin = time.monotonic()
        with pytest.raises(SystemCallError, match=r"queue 1 of veth0.*another AF_XDP socket.*xsk status") as caught:
            toolkit.open("veth0", filter="all", netns=lab.netns)
        assert caught.value.errno == 16
        assert time.monotonic() - begin < 5
        assert what_runs(lab) is None
        with toolkit.Socket("veth0", 0, netns=lab.netns):
            pass


def test_a_program_without_room_for_the_queue(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=4)
    with (
        Program.build("xsk_redirect.c", map_entries={"xsks_map": 2}) as program,
        pytest.raises(ArgumentError, match=r"no room for queue 2.*map_entries"),
    ):
        toolkit.open("veth0", program=program, netns=lab.netns)
    assert what_runs(lab) is None


def test_a_foreign_program_is_named_and_left_alone(lab: Lab) -> None:
    with Program.build("xdp_pass.c") as foreign, foreign.attach("veth0", netns=lab.netns) as link:
        with pytest.raises(SystemCallError, match=rf"program {foreign.id} \(xdp_pass\).*replace=True") as caught:
            toolkit.open("veth0", filter="all", netns=lab.netns)
        assert caught.value.errno in (16, 17)
        assert f"program {foreign.id} " in str(what_runs(lab))
        assert not link.closed


def test_a_filter_that_libpcap_refuses(lab: Lab) -> None:
    with pytest.raises(FilterError, match="syntax error"):
        toolkit.open("veth0", filter="udp prot 53", netns=lab.netns)
    assert what_runs(lab) is None
    with pytest.raises(ArgumentError, match="filter="):
        toolkit.open("veth0", netns=lab.netns)


@pytest.mark.parametrize(
    "shape",
    [
        {"frame_size": 1024},
        {"frame_size": 3000},
        {"frame_size": 8192},
        {"frame_size": 0},
        {"frames": 0},
        {"frames": -1},
        {"frames": 3, "frame_size": 2048},
        {"frames": 1 << 25},
        {"headroom": 4000},
        {"headroom": -1},
        {"fill_size": 100},
        {"comp_size": 0},
        {"fill_size": -4},
    ],
)
def test_a_umem_that_the_kernel_would_refuse(shape: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match=r"refused|fit"):
        UMEM(**shape)


@pytest.mark.parametrize("size", [0, 3, 1000, -8, 1 << 21])
def test_a_ring_size_that_the_kernel_would_refuse(lab: Lab, size: int) -> None:
    with pytest.raises(ArgumentError, match="power-of-two"):
        toolkit.Socket("veth0", rx_size=size, netns=lab.netns)
    with pytest.raises(ArgumentError, match="power-of-two"):
        toolkit.open("veth0", filter="all", ring_size=size, netns=lab.netns)
    assert what_runs(lab) is None


def test_our_refusals_are_the_kernels(lab: Lab) -> None:
    """The kernel is asked itself: what UMEM refuses it refuses, what UMEM takes it takes."""
    for frame_size in (1024, 2048, 3000, 4096, 8192):
        with toolkit.Socket("veth0", netns=lab.netns):
            pass
        with socket.socket(44, socket.SOCK_RAW, 0) as raw:
            import ctypes
            import mmap

            memory = mmap.mmap(-1, 1 << 20)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            registration = struct.pack("=QQIIIx3x", address, 1 << 20, frame_size, 0, 0)
            try:
                raw.setsockopt(283, 4, registration)
                accepted = True
            except OSError:
                accepted = False
        assert accepted == (frame_size in (2048, 4096)), frame_size


# --- privilege ------------------------------------------------------------------------------------------------------

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


# --- libraries ------------------------------------------------------------------------------------------------------

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


# --- the device goes ------------------------------------------------------------------------------------------------


def receive_for(seconds: float, receive: Callable[..., toolkit.Batch], timeout: float) -> None:
    """Receive, and throw away, until the time is over or an exception comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        receive(timeout=timeout)


@pytest.mark.parametrize("how", ["waiting", "polling"])
@pytest.mark.parametrize("level", ["interface", "socket"])
def test_the_device_deleted_while_receiving(lab: Lab, wire: Wire, how: str, level: str) -> None:
    """Deleted under a sleeping receiver and under one that never sleeps: noticed within a second or two."""
    program = Program.build("xsk_redirect.c")
    sock = toolkit.Socket("veth0", netns=lab.netns) if level == "socket" else None
    interface = None if sock else toolkit.open("veth0", program=program, netns=lab.netns)
    if sock:
        program.register(sock)
        program.attach("veth0", netns=lab.netns)
    receive = (sock or interface).receive  # type: ignore[union-attr]
    receive(timeout=0)
    wire.send([frame(1)])
    assert numbers(receive(timeout=5.0)) == [1]
    threading.Timer(0.2, lab.delete_interface).start()
    begin = time.monotonic()
    with pytest.raises(DeviceGoneError, match=r"veth0.*deleted.*ip link"):
        receive_for(10, receive, 10 if how == "waiting" else 0)
    assert time.monotonic() - begin < 3
    with pytest.raises(DeviceGoneError):  # and again, not a hang, when asked again
        receive_for(1.5, receive, 0.5)
    umem = (sock or interface).umem  # type: ignore[union-attr]
    counts = umem.audit()
    assert sum(counts[kind] for kind in counts if kind != "frames") == counts["frames"]
    (sock or interface).close()  # type: ignore[union-attr]
    program.close()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()


def test_set_down_while_receiving(lab: Lab, wire: Wire, near: toolkit.Interface) -> None:
    """An interface that is set down delivers nothing, and goes on where it was once it is up again, or says it is gone.

    What the kernel does: AF_XDP sockets stay bound (no SO_ERROR is raised), so receive() just times out.
    """
    wire.send([frame(1)])
    assert numbers(near.receive(timeout=5.0)) == [1]
    lab.set_down()
    assert not near.receive(timeout=0.5)
    lab.set_up()
    deadline = time.monotonic() + 5
    got: list[int] = []
    while not got and time.monotonic() < deadline:
        try:
            wire.send([frame(2)])
        except OSError:  # ENETDOWN: the far end has no carrier yet
            time.sleep(0.01)
            continue
        got = numbers(near.receive(timeout=0.1))
    assert got[:1] == [2]


# --- close ----------------------------------------------------------------------------------------------------------


def test_close_twice_and_use_after_close(lab: Lab, wire: Wire) -> None:
    interface = toolkit.open("veth0", filter="all", netns=lab.netns)
    (sock,) = interface.sockets
    program, umem, link = interface.program, interface.umem, interface.link
    rx, tx, fill, completion = sock.rx, sock.tx, sock.fill, sock.completion
    wire.send([frame(1)])
    batch = interface.receive(timeout=5.0)
    view = batch.packet(0)
    interface.close()
    interface.close()
    sock.close()
    umem.close()
    program.close()
    link.close()
    assert interface.closed
    assert sock.closed
    assert umem.closed
    assert program.closed
    assert link.closed
    uses: list[Callable[[], object]] = [
        lambda: interface.receive(timeout=0),
        lambda: interface.receive(),
        interface.statistics,
        interface.counters,
        interface.detach,
        lambda: sock.receive(timeout=0),
        lambda: sock.wait(0),
        sock.fileno,
        sock.statistics,
        lambda: sock.on_close(print),
        lambda: program.register(sock),
        lambda: program.attach("veth0", netns=lab.netns),
        umem.audit,
        umem.alloc_frame,
        lambda: umem.free_frame(0),
        lambda: umem.get(toolkit.XDPDesc(0, 10)),
        rx.peek,
        lambda: rx.get(0),
        lambda: rx.get_batch(0, 4),
        lambda: rx.release(0),
        rx.receive,
        lambda: rx.available(1 << 20),
        lambda: tx.reserve(tx.size),
        lambda: tx.set(0, toolkit.XDPDesc(0, 1)),
        lambda: tx.put(np.zeros((1, 2), np.uint64)),
        tx.notify,
        tx.wake,
        lambda: fill.set(0, 0),
        lambda: fill.fill_all(umem),
        fill.wake,
        completion.peek,
        lambda: completion.free_all(umem),
        lambda: batch.packet(0),
    ]
    for number, use in enumerate(uses):
        try:
            pytest.fail(f"use {number} after close gave {use()!r}")
        except ClosedError as refused:
            caught = refused
        assert "closed" in str(caught) or isinstance(caught, StaleBatchError), (number, caught)
    for one in (interface, sock, program, umem, link, rx, tx, fill, completion, batch):
        assert repr(one)
    assert bytes(view) == frame(1), "a view that is still held keeps the memory"
    assert what_runs(lab) is None


@pytest.mark.parametrize("level", ["interface", "socket"])
@pytest.mark.parametrize("how", ["blocked", "spinning"])
def test_close_from_another_thread(make_lab: Callable[..., Lab], level: str, how: str) -> None:
    """Many times: the receiver gets ClosedError soon, whatever it was doing, and everything is gone."""
    lab = make_lab()
    program = Program.build("xsk_redirect.c")
    with Wire(lab) as wire, program:
        for turn in range(15):
            if level == "socket":
                target: toolkit.Socket | toolkit.Interface = toolkit.Socket("veth0", netns=lab.netns)
                program.register(target)
                program.attach("veth0", netns=lab.netns)
            else:
                target = toolkit.open("veth0", program=program, ring_size=256, netns=lab.netns)
            outcome: list[BaseException] = []
            started = threading.Event()

            def receive(target=target, outcome=outcome, started=started) -> None:  # type: ignore[no-untyped-def]
                try:
                    target.receive(timeout=0)
                    started.set()
                    while True:
                        target.receive(timeout=None if how == "blocked" else 0)
                except BaseException as ended:
                    outcome.append(ended)

            thread = threading.Thread(target=receive)
            thread.start()
            assert started.wait(5)
            if turn % 3:
                wire.send([frame(i) for i in range(20 * turn)])
            begin = time.monotonic()
            target.close()
            thread.join(5)
            assert not thread.is_alive()
            assert time.monotonic() - begin < 2
            assert type(outcome[0]) is ClosedError, outcome
            for link in program.links:
                link.close()
            assert what_runs(lab) is None


def test_two_threads_closing_at_once(lab: Lab) -> None:
    for _ in range(10):
        interface = toolkit.open("veth0", filter="all", ring_size=64, netns=lab.netns)
        errors: list[BaseException] = []

        def close(interface=interface, errors=errors) -> None:  # type: ignore[no-untyped-def]
            try:
                interface.close()
                assert all(sock._core.fd < 0 for sock in interface.sockets), "close() returned before it was done"
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not errors, errors


def test_two_threads_receiving(lab: Lab) -> None:
    """The second gets an error that says so; the first goes on."""
    for make in (
        lambda: toolkit.open("veth0", filter="all", netns=lab.netns),
        lambda: toolkit.Socket("veth0", netns=lab.netns),
    ):
        with make() as target:
            result: list[object] = []
            thread = threading.Thread(target=lambda target=target, result=result: result.append(target.receive(1.0)))  # type: ignore[misc]
            thread.start()
            time.sleep(0.2)
            with pytest.raises(ToolkitError, match="two threads"):
                target.receive(timeout=0.1)
            thread.join()
            assert len(result) == 1
            assert not target.receive(timeout=0)


def test_a_forgotten_socket_leaves_its_umem_usable(lab: Lab, wire: Wire) -> None:
    with Program.build("xsk_redirect.c") as program, UMEM(256, 2048) as umem:
        for turn in range(5):
            sock = toolkit.Socket("veth0", umem=umem, netns=lab.netns)
            program.register(sock)
            with program.attach("veth0", netns=lab.netns):
                sock.receive(timeout=0)
                wire.send([frame(turn)])
                assert numbers(sock.receive(timeout=5.0)) == [turn]
                del sock
                gc.collect()
                assert_all_free(umem)
                before = program.counters
                wire.send([frame(turn)])
                assert program.counters["redirected"] == before["redirected"], "its XSKMAP entry is still there"


def test_closing_a_umem_under_a_socket_is_refused(lab: Lab) -> None:
    with UMEM(64) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns):
        with pytest.raises(ToolkitError, match="close the Socket first"):
            umem.close()
        umem.audit()


# --- descriptors that lie -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addr", "length"),
    [(1 << 63, 10), (64 * 2048, 1), (64 * 2048 - 1, 2), (2047, 2), (0, 2049), (-1, 1), (0, -1), ((1 << 64) - 1, 64)],
)
def test_a_descriptor_outside_the_umem(addr: int, length: int) -> None:
    with UMEM(64, 2048) as umem:
        with pytest.raises(FrameError, match="not within one frame"):
            umem.get(toolkit.XDPDesc(addr, length))
        assert len(umem.get(toolkit.XDPDesc(64 * 2048 - 1, 1))) == 1
        assert len(umem.get(toolkit.XDPDesc(5, 0))) == 0


@pytest.mark.parametrize("addr", [64 * 2048, 1 << 40, (1 << 64) - 1, -1])
def test_a_foreign_or_free_frame_is_not_freed(addr: int) -> None:
    with UMEM(64, 2048) as umem:
        with pytest.raises((FrameError, OverflowError), match=r"outside|out of bounds|too large"):
            umem.free_frame(addr)
        mine = umem.alloc_frame()
        umem.free_frame(mine + 100)
        with pytest.raises(FrameError, match="freed twice"):
            umem.free_frame(mine)
        assert_all_free(umem)


@pytest.mark.parametrize("addr", [1 << 62, 256 * 2048, 0])
def test_a_corrupted_rx_ring_entry(lab: Lab, wire: Wire, addr: int) -> None:
    """A descriptor that names a frame outside the UMEM, or one that the kernel was not lent: FrameError, no bytes."""
    with (
        Program.build("xsk_redirect.c") as program,
        UMEM(256, 2048) as umem,
        toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock,
    ):
        free = umem.alloc_frames(256)  # so that address 0 is the user's, not the kernel's
        umem.free_frames(free[free != 0])
        sock.fill.fill_all(umem, 64)
        with piece_by_piece(program, lab, sock):
            wire.send([frame(1)])
            assert sock.wait(5.0)
            entries = sock.rx._memory.entries
            assert entries is not None
            entries[sock.rx.next_index & sock.rx.mask, 0] = addr
            del entries
            with pytest.raises(FrameError):
                sock.receive(timeout=0)
            with pytest.raises(FrameError):
                sock.rx.peek()
            with pytest.raises(FrameError):
                umem.get(toolkit.XDPDesc(addr, 4096))
        counts = umem.audit()
        assert counts["received"] == 0, "nothing was handed out"
        umem.free_frame(0)


def test_a_fill_ring_entry_outside_the_umem_is_refused_before_the_kernel_sees_it(lab: Lab) -> None:
    with UMEM(64, 2048) as umem, toolkit.Socket("veth0", umem=umem, netns=lab.netns) as sock:
        n, index = sock.fill.reserve(1)
        assert n == 1
        sock.fill.set(index, 64 * 2048)
        with pytest.raises(FrameError, match="outside the UMEM"):
            sock.fill.notify()
        sock.fill.unreserve(1)
        assert sock.statistics().rx_invalid_descs == 0
        assert sock.fill.fill_all(umem, 32) == 32
