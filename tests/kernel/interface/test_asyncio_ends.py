# SPDX-License-Identifier: Apache-2.0
"""Receiving in asyncio, ended: cancelled, closed, forgotten, interrupted, forked, or with the device gone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.waiting import MODES_AND_TEE as MODES
from tests.helpers.waiting import busy_polling_or_not
from tests.helpers.waiting import near_or_tee as near
from tests.helpers.wire import Wire, child_environment, frame, numbers
from toolkit.errors import ClosedError, DeviceGoneError, ToolkitError
from toolkit.lab import Lab

pytestmark = busy_polling_or_not


@pytest.mark.parametrize("mode", MODES)
def test_cancelling_leaves_the_interface_whole(lab: Lab, wire: Wire, mode: str) -> None:
    async def main() -> None:
        with near(lab, mode) as interface:
            for turn in range(30):
                task = asyncio.create_task(interface.areceive())
                await asyncio.sleep(0.001 * (turn % 3))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            wire.send([frame(5)])
            assert numbers(await interface.areceive(timeout=5.0)) == [5]
            wire.send([frame(6)])
            assert numbers(interface.receive(timeout=5.0)) == [6]

    asyncio.run(main())


def test_no_packet_is_lost_by_cancelling(lab: Lab, wire: Wire) -> None:
    """Cancelled at random moments while packets arrive: each is in a Batch that some call returned."""
    got: list[int] = []

    async def main() -> None:
        with near(lab) as interface:

            async def feed() -> None:
                for i in range(400):
                    wire.send([frame(i)])
                    await asyncio.sleep(0.0002)

            async def one() -> None:
                got.extend(numbers(await interface.areceive()))

            feeder = asyncio.create_task(feed())
            while len(got) < 400:
                task = asyncio.create_task(one())
                await asyncio.sleep(0.0007)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await feeder

    asyncio.run(asyncio.wait_for(main(), 30))
    assert got == list(range(400))


@pytest.mark.timing("the end is due in 1.5 s")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("style", ["areceive", "async for"])
@pytest.mark.parametrize("where", ["task", "thread", "executor"])
def test_closing_while_awaiting(lab: Lab, mode: str, style: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.wait.aio._SLICE", 10)  # so that only the wake-up can end it in time

    async def consume(interface: Any) -> str:
        if style == "async for":
            async for _ in interface:
                pass
            return "ended"
        try:
            await interface.areceive()
        except ClosedError:
            return "refused"
        return "returned"

    async def main() -> None:
        interface = near(lab, mode)
        task = asyncio.create_task(consume(interface))
        await asyncio.sleep(0.1)
        begin = time.monotonic()
        if where == "task":
            interface.close()
        elif where == "executor":
            await asyncio.get_running_loop().run_in_executor(None, interface.close)
        else:
            threading.Thread(target=interface.close).start()
        assert await task == ("ended" if style == "async for" else "refused")
        assert time.monotonic() - begin < 1.5
        await asyncio.get_running_loop().run_in_executor(None, interface.close)  # until the other one is done
        assert interface.program.closed
        with pytest.raises(ClosedError):
            await interface.areceive()
        assert [batch async for batch in interface] == []

    asyncio.run(main())


@pytest.mark.timing("the end is due in 1.5 s")
@pytest.mark.parametrize("mode", MODES)
def test_the_device_vanishes(lab: Lab, mode: str) -> None:
    async def main() -> None:
        with near(lab, mode) as interface:
            asyncio.get_running_loop().call_later(0.1, lab.delete_interface)
            begin = time.monotonic()
            with pytest.raises(DeviceGoneError):
                async for _ in interface:
                    pass
            assert time.monotonic() - begin < 1.5

    asyncio.run(main())


def test_two_tasks_and_a_thread_are_refused(lab: Lab, wire: Wire) -> None:
    async def main() -> None:
        with near(lab) as interface:
            task = asyncio.create_task(interface.areceive(timeout=5.0))
            await asyncio.sleep(0.05)
            with pytest.raises(ToolkitError, match="two threads or tasks"):
                await interface.areceive()
            with pytest.raises(ToolkitError, match="two threads or tasks"):
                interface.receive(timeout=0)
            wire.send([frame(1)])
            assert numbers(await task) == [1]

    asyncio.run(main())


def test_many_loops_after_one_another(lab: Lab, wire: Wire) -> None:
    """A loop that ended in the middle of a wait leaves nothing that the next one stumbles over."""

    async def begin(interface: Any) -> None:
        task = asyncio.create_task(interface.areceive())
        await asyncio.sleep(0.01)
        assert not task.done()

    async def one(interface: Any, i: int) -> None:
        wire.send([frame(i)])
        assert numbers(await interface.areceive(timeout=5.0)) == [i]

    with near(lab) as interface:
        for i in range(5):
            asyncio.run(begin(interface))
            asyncio.run(one(interface, i))


def test_a_descriptor_that_comes_back_is_another(lab: Lab, make_lab: Callable[..., Lab], wire: Wire) -> None:
    """Closing gives descriptor numbers free while the loop runs; what opens next gets them, and is served."""

    async def main() -> None:
        for i in range(10):
            with near(lab) as interface:
                task = asyncio.create_task(interface.areceive())
                await asyncio.sleep(0.005)
                interface.close()
                with near(lab) as other:
                    with pytest.raises(ClosedError):
                        await task
                    wire.send([frame(i)])
                    assert numbers(await other.areceive(timeout=5.0)) == [i]

    asyncio.run(main())


def test_a_forgotten_interface_goes(lab: Lab) -> None:
    async def main() -> None:
        interface = near(lab)
        await interface.areceive(timeout=0.05)
        gone = weakref.ref(interface)
        del interface
        gc.collect()
        assert gone() is None

    asyncio.run(main())


LOOP = """
    import asyncio, sys
    import toolkit
    class Given:
        def fileno(self):
            return int(sys.argv[1])
    async def main():
        with toolkit.open("veth0", filter="all", ring_size=64, netns=Given()) as interface:
            print("ready", flush=True)
            try:
                async for batch in interface:
                    pass
            finally:
                assert interface.umem.audit()["rx"] > 0
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_sigint_ends_the_loop(lab: Lab) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LOOP), str(lab.netns.fileno())],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[lab.netns.fileno()],
        env=child_environment(),
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=10)
    assert out == "interrupted\n"
    assert child.returncode == 0


def test_a_forked_child_does_not_disturb(lab: Lab, wire: Wire) -> None:
    async def main() -> None:
        with near(lab) as interface:
            await interface.areceive(timeout=0.01)
            pid = os.fork()
            if pid == 0:
                os._exit(0 if interface.closed else 1)
            assert os.waitpid(pid, 0)[1] == 0
            wire.send([frame(3)])
            assert numbers(await interface.areceive(timeout=5.0)) == [3]

    asyncio.run(main())


@pytest.mark.timing("the end is due in 1.5 s")
@pytest.mark.parametrize("mode", MODES)
def test_wake_ends_what_waits_for_good(lab: Lab, wire: Wire, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.wait.aio._SLICE", 10)  # so that only the wake-up can end it in time

    async def main() -> None:
        with near(lab, mode) as interface:
            loop = asyncio.get_running_loop()
            began = loop.time()
            loop.call_later(0.1, threading.Thread(target=interface.wake).start)
            assert not await interface.areceive()
            assert not await interface.areceive()
            assert loop.time() - began < 1.5
            wire.send([frame(1)])
            await asyncio.sleep(0.05)
            assert [numbers(batch) async for batch in interface] == [[1]]

    asyncio.run(asyncio.wait_for(main(), 20))
