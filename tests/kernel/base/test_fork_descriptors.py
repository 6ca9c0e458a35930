# SPDX-License-Identifier: Apache-2.0
"""A forked child holds no descriptor and no shared mapping of anything that its parent has open here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers import worker_jobs
from tests.helpers.forks import forks_with_threads
from toolkit.capture import Capture
from toolkit.lab import Lab
from toolkit.program import Program
from toolkit.rings import RingMemory
from toolkit.workers import Workers

pytestmark = forks_with_threads


def opened() -> dict[str, str]:
    """What each descriptor of this process is."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


def shared() -> set[str]:
    """What is mapped that writes to a file or to the kernel: libraries are private."""
    with open("/proc/self/maps") as maps:
        return {line for line in maps if line.split()[1].endswith("s")}


def both(held: Any) -> Any:
    """The same, once its asyncio side is made too."""

    async def wait() -> None:
        await held.areceive(timeout=0.01)

    asyncio.run(wait())
    return held


def own_rings(lab: Lab) -> Any:
    """A Socket, and a ring of it that is mapped by its own offsets."""
    from toolkit.abi.if_xdp import SOL_XDP, XDP_MMAP_OFFSETS, XDP_PGOFF_RX_RING, parse_mmap_offsets

    stack = contextlib.ExitStack()
    sock = stack.enter_context(toolkit.Socket("veth0", netns=lab.netns))
    offsets = parse_mmap_offsets(sock._core.sock.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, 128)).rx
    memory = RingMemory.from_offsets(sock.fileno(), XDP_PGOFF_RX_RING, offsets, sock.rx.size, 16)
    stack.callback(memory.close)
    return stack


def attached_program(lab: Lab) -> Any:
    stack = contextlib.ExitStack()
    program = stack.enter_context(Program.build("xdp_pass.c"))
    stack.enter_context(program.attach("veth0", netns=lab.netns))
    return stack


THINGS: dict[str, Callable[[Lab, Path], Any]] = {
    "Interface": lambda lab, _: both(toolkit.open("veth0", filter="udp", netns=lab.netns)),
    "busy Interface": lambda lab, _: toolkit.open("veth0", filter="udp", netns=lab.netns, wait="busy-poll"),
    "Tee": lambda lab, _: both(toolkit.tee("veth0", filter="udp", netns=lab.netns)),
    "Socket": lambda lab, _: toolkit.Socket("veth0", netns=lab.netns),
    "Socket with rings by offsets": lambda lab, _: own_rings(lab),
    "Program": lambda lab, _: attached_program(lab),
    "Capture": lambda _, path: Capture(None, path / "x.pcapng"),
    "compressed Capture": lambda _, path: Capture(None, path / "x.pcap.gz"),
    "Capture to Parquet": lambda _, path: Capture(None, path / "x.parquet"),
    "dataset": lambda _, path: Capture(None, f"{path}/ds/"),
    "rotating Capture": lambda _, path: Capture(None, path / "x.pcap", rotate_bytes=1 << 20, rotate_files=2),
    "Workers": lambda lab, _: Workers("veth0", worker_jobs.count, filter="udp", workers=1, netns=lab.netns),
    "Lab": lambda *_: Lab(),
}


@pytest.mark.parametrize("thing", THINGS)
def test_nothing_inherited_stays_open_in_a_child(lab: Lab, tmp_path: Path, thing: str) -> None:
    with Lab() as other:  # what is made once, libraries and threads, is made
        (tmp_path / "first").mkdir()
        THINGS[thing](other, tmp_path / "first").close()
    before, mapped = opened(), shared()
    with THINGS[thing](lab, tmp_path):
        mine = {fd: what for fd, what in opened().items() if before.get(fd) != what}
        assert mine, "it opened nothing: the test looks in the wrong place"
        maps = shared() - mapped
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                kept = {fd: what for fd, what in opened().items() if mine.get(fd) == what}
                os.write(writer, json.dumps([kept, sorted(shared() & maps)]).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader) as answer:
            descriptors, mappings = json.loads(answer.read())
        os.waitpid(pid, 0)
        assert descriptors == {}
        assert mappings == []
