# SPDX-License-Identifier: Apache-2.0
"""`xsk send`: packets out of an interface, as fast as possible or at a rate. What arrives there is not touched."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import cloup

from toolkit._base.pacer import Pacer
from toolkit.cli import options as opt
from toolkit.cli.binding import Binding
from toolkit.cli.command import command
from toolkit.cli.commands.send_account import FRAMES, conclude, summary
from toolkit.cli.commands.send_packets import Flood
from toolkit.cli.spelling import message_of
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine, Reading
from toolkit.errors import SystemCallError
from toolkit.umem.umem import UMEM
from toolkit.xsk.socket import Socket

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from toolkit.cli.commands.send_file import Pace

__all__ = ["run", "send"]

_U32 = 0xFFFFFFFF
_MADE = ("eth_dst", "eth_src", "ip_dst", "ip_src", "src_port", "dst_port", "flows", "size", "frame")


@command(
    cloup.option_group(
        "Packets made here",
        cloup.option("--ip-dst", metavar="ADDRESS", help="Address to send to, IPv4 or IPv6."),
        cloup.option("--ip-src", metavar="ADDRESS", help="Source address.  [the interface's address]"),
        cloup.option("--eth-dst", metavar="MAC", help="MAC address to send to.  [the kernel's neighbour for --ip-dst]"),
        cloup.option("--eth-src", metavar="MAC", help="Source MAC address.  [the interface's]"),
        cloup.option(
            "--src-port", metavar="PORT", type=click.IntRange(0, 65535), help="First UDP source port.  [5000]"
        ),
        cloup.option(
            "--dst-port", metavar="PORT", type=click.IntRange(0, 65535), help="UDP destination port.  [9, discard]"
        ),
        cloup.option(
            "--flows",
            metavar="N",
            type=click.IntRange(1, 65536),
            default=1,
            show_default=True,
            help="Number of flows: of source ports that take turns.",
        ),
        cloup.option(
            "--size",
            metavar="BYTES",
            type=click.IntRange(42, 4096),
            help="Bytes of a packet, without the checksum that a NIC adds (FCS).  [64]",
        ),
        cloup.option("--frame", metavar="HEX", help="Send this frame. The options above change it."),
    ),
    cloup.option_group(
        "Recorded packets",
        cloup.option(
            "-r", "--read", "file", metavar="FILE", help="Send what a pcap or pcapng file holds; - for standard input."
        ),
        cloup.option(
            "--pace",
            metavar="PACE",
            help="Send recorded packets in their times (original), as fast as possible (fast), or N times as fast.  "
            "[original]",
        ),
        cloup.option(
            "--loop",
            metavar="N",
            type=click.IntRange(min=0),
            default=None,
            help="With -r, send the file N times. 0 never ends.  [1]",
        ),
        cloup.option(
            "--max-gap",
            metavar="S",
            type=opt.Number(min=0, min_open=True),
            help="With -r, wait no longer than this between two packets.",
        ),
        opt.LEAVE_CHECKSUMS,
    ),
    cloup.option_group("What to show", opt.INTERVAL, opt.EXTRA, opt.JSON),
    cloup.option_group("When to stop", opt.COUNT, opt.SECONDS),
    opt.where(queues=False),
    opt.how_to_bind(
        cloup.option(
            "--rate",
            metavar="N",
            type=opt.Number(min=0, min_open=True),
            help="Packets per second.  [as fast as possible]",
        ),
        cloup.option(
            "--queue",
            metavar="N",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="The queue to send on.",
        ),
        opt.batch_size(default=1024),
    ),
    examples=(
        ("xsk send eth0 --ip-dst 192.0.2.7 -c 1000", "a thousand packets to a neighbour"),
        ("xsk send eth0 -r trace.pcapng --pace 2", "twice as fast as it was recorded"),
        ("xsk send eth0 --ip-dst 192.0.2.7 --rate 200000 --flows 64", ""),
        ("xsk send eth0 --eth-dst 02:00:00:00:00:01 --size 1500 --seconds 10", ""),
        ("xsk send eth0 --frame 'ffffffffffff 020000000002 88b5 48656c6c6f' -c 1", ""),
        ("xsk send eth0 -r trace.pcap.gz --rate 100000 --loop 10", ""),
    ),
    matters=("--ip-dst", "--eth-dst", "--size", "--flows", "--frame", "-r", "--pace", "--rate", "-c", "--seconds"),
)
def send(interface: str, **options: Any) -> int:
    """Send UDP packets out of INTERFACE, or frames of your own, or what was recorded.

    No XDP program is attached, and packets that arrive are not touched. AF_XDP does not ask the network for MAC
    addresses: the destination's is taken from the kernel's routes and neighbours, or given with --eth-dst. Without
    --ip-dst the addresses are those that RFC 2544 sets aside for benchmarks. UDP goes to port 9, discard, unless
    --dst-port says otherwise.

    Recorded packets (-r) leave with their own addresses, at the times at which they were recorded, unless --pace or
    --rate says otherwise. They are not changed, but for one thing: a recording made on the sending host has checksums
    that the device finished later, and they are finished here.

    Standard output gets a line each second, standard error the account at the end: `sent` packets were put into the TX
    ring, and the kernel has given back the memory of `completed`.
    """
    file, pace, loop, max_gap = (options.pop(name) for name in ("file", "pace", "loop", "max_gap"))
    leave = options.pop("leave_checksums")
    if file is not None:
        return _replay(interface, file, _pace(pace, options.pop("rate"), max_gap), loop, options, leave)
    if (pace, loop, max_gap, leave) != (None, None, None, False):
        unfit = "--pace, --loop, --max-gap and --leave-checksums"
        raise click.UsageError(f"{unfit} are for recorded packets. Next step: name their file with -r.")
    if options["frame"] is not None and options["size"] is not None:
        raise click.UsageError("--frame gives the whole packet, and its size. Next step: leave --size out.")
    flood = Flood(**{name: options.pop(name) for name in _MADE})
    return run(interface, opt.binding_from(options), flood, **options)


def _replay(interface: str, file: str, pace: Pace, loop: int | None, options: dict[str, Any], leave: bool) -> int:
    """Send recorded packets (-r). Options that describe packets made here are refused."""
    unfit = [name for name in _MADE if options.pop(name) != (1 if name == "flows" else None)]
    if unfit:
        raise click.UsageError(
            f"--{unfit[0].replace('_', '-')} is for packets made here; recorded ones (-r) stay as they are. Next "
            "step: leave it out."
        )
    if file == "-" and loop not in (None, 1):
        raise click.UsageError(
            "standard input can be read once only, so that it cannot --loop. Next step: name a file."
        )
    from toolkit.cli.commands.send_file import run as run_file

    options.pop("batch_size")
    return run_file(
        interface,
        opt.binding_from(options),
        file,
        pace,
        loop=1 if loop is None else loop,
        finish_checksums=not leave,
        **options,
    )


def _pace(pace: str | None, rate: float | None, max_gap: float | None) -> Pace:
    """Return the pace that was asked for."""
    from toolkit.cli.commands.send_file import Pace

    if rate is not None and pace is not None:
        raise click.UsageError("--pace and --rate both say how fast. Next step: give one of them.")
    if max_gap is not None and (pace == "fast" or rate is not None):
        raise click.UsageError(
            "--max-gap is for packets that leave in their recorded times. Next step: leave it, or --rate and --pace "
            "fast, out."
        )
    if pace == "fast" or rate is not None:
        return Pace(None, rate)
    try:
        speed = 1.0 if pace in (None, "original") else float(str(pace))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise click.UsageError(f"--pace cannot be {pace!r}. Next step: give 'original', 'fast' or a number above 0.")
    return Pace(speed, None, max_gap)


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
    report["error"] = None if refused is None else message_of(refused)
    return output.finish(report, conclude, as_json=as_json)


def _introduce(sock: Socket, packets: npt.NDArray[np.uint8], rate: float | None) -> None:
    from toolkit.decode import decode
    from toolkit.decode.text import summaries

    first = packets[0]
    (described,) = summaries(decode(first, [0], [len(first)]))
    how = "zero-copy" if sock.zero_copy else "copy mode"
    speed = "as fast as possible" if rate is None else f"{output.count(rate)} packets/s"
    output.say(f"{sock.interface}: queue {sock.queue}, {how}; {speed}", f"  {described}")


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
            return refused
        finally:
            accepted = (ring.next_index - index) & _U32  # also when it ended with an error
            sent.packets += accepted
        at += accepted
        if at >= rows:
            at = 0
    return None
