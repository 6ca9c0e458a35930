# SPDX-License-Identifier: Apache-2.0
"""Sending by two threads, and a Socket that is closed or forgotten while it sends."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import pytest

import toolkit
from tests.helpers.sending import Tap, hold_the_completion_ring, in_thread, let_go, send_for_ever, stream
from tests.helpers.wire import assert_all_free, eventually, frame, number_of
from toolkit.errors import ClosedError, ToolkitError
from toolkit.lab import Lab

if TYPE_CHECKING:
    from tests.helpers.accounts import Accounts


def test_two_threads_that_send_are_reported(sock: toolkit.Socket) -> None:
    held = hold_the_completion_ring(sock)
    thread, result = in_thread(lambda: sock.send(stream(0, 500), timeout=20.0))
    assert eventually(sock._core.tx_guard.locked)
    for call in (lambda: sock.send([frame(1)]), lambda: sock.flush(0), sock.reclaim):
        with pytest.raises(ToolkitError, match="two threads send on queue 0 of veth0 at once"):
            call()
    let_go(sock, held)
    thread.join(20)
    assert result == [500]
    assert sock.send([frame(1)]) == 1
    sock.flush(5.0)
    assert_all_free(sock.umem)


def test_two_threads_that_do_not_listen_break_nothing(lab: Lab, sock: toolkit.Socket) -> None:
    """Each packet that was accepted arrives once; each refusal is the one above."""
    accepted: list[int] = []

    refusals: list[str] = []

    def send(base: int) -> None:
        for number in range(base, base + 2000):
            try:
                if sock.send(stream(number, 1), timeout=5.0):
                    accepted.append(number)
            except ToolkitError as said:
                refusals.append(str(said))

    with Tap.far(lab) as tap:
        threads = [in_thread(functools.partial(send, base)) for base in (0, 10_000)]
        for thread, _ in threads:
            thread.join(30)
        assert [result for _, result in threads] == [[None], [None]]
        assert all("two threads" in said for said in refusals)
        assert sock.flush(5.0)
        got = [number_of(one) for one in tap.take(len(accepted))]
        assert sorted(got) == sorted(accepted)
    assert_all_free(sock.umem)


@pytest.mark.timing("the end is due 2 s after close()")
@pytest.mark.parametrize("call", ["send", "flush"])
def test_close_while_another_thread_waits_to_send(sock: toolkit.Socket, call: str, conservation: Accounts) -> None:
    """The waiting call ends with ClosedError, at once."""
    conservation.may_retire = 64  # what the full completion ring keeps in the TX ring
    n, index = hold_the_completion_ring(sock)
    sock.send(stream(0, 200), timeout=0)
    thread, result = in_thread((lambda: sock.send(stream(0, 200))) if call == "send" else sock.flush)
    assert eventually(sock._core.tx_guard.locked)
    sock.umem.free_frames(sock.completion.get_batch(index, n))
    begin = time.monotonic()
    sock.close()
    assert time.monotonic() - begin < 2
    thread.join(5)
    assert isinstance(result[0], ClosedError), result


@pytest.mark.timing("the end is due 2 s after close()")
@pytest.mark.parametrize("length", [1, 200_000])
def test_close_while_another_thread_sends_without_end(sock: toolkit.Socket, length: int) -> None:
    thread, result = in_thread(lambda: send_for_ever(sock, stream(0, length)))
    assert eventually(sock._core.tx_guard.locked)
    begin = time.monotonic()
    sock.close()
    assert time.monotonic() - begin < 2
    thread.join(5)
    assert isinstance(result[0], ClosedError), result
    assert_all_free(sock.umem)
    for call in (lambda: sock.send([frame(1)]), sock.flush, sock.reclaim):
        with pytest.raises(ClosedError):
            call()


def test_a_socket_forgotten_while_packets_are_on_their_way(lab: Lab, conservation: Accounts) -> None:
    """Garbage collection instead of close(): what left arrives, and the queue is free for the next Socket."""
    conservation.may_retire = 30  # a finalizer does not wait for the kernel
    with Tap.far(lab) as tap, toolkit.UMEM(64, 2048, fill_size=64, comp_size=64) as umem:
        sock = toolkit.Socket("veth0", umem=umem, tx_size=64, rx_size=64, netns=lab.netns)
        assert sock.send(stream(0, 30)) == 30
        del sock
        assert len(tap.take(30)) == 30
        with toolkit.Socket("veth0", umem=umem, tx_size=64, rx_size=64, netns=lab.netns) as another:
            assert another.send(stream(0, 100)) == 100
            assert len(tap.take(100)) == 100
