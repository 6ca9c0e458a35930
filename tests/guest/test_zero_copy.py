# SPDX-License-Identifier: Apache-2.0
"""Zero-copy: when it is chosen, and that what was posted leaves, or that the error says why it does not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import toolkit
from tests.helpers.cable import Cable
from tests.helpers.drivers import assert_whole, missing, numbered, opened
from tests.helpers.sending import Tap, sent_frames
from tests.helpers.waiting import MODES as WAITS
from tests.helpers.waiting import busy_polling_or_not
from tests.helpers.wire import Wire, eventually
from toolkit.abi.libbpf import libbpf
from toolkit.errors import ArgumentError, DetachedError, SystemCallError

pytestmark = busy_polling_or_not
Seen = Callable[[str], None]


@contextlib.contextmanager
def program(cable: Cable, mode: Any) -> Iterator[None]:
    """The program of opened(), attached: without a socket it passes everything on."""
    with (
        toolkit.Program.build(filter="ether proto 0x88b5", map_entries={"xsks_map": 64}) as built,
        built.attach(cable.interface, mode=mode, netns=cable.netns),
    ):
        cable.set_up()
        yield


def refusal(sends: Callable[[], bool]) -> SystemCallError | None:
    """What was said when it was tried to send; None if all was sent."""
    try:
        assert sends(), "neither sent nor refused"
    except SystemCallError as refused:
        return refused
    return None


def test_auto_is_zero_copy_where_the_driver_runs_a_program(cable: Cable, nic: str, seen: Seen) -> None:
    def bound(**how: Any) -> bool:
        with toolkit.Socket(cable.interface, netns=cable.netns, **how) as sock:
            return sock.zero_copy

    found = {"no program": bound()}
    with program(cable, "generic"):
        found["generic"] = bound()
    if not missing("native", nic):
        with program(cable, "native"):
            found["native"] = bound()
            assert not bound(zero_copy=False)
    able = not missing("zero-copy", nic)
    assert found == {one: one == "native" and able for one in found}
    with pytest.raises(ArgumentError, match="contradict each other"):
        opened(cable, "generic", zero_copy=True)
    seen(", ".join(f"{one}: {'zero-copy' if zero_copy else 'copy mode'}" for one, zero_copy in found.items()))


@pytest.mark.parametrize("mode", ["zero-copy"], indirect=True)
@pytest.mark.parametrize("wait", WAITS)
def test_without_a_program_it_leaves_or_the_error_says_why(cable: Cable, mode: str, wait: Any, seen: Seen) -> None:
    packets = sent_frames(64)
    with (
        toolkit.Socket(cable.interface, zero_copy=True, tx_size=64, wait=wait, netns=cable.netns) as sock,
        Tap.far(cable) as tap,
    ):
        assert sock.zero_copy
        assert not sock.receive(0.3), "nobody redirects to it: that is no error"
        refused = refusal(lambda: sock.send(packets) == 64 and sock.flush(10.0))
        if refused is not None:
            assert "native mode" in str(refused)
            assert "`zero_copy=False`" in str(refused)
            assert sock.umem.audit()["tx"] == 64, "they stay in the ring"
            with program(cable, "native"):
                assert sock.flush(20.0), "with a program they leave"
        assert_whole(tap.take(64), packets)
        assert sock.umem.audit()["tx"] == 0
    seen("sent" if refused is None else f"refused ({refused.errno}); sent once a program was attached")


@pytest.mark.parametrize("wait", WAITS)
def test_what_waits_can_be_sent_back_after_the_end_of_taking(cable: Cable, mode: str, wait: Any, seen: Seen) -> None:
    """A driver that has lost its program sends no more: commands stop to take first, and detach when all is sent."""
    packets, late = numbered(32), sent_frames(32, start=100)
    with opened(cable, mode, wait=wait) as near, Wire(cable) as wire, Tap.far(cable) as tap:
        wire.send(packets)
        assert eventually(lambda: near.wait(0.01) and sum(sock.rx.available(32) for sock in near.sockets) == 32)
        near.stop_taking()
        wire.send(late)
        assert eventually(lambda: near.counters()["no_socket"] == 32)
        while batch := near.receive(timeout=0.2):
            assert near.send(batch) == len(batch)
        assert near.flush(10.0)
        assert_whole(tap.take(32), packets)
        near.detach()
        assert near.counters()["redirected"] == 32
        assert near.statistics().dropped == 0
    seen("32 of 32 waiting frames went back to the peer, 32 later ones to the kernel")


@pytest.mark.parametrize("wait", WAITS)
def test_a_program_that_was_taken_off_is_named(cable: Cable, mode: str, wait: Any, seen: Seen) -> None:
    packets = sent_frames(32)
    with opened(cable, mode, wait=wait) as near, Tap.far(cable) as tap:
        assert near.send(packets) == 32
        assert near.flush(10.0)
        assert_whole(tap.take(32), packets)
        assert libbpf().bpf_link_detach(near.link._descriptor.fd) == 0  # as `xsk detach --force` does
        refused = refusal(lambda: near.send(packets) == 32 and near.flush(20.0))
        assert refused is None or isinstance(refused, DetachedError)
        assert refused is None or "took the XDP program" in str(refused)
        with pytest.raises(DetachedError, match="took the XDP program"):
            near.receive(timeout=10.0)
    cable.set_up()
    seen(f"{'sent without it' if refused is None else 'refused, and named'}; receive() raises")


@pytest.mark.parametrize("wait", WAITS)
def test_it_sends_and_receives_again_after_down_and_up(cable: Cable, mode: str, wait: Any, seen: Seen) -> None:
    with opened(cable, mode, wait=wait) as near, Wire(cable) as wire, Tap.far(cable) as tap:
        for turn in range(2):
            cable.netns.run(["ip", "link", "set", cable.interface, "down"], check=True)
            try:
                with contextlib.suppress(SystemCallError):  # ENETDOWN, where the driver says so
                    near.send(sent_frames(8, start=1000 * turn), timeout=0.5)
                    near.flush(0.2)
                assert not near.receive(timeout=0.5), "nothing comes, and that is no error"
            finally:
                cable.set_up()
            packets = sent_frames(32, start=1000 * turn + 500)
            assert near.send(packets, timeout=20.0) == 32
            assert near.flush(20.0)
            assert tap.take(40, timeout=2.0)[-32:] == packets  # those of the time before may have got lost, or not
            wire.send(packets)
            got: list[bytes] = []
            assert eventually(lambda some=got: some.extend(map(bytes, near.receive(timeout=0.1))) or len(some) >= 32)
            assert got == packets
    seen("32 of 32 frames each way, twice")
