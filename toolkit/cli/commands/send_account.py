# SPDX-License-Identifier: Apache-2.0
"""What became of the packets of `xsk send`, made here or recorded."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from toolkit.cli.view import output
from toolkit.cli.view.losses import drop_reasons
from toolkit.errors import DeviceGoneError
from toolkit.xsk.socket import Socket
from toolkit.xsk.statistics import Statistics

__all__ = ["FRAMES", "conclude", "summary"]

FRAMES = 4096  # of the UMEM
_FLUSH = 2.0  # seconds that the last packets have to leave


def summary(sock: Socket, packets: int, octets: int, began: float) -> dict[str, Any]:
    """Wait until the kernel is done, and say what became of the packets.

    `sent` were put into the TX ring; the kernel returned the frames of `completed`, and counts those that it refused.
    """
    seconds = time.monotonic() - began
    with contextlib.suppress(DeviceGoneError):
        sock.flush(_FLUSH)
    statistics = sock.statistics()
    return {
        "interface": sock.interface,
        "driver": sock.device.driver,
        "queue": sock.queue,
        "zero_copy": sock.zero_copy,
        "sent": packets,
        "sent_bytes": octets,
        "completed": packets - int(sock.umem.audit()["tx"]),
        "invalid": statistics.tx_invalid_descs,
        "drop_reasons": drop_reasons(statistics),
        "seconds": round(seconds, 3),
    }


def conclude(report: dict[str, Any]) -> None:
    """Print what became of the packets."""
    seconds = max(report["seconds"], 1e-9)
    output.say(
        f"{report['sent']:,} packets, {report['sent_bytes']:,} bytes in {report['seconds']:.1f} s "
        f"({output.count(report['sent'] / seconds)} packets/s)",
        output.equation(
            "sent",
            report["sent"],
            {
                "completed": report["completed"],
                "refused by the kernel": report["invalid"],
                "still with the kernel": report["sent"] - report["completed"] - report["invalid"],
            },
        ),
        *output.kernel_counters(Statistics(**report["drop_reasons"]), sending=True),
    )
