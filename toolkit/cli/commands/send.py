# SPDX-License-Identifier: Apache-2.0
"""`xsk send`: packets out of an interface, as fast as it goes or at a rate. What arrives there is not touched."""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit.cli.binding import Binding
from toolkit.cli.commands.pacer import Pacer
from toolkit.cli.commands.send_packets import Flood
from toolkit.cli.spelling import message_of
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine, Reading
from toolkit.errors import DeviceGoneError, SystemCallError, kernel_error
from toolkit.umem.umem import UMEM
from toolkit.xsk.socket import Socket

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["FRAMES", "conclude", "explained", "run", "summary"]

FRAMES = 4096
_U32 = 0xFFFFFFFF
_FLUSH = 2.0  # seconds that the last packets have to leave


@dataclass
class Sent:
    """What the TX ring took so far."""

    packets: int = 0


def run(
    interface: str,
    binding: Binding,
    flood: Flood,
    *,
    queue: int,
    count: int | None,
    rate: float | None,
    batch_size: int,
    seconds: float | None,
    interval: float,
    extra: bool,
    as_json: bool,
) -> int:
    """Send until `count`, `seconds` or a signal; the exit code."""
    device = binding.describe(interface)
    packets = flood.packets(device, batch_size, binding.netns)
    length = packets.shape[1]
    with (
        Stop(seconds) as stop,
        UMEM(FRAMES, 2048 if length <= 2048 else 4096, comp_size=FRAMES) as umem,
        binding.sender(interface, queue, umem) as sock,
    ):
        if not as_json:
            _introduce(sock, packets, rate)
        sent, began = Sent(), stop.restart()  # to bind is not to send
        line = LiveLine(
            lambda: Reading(sent.packets, sent.packets * length),
            interval=interval,
            statistics=sock.statistics if extra else None,
            quiet=as_json,
        )
        refused = _loop(sock, packets, sent, Pacer(rate, batch_size), stop, line, count)
        report = {"packet_size": length, **summary(sock, sent.packets, sent.packets * length, began)}
        if as_json:
            output.print_json(report)
        else:
            conclude(report)
    if refused is not None:
        print(f"xsk: {message_of(refused)}", file=sys.stderr)
        return 1
    return 0


def _introduce(sock: Socket, packets: npt.NDArray[np.uint8], rate: float | None) -> None:
    from toolkit.decode import decode
    from toolkit.decode.text import summaries

    first = packets[0]
    (words,) = summaries(decode(first, [0], [len(first)]))
    how = "zero-copy" if sock.zero_copy else "copy mode"
    speed = "as fast as it goes" if rate is None else f"{output.count(rate)} packets/s"
    print(f"{sock.interface}: queue {sock.queue}, {how}; {speed}\n  {words}", flush=True)


def _loop(
    sock: Socket,
    packets: npt.NDArray[np.uint8],
    sent: Sent,
    pacer: Pacer,
    stop: Stop,
    line: LiveLine,
    count: int | None,
) -> SystemCallError | None:
    """Send row after row, from the beginning again after the last."""
    at, rows, ring = 0, len(packets), sock.tx
    while not stop and (count is None or sent.packets < count):
        line.tick()
        due = pacer.due(sent.packets)
        if not due:
            time.sleep(min(pacer.pause(sent.packets), stop.timeout, max(line.next - time.monotonic(), 0)))
            continue
        if count is not None:
            due = min(due, count - sent.packets)
        index = ring.next_index
        try:
            sock.send(packets[at : at + due], timeout=stop.timeout)
        except SystemCallError as refused:
            return explained(refused, sock)
        finally:
            accepted = (ring.next_index - index) & _U32  # also when it ended with an error
            sent.packets += accepted
        at += accepted
        if at >= rows:
            at = 0
    return None


def explained(refused: SystemCallError, sock: Socket) -> SystemCallError:
    """Say more where we know more of why the kernel refused to send."""
    if refused.errno == errno.EINVAL and sock.zero_copy:
        return kernel_error(
            "wake",
            errno.EINVAL,
            f"cannot send on queue {sock.queue} of {sock.interface}",
            cause="the driver sends zero-copy only while an XDP program is attached to the interface natively",
            remedy="copy mode, with --copy",
        )
    return refused


def summary(sock: Socket, packets: int, octets: int, began: float) -> dict[str, Any]:
    """Wait until the kernel is done, and say what became of the packets.

    `sent` were put into the TX ring, of `completed` the kernel returned the frames; it counts those that it refused.
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
        "drop_reasons": statistics._asdict(),
        "seconds": round(seconds, 3),
    }


def conclude(report: dict[str, Any]) -> None:
    """Print what became of the packets."""
    from toolkit.abi.if_xdp import Statistics

    seconds = max(report["seconds"], 1e-9)
    left = report["sent"] - report["completed"] - report["invalid"]
    print(
        f"{report['sent']:,} packets, {report['sent_bytes']:,} bytes in {report['seconds']:.1f} s "
        f"({output.count(report['sent'] / seconds)} packets/s)"
    )
    print(
        f"sent {report['sent']:,} = completed {report['completed']:,} + refused by the kernel {report['invalid']:,} "
        f"+ still with it {left:,}"
    )
    print(output.kernel_counters(Statistics(**report["drop_reasons"])), flush=True)
