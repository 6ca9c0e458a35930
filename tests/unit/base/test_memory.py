# SPDX-License-Identifier: Apache-2.0
"""How much memory may be taken: recorded trees of machines and containers, this process's limits, a real cgroup."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT
from toolkit._base import memory
from toolkit.capture import Queueing
from toolkit.interface import open_interface, open_tee

MB, GB = 1 << 20, 1 << 30
V2_MOUNT = "35 25 0:30 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "32 31 0:32 {root} {point} rw,relatime - cgroup cgroup rw,memory"


class Tree:
    """What a machine shows of itself, recorded."""

    def __init__(self, root: Path, total: int = 16 * GB, free: int = 12 * GB) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {total >> 10} kB\nMemFree: 1 kB\nMemAvailable: {free >> 10} kB\n")
        self.write("proc/self/cgroup", "")
        self.write("proc/self/mountinfo", "")

    def write(self, path: str, text: object) -> None:
        """Write one file of it."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    def v2(self, path: str, limit: object, used: int, *, high: object = "max", files: int = 0) -> None:
        """Write one cgroup below /sys/fs/cgroup."""
        for name, value in (("max", limit), ("high", high), ("current", used)):
            self.write(f"sys/fs/cgroup{path}/memory.{name}", value)
        self.write(
            f"sys/fs/cgroup{path}/memory.stat", f"anon 1\ninactive_file {files - 1}\nactive_file 1\nshmem 9999999"
        )

    def v1(self, path: str, limit: int, used: int, files: int = 0) -> None:
        """Write one cgroup of the first version."""
        place = f"sys/fs/cgroup/memory{path}"
        self.write(f"{place}/memory.limit_in_bytes", limit)
        self.write(f"{place}/memory.usage_in_bytes", used)
        self.write(f"{place}/memory.stat", f"inactive_file 7\ntotal_inactive_file {files}\ntotal_active_file 0")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A machine of 16 GB, 12 of them free."""
    monkeypatch.setattr(memory, "_ROOT", tmp_path)
    return Tree(tmp_path)


def test_without_cgroups_it_is_the_machine(tree: Tree) -> None:
    assert memory.available() == (16 * GB, 12 * GB, "this machine")


def test_the_tightest_cgroup_on_the_way_up_counts(tree: Tree) -> None:
    tree.write("proc/self/mountinfo", V2_MOUNT.format(root="/", point="/sys/fs/cgroup"))
    tree.write("proc/self/cgroup", "0::/a.slice/b.service/c")
    tree.write("sys/fs/cgroup/memory.stat", "anon 1")  # the top has no limits
    tree.v2("/a.slice", 300 * MB, 200 * MB, files=50 * MB)
    tree.v2("/a.slice/b.service", "max", 150 * MB, high=400 * MB)
    tree.v2("/a.slice/b.service/c", 2 * GB, 100 * MB)
    found = memory.available()
    assert found[:2] == (300 * MB, 150 * MB)
    assert found.where.endswith("/a.slice (memory.max)")
    tree.v2("/a.slice/b.service", "max", 150 * MB, high=160 * MB)  # from there on it is slowed down
    assert memory.available()[:2] == (160 * MB, 10 * MB)
    tree.v2("/a.slice/b.service/c", 90 * MB, 100 * MB)  # lowered since
    assert memory.available()[:2] == (90 * MB, 0)


@pytest.mark.parametrize(
    ("mount", "ours", "place"),
    [
        ("/", "/docker/1234", "/docker/1234"),  # the host
        ("/docker/1234", "/docker/1234", ""),  # a container that sees its part
        ("/", "/", ""),  # a namespace of its own
        ("/../..", "/../../elsewhere", ""),  # moved out of what the namespace shows
    ],
)
def test_the_first_version_and_containers(tree: Tree, mount: str, ours: str, place: str) -> None:
    tree.write("proc/self/mountinfo", "broken\n" + V1_MOUNT.format(root=mount, point="/sys/fs/cgroup/memory"))
    tree.write("proc/self/cgroup", f"5:cpuset:/\n4:cpu,memory:{ours}\n1:name=systemd:/")
    tree.v1("", (1 << 63) - 4096, 8 * GB)
    tree.v1(place, 70 * MB, 60 * MB, files=20 * MB)
    assert memory.available()[:2] == (70 * MB, 30 * MB)


def test_a_cgroup_without_a_limit_is_none(tree: Tree) -> None:
    tree.write("proc/self/mountinfo", V1_MOUNT.format(root="/", point="/sys/fs/cgroup/memory"))
    tree.write("proc/self/cgroup", "4:memory:/x")
    tree.v1("/x", (1 << 63) - 4096, 8 * GB)
    assert memory.available().where == "this machine"


def test_defaults_follow_what_is_there(tree: Tree) -> None:
    assert Queueing().room == 256 * MB
    assert open_interface._ring_size(1, 2048) == 8192
    assert open_interface._ring_size(64, 2048) == 512
    assert open_tee._size(1, None, 1600) == 32 * MB
    for total, room in ((1, 64), (8, 128), (1024, 256)):
        Tree(tree.root, total * GB, total * GB)
        assert Queueing().room == room * MB
    Tree(tree.root, 16 * GB, 40 * MB)
    assert Queueing().room == 10 * MB
    assert open_interface._ring_size(1, 2048) == 4096  # 10 MB of frames
    assert open_interface._ring_size(4, 2048) == 1024
    assert open_tee._size(1, None, 1600) == 8 * MB
    Tree(tree.root, 16 * GB, 0)
    assert Queueing().room == 1 * MB
    assert open_interface._ring_size(4, 2048) == 64
    assert open_tee._size(1, None, 1600) == 4096
    assert Queueing(limit=1 * GB).room == 1 * GB  # who says how much, gets it


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_the_processs_own_limits_count(limit: str) -> None:
    code = f"""
    import resource
    from toolkit.capture import Queueing
    from toolkit._base.memory import available
    used = available()
    fields = open("/proc/self/statm").read().split()
    now = int(fields[{0 if limit == "RLIMIT_AS" else 5}]) * resource.getpagesize()
    resource.setrlimit(resource.{limit}, (now + {40 * MB}, resource.RLIM_INFINITY))
    found = available()
    assert {30 * MB} < found.free <= {40 * MB}, found
    assert "ulimit" in found.where
    assert {7 * MB} < Queueing().room <= {10 * MB}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)


