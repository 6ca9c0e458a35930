# SPDX-License-Identifier: Apache-2.0
"""Receiving in asyncio: every packet, in time, and the loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.waiting import MODES_AND_TEE as MODES
from tests.helpers.waiting import busy_polling_or_not
from tests.helpers.waiting import near_or_tee as near
from tests.helpers.wire import Wire, frame, numbers, run_child, stamps
from toolkit.errors import StaleBatchError
from toolkit.lab import Lab

pytestmark = [
    busy_polling_or_not,
    pytest.mark.timing("a veth loses packets when its softirq or the receiver waits too long for a CPU"),
]


@pytest.mark.parametrize("mode", MODES)
def test_payloads_arrive_as_sent(lab: Lab, wire: Wire, mode: str) -> None:
    sent = [frame(i, 60 + i) for i in range(300)]

    async def main() -> list[bytes]:
        got: list[bytes] = []
        ticks = 0

        async def beside() -> None:
            nonlocal ticks
            for i in range(0, 300, 10):
                wire.send(sent[i : i + 10])
                await asyncio.sleep(0.001)
                ticks += 1

        with near(lab, mode) as interface:
            task = asyncio.create_task(beside())
            async for batch in interface:
                got += [bytes(packet) for packet in batch]
                if len(got) >= len(sent):
                    break
            assert task.done() or len(got) == 300
            await task
            assert ticks == 30
        return got

    assert asyncio.run(main()) == sent


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("queues", [1, 2])
def test_nothing_is_lost_at_100_000_a_second(make_lab: Callable[..., Lab], mode: str, queues: int) -> None:
    lab = make_lab(queues=queues)

    async def main() -> None:
        seen: list[np.ndarray[Any, Any]] = []
        # A ring that holds more than half a second: on a shared machine a process may have to wait for its turn.
        with (
            near(lab, mode, ring_size=65536) as interface,
            lab.generator(rate=100_000, count=50_000, cpu=1) as generator,
        ):
            threads = threading.active_count()
            while batch := await interface.areceive(timeout=1.0):
                seen.append(stamps(batch))
            assert threading.active_count() == threads
            assert interface.statistics().dropped == 0
            redirected = interface.counters()["redirected"]
            assert generator.wait(10).sent == 50_000
        numbers = np.concatenate(seen)
        assert len(np.unique(numbers)) == len(numbers) == redirected > 47_500  # a busy veth may lose some before XDP

    asyncio.run(main())


def test_two_interfaces_in_one_loop(make_lab: Callable[..., Lab]) -> None:
    labs = [make_lab(queues=2), make_lab(queues=2)]

    async def count(interface: Any) -> list[int]:
        got: list[int] = []
        while batch := await interface.areceive(timeout=1.0):
            got += numbers(batch)
        return got

    async def feed(wire: Wire, first: int) -> None:
        for i in range(first, first + 100):
            wire.send([frame(i)])
            await asyncio.sleep(0.0005)

    async def main() -> None:
        with near(labs[0]) as one, near(labs[1]) as two, Wire(labs[0]) as left, Wire(labs[1]) as right:
            results = await asyncio.gather(count(one), count(two), feed(left, 0), feed(right, 1000))
        assert results[0] == list(range(100))
        assert results[1] == list(range(1000, 1100))

    asyncio.run(main())


def test_the_next_batch_makes_the_last_one_stale(lab: Lab, wire: Wire) -> None:
    async def main() -> None:
        with near(lab, ring_size=64) as interface:
            wire.send([frame(1)])
            first = await interface.areceive(timeout=5.0)
            assert numbers(first) == [1]
            wire.send([frame(2)])
            second = await interface.areceive(timeout=5.0)
            with pytest.raises(StaleBatchError):
                numbers(first)
            assert numbers(second) == [2]
            for i in range(300):  # more than there are frames
                wire.send([frame(i)])
                assert numbers(await interface.areceive(timeout=5.0)) == [i]

    asyncio.run(main())


@pytest.mark.timing("a timeout is kept to 0.2 s, as far as a CPU is free then")
@pytest.mark.parametrize("mode", MODES)
def test_the_timeout_is_kept_and_the_loop_goes_on(lab: Lab, mode: str) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        with near(lab, mode) as interface:
            task = asyncio.create_task(tick())
            for timeout in (0, 0.001, 0.5):
                begin = time.monotonic()
                assert not await interface.areceive(timeout=timeout)
                assert timeout <= time.monotonic() - begin + 0.002 < timeout + 0.2
            assert ticks > 10
            task.cancel()

    asyncio.run(main())


def test_other_tasks_run_while_packets_come_without_end(lab: Lab) -> None:
    async def main() -> None:
        late: list[float] = []

        async def tick() -> None:
            while True:
                begin = time.monotonic()
                await asyncio.sleep(0.001)
                late.append(time.monotonic() - begin)

        with near(lab) as interface, lab.generator(seconds=0.7, cpu=1):
            task = asyncio.create_task(tick())
            batches = 0
            while await interface.areceive(timeout=0.3):
                batches += 1
            task.cancel()
        assert batches > 20
        assert len(late) > 20

    asyncio.run(main())


@pytest.mark.parametrize("mode", MODES)
def test_every_call_lets_the_other_tasks_run(lab: Lab, wire: Wire, mode: str) -> None:
    async def main() -> None:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        with near(lab, mode) as interface:
            wire.send([frame(i) for i in range(50)])
            task = asyncio.create_task(turn())
            for i in range(50):  # they are all there: no call needs to wait
                assert numbers(await interface.areceive(timeout=5.0, limit=1)) == [i]
            assert turns >= 45
            task.cancel()

    asyncio.run(main())


@pytest.mark.timing("the CPU time of half a second")
def test_an_idle_loop_sleeps(lab: Lab) -> None:
    async def main() -> float:
        with near(lab) as interface:
            cpu = time.thread_time()
            await interface.areceive(timeout=0.5)
            return time.thread_time() - cpu

    assert asyncio.run(main()) < 0.05


def test_asyncio_is_imported_at_use() -> None:
    run_child("import sys, toolkit; assert 'asyncio' not in sys.modules; assert 'toolkit.wait.aio' not in sys.modules")
