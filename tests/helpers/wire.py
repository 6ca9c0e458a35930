# SPDX-License-Identifier: Apache-2.0
"""Wires, frames and children for the kernel tests: packets made and seen by the kernel's own AF_PACKET sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import toolkit
from tests.helpers import ROOT
from toolkit._base.netns import entered
from toolkit._base.records import netns_here
from toolkit.errors import ToolkitError
from toolkit.lab import Lab
from toolkit.program import attached
from toolkit.umem.umem import UMEM

ETHERTYPE = 0x88B5  # IEEE Std 802: local experimental; no kernel answers it
NEAR_MAC, FAR_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
HEADER = NEAR_MAC + FAR_MAC + struct.pack("!H", ETHERTYPE)
PACKET_IGNORE_OUTGOING = 23  # linux/if_packet.h

DEADLINE = 20.0  # seconds: by then what has to come has come, on a busy machine too


def frame(number: int, length: int = 64) -> bytes:
    """An Ethernet frame of `length` bytes (14 or more) that tells its number and can be checked byte for byte."""
    body = struct.pack("!I", number & 0xFFFFFFFF) + bytes((number + i) & 0xFF for i in range(min(length, 256)))
    return (HEADER + body * (length // len(body) + 1))[:length]


def number_of(packet: bytes | memoryview) -> int:
    """The number that frame() wrote."""
    return int(struct.unpack_from("!I", packet, 14)[0])


def numbers(batch: toolkit.Batch) -> list[int]:
    """The numbers of all packets of a batch, in order."""
    return [number_of(packet) for packet in batch]


def checksum(data: bytes) -> int:
    words = np.frombuffer(data + b"\0" * (len(data) & 1), ">u2").astype(np.uint64)
    total = int(words.sum())
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(payload: bytes, source_port: int = 1000, port: int = 9000) -> bytes:
    """A UDP datagram from the far to the near host of a Lab, in Ethernet, without a UDP checksum."""
    source, target = socket.inet_aton("10.11.0.2"), socket.inet_aton("10.11.0.1")
    udp = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0) + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source, target)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return NEAR_MAC + FAR_MAC + b"\x08\x00" + ip + udp


class Wire:
    """Raw access to one end of a Lab's cable, by AF_PACKET: send() frames, receive() what arrives there."""

    def __init__(self, lab: Lab, *, near: bool = False) -> None:
        self.name = lab.interface if near else lab.peer
        with (lab.netns if near else lab.far).entered():
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))  # ETH_P_ALL
            self.sock.bind((self.name, 0x0003))
        self.sock.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)  # SOL_PACKET
        self.sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)  # SO_RCVBUFFORCE

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, frames: Sequence[bytes]) -> None:
        for one in frames:
            while True:
                try:
                    self.sock.send(one)
                    break
                except OSError as refused:
                    if refused.errno != 105:  # ENOBUFS: the queue is full for now
                        raise
                    time.sleep(0.0005)

    def receive(self, count: int, timeout: float = DEADLINE) -> list[bytes]:
        """The next `count` frames that arrive at this end, fewer after `timeout` seconds."""
        self.sock.settimeout(0.05)
        got: list[bytes] = []
        deadline = time.monotonic() + timeout
        while len(got) < count and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                got.append(self.sock.recv(65536))
        return got


@contextlib.contextmanager
def piece_by_piece(
    program: toolkit.Program, lab: Lab, *sockets: toolkit.Socket, interface: str | None = None, mode: Any = "auto"
) -> Iterator[toolkit.Link]:
    """Attach and register, for the length of the block; frames are posted before."""
    for sock in sockets:
        program.register(sock)
    with program.attach(interface or lab.interface, mode=mode, netns=lab.netns) as link:
        yield link


def collect(
    receive: Callable[..., toolkit.Batch], count: int, timeout: float = DEADLINE, idle: float | None = None
) -> list[bytes]:
    """Packets from receive() as bytes until there are `count`, or for `timeout` s, or nothing came for `idle` s."""
    got: list[bytes] = []
    deadline = time.monotonic() + timeout
    while len(got) < count and (left := deadline - time.monotonic()) > 0:
        batch = receive(timeout=min(left, idle or left))
        if not batch and idle is not None:
            break
        got += [bytes(packet) for packet in batch]
    return got


def drain(receive: Callable[..., toolkit.Batch], quiet: float = 0.2) -> int:
    """Receive until nothing comes for `quiet` seconds; the number of packets."""
    total = 0
    while batch := receive(timeout=quiet):
        total += len(batch)
    return total


def what_runs(lab: Lab) -> object:
    """What is attached to the near end."""
    with lab.netns.entered():
        index = socket.if_nametoindex(lab.interface)
    return attached(index, lab.netns)


def assert_all_free(umem: UMEM) -> None:
    audit = umem.audit()
    assert audit["free"] == audit["frames"], audit


def netns_cookie(path: str) -> int:
    """The number of a network namespace that never comes back; its inode does, as soon as it is gone."""
    with entered(path):
        return netns_here()[1]


def netns_in_use(inode: int, cookie: int) -> bool:
    """Whether any process lives in this network namespace or holds it. Others on this machine may get its inode."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            paths = [f"/proc/{pid}/ns/net", *(f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd"))]
            for path in paths:
                with contextlib.suppress(OSError, ToolkitError):
                    if os.readlink(path) == f"net:[{inode}]" and netns_cookie(path) == cookie:
                        return True
    return False


def eventually(condition: Callable[[], Any], timeout: float = DEADLINE, step: float = 0.01) -> Any:
    """Poll `condition` until it is true; its last value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(step)
    return value


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for this signal."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        return any(line.startswith("SigCgt:") and int(line.split()[1], 16) >> number - 1 & 1 for line in status)
    return False


def child_environment(**extra: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | extra


def run_child(code: str, *wrapper: str, timeout: float = 60, status: int = 0, **popen: Any) -> str:
    """Run Python text in a process of its own (behind `wrapper`, say setpriv), check its exit status; its stdout."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=child_environment(),
        check=False,
        **popen,
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    out: str = done.stdout
    return out


STAMP = 42  # where the generator's frames carry their number: u64 and its complement, big-endian


def stamps(batch: toolkit.Batch) -> np.ndarray[Any, Any]:
    """The numbers that a generator wrote into its frames; every one is checked against its complement."""
    words = np.ascontiguousarray(batch.head(64)[:, STAMP : STAMP + 16]).view(">u8")
    assert (words[:, 0] ^ words[:, 1] == 2**64 - 1).all()
    return words[:, 0].astype(np.uint64)
