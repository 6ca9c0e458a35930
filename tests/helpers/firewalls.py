# SPDX-License-Identifier: Apache-2.0
"""A firewall that was attached by netlink, known by what it drops; and places of one's own for pins."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cli import ENVIRONMENT
from tests.helpers.wire import ETHERTYPE, Wire, catches, eventually, frame, number_of
from toolkit._base import records
from toolkit.abi import libbpf as abi
from toolkit.lab import Lab
from toolkit.program import Attached, Program, attached, pins

__all__ = ["FIREWALL", "Machine", "by_netlink", "drops", "held_by_netlink", "own_places", "present"]

# Drops what has this number in its first byte behind the Ethernet header; everything else passes.
FIREWALL = """
#include <uapi/linux/bpf.h>
int firewall(struct xdp_md *ctx)
{
    unsigned char *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    return data + 18 <= end && data[12] == 0x88 && data[17] == 13 ? XDP_DROP : XDP_PASS;
}
"""


@contextlib.contextmanager
def held_by_netlink(
    lab: Lab, mode: int = abi.XDP_FLAGS_DRV_MODE, text: str = "xdp_pass.c", interface: str = "veth0"
) -> Iterator[Program]:
    """A program attached as `ip link set dev veth0 xdp` does: it outlives its descriptor, which the block has open."""
    with Program.build(text) as program:
        with lab.netns.entered():
            index = socket.if_nametoindex(interface)
            assert abi.libbpf().bpf_xdp_attach(index, program.fd, mode | abi.XDP_FLAGS_UPDATE_IF_NOEXIST, None) == 0
        yield program


def by_netlink(lab: Lab, mode: int = abi.XDP_FLAGS_DRV_MODE, text: str = FIREWALL, interface: str = "veth0") -> int:
    """Attach such a program, and let go of it: its id."""
    with held_by_netlink(lab, mode, text, interface) as program:
        return program.id


def present(lab: Lab, interface: str = "veth0") -> Attached | None:
    """What runs on the near end."""
    with lab.netns.entered():
        return attached(socket.if_nametoindex(interface))


def drops(lab: Lab) -> bool:
    """Whether the firewall is at work: of ten numbered frames it lets nine through, to the kernel."""
    with Wire(lab, near=True) as near, Wire(lab) as far:
        far.send([frame(number) for number in range(8, 18)])
        got: list[int] = []

        def all_are_here() -> bool:
            arrived = near.receive(1, timeout=0.1)
            got.extend(number_of(one) for one in arrived if one[12:14] == ETHERTYPE.to_bytes(2, "big"))
            return 17 in got

        eventually(all_are_here)
    assert [number for number in range(8, 18) if number != 13] == [number for number in got if number != 13]
    return 13 not in got


@contextlib.contextmanager
def _bpffs(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@contextlib.contextmanager
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a fixture: pins and records of this process alone; none may be left."""
    with _bpffs(tmp_path / "bpf") as place:
        monkeypatch.setattr(pins, "DIRECTORY", place / "afxdp-toolkit")
        monkeypatch.setattr(records, "DIRECTORY", tmp_path / "records")
        yield
        assert not list((tmp_path / "records").glob("*.json")), "a record was left"
        assert not list((place / "afxdp-toolkit").glob("*")), "a pin was left"


class Machine:
    """A mount namespace with a /run and a BPF file system of its own, for commands that may be killed."""

    def __init__(self) -> None:
        script = "mount -t tmpfs run /run && mount -t bpf bpf /sys/fs/bpf && echo ready && exec cat"
        self._keeper = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "ready\n"
        self._enter = ["nsenter", "-t", str(self._keeper.pid), "-m", "--"]

    def close(self) -> None:
        """End it; its mounts go with it."""
        self._keeper.kill()
        self._keeper.communicate()

    def left(self) -> list[str]:
        """Pins and records."""
        root = f"/proc/{self._keeper.pid}/root"
        found = []
        for place in ("/run/afxdp-toolkit", "/sys/fs/bpf/afxdp-toolkit"):
            with contextlib.suppress(FileNotFoundError):
                found += [name for name in os.listdir(root + place) if name != "lock"]
        return found

    def xsk(self, lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `xsk` to its end."""
        return lab.netns.run(
            [*self._enter, sys.executable, "-m", "toolkit.cli", *arguments],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    @contextlib.contextmanager
    def running(
        self, lab: Lab, *arguments: str, program: str = "xsk_redirect", shell: str = ":"
    ) -> Iterator[subprocess.Popen[str]]:
        """`xsk` at work, once its program is attached; killed at the end of the block if it is there still.

        shell: what a shell does before it becomes `xsk`.
        """
        process: subprocess.Popen[Any] = lab.netns.popen(
            [*self._enter, "sh", "-c", f'{shell}; exec "$0" "$@"', sys.executable, "-m", "toolkit.cli", *arguments],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:

            def attached_now() -> bool:
                found = present(lab)
                return process.poll() is not None or (found is not None and found.program.name.startswith(program))

            assert eventually(attached_now, timeout=30)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> tuple[str, str]:
    """Send it a signal; what it printed."""
    assert eventually(lambda: catches(process.pid, how))
    process.send_signal(how)
    return process.communicate(timeout=30)
