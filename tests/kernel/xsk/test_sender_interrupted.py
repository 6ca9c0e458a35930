# SPDX-License-Identifier: Apache-2.0
"""KeyboardInterrupt while sending: at every line over plain rings, and by SIGINT at random moments on the real kernel.

A packet may be late or not sent at all; it is not sent twice or damaged, and no frame is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import toolkit
from tests.helpers.interrupts import Interrupt, every_line
from tests.helpers.sending import RING, U32, PlainCore, Tap, assert_in_order, plain_socket, stream
from tests.helpers.storms import Storm, accounted, strike
from tests.helpers.wire import Wire, assert_all_free, eventually, frame, number_of
from toolkit.forward.forwarder import Forwarder
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.umem.receiving import ReceiveAccount
from toolkit.umem.umem import UMEM
from toolkit.xsk.sender import Sender

pytestmark = pytest.mark.timing("signals at random moments of a loop, which moves on when it has a CPU")


class Sending:
    """A Sender in the middle of its work: packets in the TX ring, in the kernel and in the completion ring."""

    def __init__(self) -> None:
        self.umem = UMEM(24, 2048)
        core: Any = PlainCore(self.umem, U32 - 10)
        self.core, self.sender = core, Sender(core, core.tx)
        self.received = ReceiveAccount(self.umem.ledger, self.umem.new_holder())
        self.sender.send(stream(0, 7))  # completed
        self.sender.send(stream(7, 4), kick=False)  # in the TX ring
        addresses = self.umem.ledger.alloc(5, self.received.received)
        self.descs = np.stack([addresses + np.uint64(256), np.full(5, 64, np.uint64)], axis=1)
        assert self.umem.memory is not None
        for address, row in zip(self.descs[:, 0].tolist(), stream(11, 5), strict=True):
            self.umem.memory[address : address + 64] = row

    def pass_on(self) -> None:
        left = self.sender.pass_on(self.descs, 0.1)
        self.umem.recycle(left[:, 0])

    def pass_on_one(self) -> None:
        for address, length in self.descs.tolist():
            self.sender.pass_on_one(toolkit.XDPDesc(address, length, 0))
        self.sender.kick()

    def one_more(self) -> None:
        address = self.umem.alloc_frame()
        assert self.umem.memory is not None
        self.umem.memory[address : address + 64] = stream(100, 1)[0]
        if not self.sender.pass_on_one(toolkit.XDPDesc(address, 64, 0)):
            self.umem.free_frame(address)

    def settled(self) -> None:
        """The source of received packets goes on as well; then nothing is anywhere but free."""
        self.received.free_received()
        assert self.sender.flush(2.0), self.umem.audit()
        assert_all_free(self.umem)
        numbers = assert_in_order(self.core.left)
        assert numbers[:11] == list(range(11)), "what was in the ring before must leave"


WORK: dict[str, Callable[[Sending], object]] = {
    "send": lambda one: one.sender.send(stream(11, RING + 3)),
    "send one": lambda one: one.sender.send([frame(11)]),
    "flush": lambda one: one.sender.flush(1.0),
    "reclaim": lambda one: one.sender.reclaim(),
    "kick": lambda one: one.sender.kick(),
    "pass_on": Sending.pass_on,
    "pass_on_one": Sending.pass_on_one,
}
AFTERWARDS: dict[str, Callable[[Sending], object]] = {
    "flush": lambda one: None,
    "send": lambda one: one.sender.send(stream(100, 30)),
    "reclaim": lambda one: one.sender.reclaim(),
    "pass_on_one": lambda one: one.one_more(),
    "close": lambda one: one.sender._settle(),
}


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize("work", WORK)
def test_an_interrupt_at_every_line(work: str, afterwards: str) -> None:
    def one_line(k: int) -> bool:
        one = Sending()
        interrupt = Interrupt(k)
        try:
            struck = interrupt.run(lambda: WORK[work](one))
            assert not one.core.tx_guard.locked(), "the lock is held for ever"
            AFTERWARDS[afterwards](one)
            one.settled()
        except BaseException as failure:
            raise AssertionError(f"after an interrupt at line {k}, {interrupt.where}") from failure
        finally:
            one.umem.close()
            one.core.sock.close()
        return struck

    assert every_line(one_line) > 5


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["send", "one by one", "flush", "timeouts"])
def test_sigint_in_a_sending_loop(lab: Lab, style: str) -> None:
    """At moments spread over the loop: each time the Socket sends on, and at the end every frame is free."""
    with Tap.far(lab) as tap, plain_socket(lab, frames=128) as sock, Storm() as storm:
        number, last = 0, -1

        def loop() -> None:
            nonlocal number
            while True:
                # Counted first: what an interrupted send() had put into the ring may leave.
                first, number = number, number + (1 if style == "one by one" else 90)
                sock.send(stream(first, number - first), timeout=0 if style == "timeouts" else None)
                if style == "flush":
                    sock.flush()

        for turn in range(80):
            strike(storm, loop)
            audit = accounted(sock.umem)
            assert audit["retired"] == audit["rx"] == 0
            if turn % 40 == 39:
                assert sock.flush(5.0)
                assert_all_free(sock.umem)
                numbers = assert_in_order(tap.take(1, quiet=0.2))
                assert last < numbers[0] <= numbers[-1] < number
                last = numbers[-1]
        assert storm.sent == 80
        assert last > 500


def test_sigint_and_then_the_end_of_the_with_block(lab: Lab) -> None:
    """The usual way out of a loop: close() right after the interrupt. On a UMEM that lives on, nothing is lost."""
    with UMEM(128, 2048, fill_size=64, comp_size=64) as umem, Storm(7) as storm:
        for _ in range(60):
            with toolkit.Socket("veth0", umem=umem, rx_size=64, tx_size=64, netns=lab.netns) as sock:

                def loop(sock: toolkit.Socket = sock) -> None:
                    while True:
                        sock.send(stream(0, 90))
                        sock.flush()

                strike(storm, loop)
            assert_all_free(umem)


@pytest.fixture
def forwarder(lab: Lab) -> Iterator[Forwarder]:
    with toolkit.open("veth0", filter="all", ring_size=64, frames=128, netns=lab.netns) as near:
        yield Forwarder(near, near, lambda batch: batch.lengths >= 0)


def test_sigint_in_a_forwarding_loop(lab: Lab, forwarder: Forwarder) -> None:
    umem = forwarder._umem
    with Tap.far(lab) as tap, Wire(lab) as wire, Storm(5) as storm:
        number = 0

        def loop() -> None:
            nonlocal number
            while True:
                first, number = number, number + 20
                wire.send([frame(i) for i in range(first, number)])
                forwarder.step(0)

        for _ in range(100):
            strike(storm, loop)
            assert accounted(umem)["retired"] == 0
        got: list[bytes] = []
        while forwarder.step(0.1):
            got += tap.take(0, quiet=0)
        assert forwarder._source.flush(5.0)
        got += tap.take(0, quiet=0.2)
        numbers = [number_of(one) for one in got]
        assert all(one == frame(number_of(one)) for one in got)
        assert len(numbers) == len(set(numbers)), "a packet was forwarded twice"
        assert len(numbers) > 500
        # Whole again: what is not lent for receiving is free.
        wire.send([frame(1)])
        assert eventually(lambda: forwarder.step(0.1))
        assert forwarder._source.flush(5.0)
        audit = accounted(umem)
        assert audit["free"] + audit["rx"] == audit["frames"], audit


def test_a_signal_handler_that_sends_while_send_is_interrupted(lab: Lab) -> None:
    """It is refused, and breaks nothing."""
    import signal

    from toolkit.errors import ToolkitError

    said: list[str] = []
    with Tap.far(lab) as tap, plain_socket(lab) as sock:

        def handler(*_: Any) -> None:
            with contextlib.suppress(ToolkitError):
                try:
                    sock.send([frame(1)])
                except ToolkitError as refused:
                    said.append(str(refused))
                    raise

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        try:
            for turn in range(100):
                assert sock.send(stream(100 + 500 * turn, 500)) == 500
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert sock.flush(5.0)
        got = [number_of(one) for one in tap.take(50_000)]
        assert [number for number in got if number >= 100] == list(range(100, 50_100))
        assert all("signal handler" in text for text in said)
        assert_all_free(sock.umem)


def test_a_program_that_ends_while_it_sends(lab: Lab) -> None:
    """No close() at all: the next process binds the queue."""
    from tests.helpers.wire import run_child

    netns = lab.netns.fileno()
    run_child(
        f"""
        import toolkit, os
        class Given:
            def fileno(self):
                return {netns}
        sock = toolkit.Socket("veth0", netns=Given())
        sock.send([bytes(64)] * 1000)
        os._exit(0)
        """,
        pass_fds=[netns],
    )
    with Program.build("xsk_redirect.c", filter="all"), plain_socket(lab) as sock:
        assert sock.send(stream(0, 10)) == 10