@contextlib.contextmanager
def cgroup(limit: int) -> Iterator[Path]:
    """A real one, of either version; skips where none can be made."""
    name = f"xsk-test-{os.getpid()}"
    for place, file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        made = Path(place, name)
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / file).write_text(str(limit))
        except OSError:
            made.rmdir()
            continue
        try:
            yield made
        finally:
            until = time.monotonic() + 20
            while (made / "cgroup.procs").read_text() and time.monotonic() < until:
                time.sleep(0.02)
            made.rmdir()
        return
    pytest.skip("no memory cgroup can be made here: it needs root, and a /sys/fs/cgroup that may be written")


@pytest.mark.parametrize("name", ["x.pcapng", "x.parquet"])
def test_a_capture_lives_in_a_small_cgroup_whatever_its_disk_does(tmp_path: Path, name: str) -> None:
    """Nobody reads the FIFO: what waits stays within what the cgroup has, and the rest is counted."""
    code = f"""
    import os, sys
    sys.path.insert(0, {str(ROOT)!r})
    from tests.helpers.captures import batch_of, frames
    from toolkit.capture import Capture, Queueing
    from toolkit._base.memory import available
    found = available()
    assert "cgroup" in found.where, found
    path = {str(tmp_path / name)!r}
    if path.endswith("pcapng"):
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    capture = Capture(None, path, queueing=Queueing(timeout=0.0, stalled=0.2))
    batch = batch_of(frames(2000, 1500))
    for turn in range(120):  # 360 MB
        capture.write(batch)
    print(capture.statistics().write_dropped > 0)
    try:
        capture.close()
    except Exception as refused:
        print(refused)
    """
    with cgroup(130 * MB if name.endswith("parquet") else 70 * MB) as made:
        inside = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        command = ["sh", "-c", inside, str(made), sys.executable, "-c", textwrap.dedent(code)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, (ran.returncode, ran.stderr)  # -9: killed for want of memory
    if name.endswith("pcapng"):
        assert ran.stdout.startswith("True\n"), ran.stdout
