# SPDX-License-Identifier: Apache-2.0
"""Receiving in Python without AF_XDP, one job a process: an AF_PACKET socket with recv_into, and scapy."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Callable

from benchmarks.commands import Commands

__all__ = ["main"]

INTERFACE = "veth0"
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
_IDLE = 0.02  # seconds without a packet after which commands of the parent are read


def af_packet() -> None:
    """Receive, count, drop: one recv_into a packet."""
    received = dropped = 0
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    wire.bind((INTERFACE, ETH_P_ALL))
    # Not settimeout(), with which Python would call poll() before every packet.
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, int(_IDLE * 1e6)))
    buffer = bytearray(2048)
    recv_into = wire.recv_into

    def counts() -> dict[str, int]:
        nonlocal dropped
        statistics = wire.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)  # reading resets
        dropped += int.from_bytes(statistics[4:8], sys.byteorder)
        return {"received": received, "dropped": dropped}

    commands = Commands(counts)
    commands.ready()
    while True:
        try:
            while True:
                recv_into(buffer)
                received += 1
        except BlockingIOError:
            if not commands.answer():
                return


def scapy() -> None:
    """Count what scapy's sniff() delivers."""
    from scapy.sendrecv import AsyncSniffer

    received = 0

    def note(_: object) -> None:
        nonlocal received
        received += 1

    sniffer = AsyncSniffer(iface=INTERFACE, store=False, prn=note)
    sniffer.start()
    time.sleep(0.3)
    commands = Commands(lambda: {"received": received})
    commands.ready()
    while commands.answer(1.0):
        pass


JOBS: dict[str, Callable[[], None]] = {"af_packet": af_packet, "scapy": scapy}


def main() -> None:
    """Do the job that the command line names."""
    JOBS[sys.argv[1]](**json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
