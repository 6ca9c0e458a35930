# SPDX-License-Identifier: Apache-2.0
"""The commands that move packets: drop, send, forward and echo. Options and help only; the work is in other modules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from toolkit.cli.options import (
    BATCH,
    COPY,
    COPYING,
    EXTRA,
    FILTER,
    FILTERING,
    INTERVAL,
    JSON,
    LEAVE_CHECKSUMS,
    RECEIVING,
    SECONDS,
    YES,
    Number,
    binding_from,
    options_of,
    says_unseen,
)

if TYPE_CHECKING:
    from toolkit.cli.commands.send_file import Pace

__all__ = ["COMMANDS"]


@click.command(short_help="Take packets and let them go: how fast can this host receive?")
@click.argument("interface")
@options_of(FILTER, *FILTERING, *RECEIVING, COPY, *COPYING, BATCH, SECONDS, INTERVAL, EXTRA, JSON)
@says_unseen
def drop(interface: str, **options: Any) -> None:
    """TAKE packets from INTERFACE, count them, and let them go: neither this host nor anybody else gets them.

    (But with --on-match count, which leaves them to the kernel.)

    Prints a line each second. At the end the program is detached, the rings are drained and the counters reconciled:
    received + dropped = redirected, to the packet.

    UNSEEN

    'all' takes everything. ASKS

    \b
    xsk drop eth0 -f 'udp port 9'                  the rate at which Python receives
    xsk drop eth0 -f 'udp port 9' -q 2 --spin -n 0.5       one queue, without sleeping, two lines a second
    xsk drop eth0 -f 'udp port 9' -b 64 --seconds 10 --json
    xsk drop eth0 -f 'host 192.0.2.7' --on-match drop      keep a host's traffic away, in the driver: the fastest way
    xsk drop eth0 -f 'udp' --on-match drop --sample 1/10   lose a tenth of all UDP packets, to see who minds
    """
    from toolkit.cli.commands.drop import run

    sys.exit(run(interface, binding_from(options), **options))


@click.command(short_help="Send packets, as fast as it goes or at a rate.")
@click.argument("interface")
@options_of(
    click.option("--eth-dst", metavar="MAC", help="Destination MAC; by default the kernel's neighbour for --ip-dst."),
    click.option("--eth-src", metavar="MAC", help="Source MAC; by default the interface's."),
    click.option("--ip-dst", metavar="ADDRESS", help="Destination, IPv4 or IPv6."),
    click.option("--ip-src", metavar="ADDRESS", help="Source; by default the interface's address."),
    click.option("--src-port", type=click.IntRange(0, 65535), help="UDP source port, the first of them. [5000]"),
    click.option("--dst-port", type=click.IntRange(0, 65535), help="UDP destination port. [9, discard]"),
    click.option(
        "--flows", type=click.IntRange(1, 65536), default=1, show_default=True, help="Source ports that take turns."
    ),
    click.option(
        "-s",
        "--size",
        type=click.IntRange(42, 4096),
        help="Bytes of a packet, without the checksum that a NIC adds (FCS). [64]",
    ),
    click.option("--frame", metavar="HEX", help="Send this frame instead; the options above change it."),
    click.option("-r", "--read", "file", metavar="FILE", help="Send what a pcap or pcapng file holds; - for stdin."),
    click.option(
        "--pace",
        metavar="original|fast|N",
        help="With -r: in the recorded times, as fast as it goes, or N times as fast as recorded. [original]",
    ),
    click.option(
        "--loop", type=click.IntRange(min=0), default=None, metavar="N", help="With -r: N times; 0: for ever. [1]"
    ),
    click.option(
        "--max-gap",
        type=Number(min=0, min_open=True),
        metavar="SECONDS",
        help="With -r: wait no longer than this between two packets.",
    ),
    LEAVE_CHECKSUMS,
    click.option("-C", "--count", type=click.IntRange(min=1), help="Send this many packets, then end."),
    click.option("--rate", type=Number(min=0, min_open=True), help="Packets per second; as fast as it goes without."),
    click.option(
        "-b",
        "--batch-size",
        type=click.IntRange(1, 1 << 16),
        default=1024,
        show_default=True,
        help="Packets to hand over at a time, at most.",
    ),
    click.option("-q", "--queue", type=click.IntRange(min=0), default=0, show_default=True, help="Queue to send on."),
    COPY,
    *COPYING,
    SECONDS,
    INTERVAL,
    EXTRA,
    JSON,
)
def send(interface: str, **options: Any) -> None:
    """Send UDP packets out of INTERFACE, or frames of your own, or what was recorded.

    No XDP program is attached, and what arrives is not touched. AF_XDP asks nobody for a MAC address: it is looked up
    in the kernel's routes and neighbours, or given. Without --ip-dst the addresses are those that RFC 2544 sets aside
    for benchmarks. `sent` were put into the TX ring, of `completed` the kernel has given the memory back.

    Recorded packets (-r) leave as they are, with their own addresses, in the times that they were recorded in unless
    --pace or --rate says otherwise. Only checksums that a recording on the sending host shows before its device had
    finished them are finished, as they were then.

    \b
    xsk send eth0 --ip-dst 192.0.2.7 -C 1000       a thousand packets to the discard port of a neighbour
    xsk send eth0 --ip-dst 192.0.2.7 --rate 200000 --flows 64
    xsk send eth0 --eth-dst 02:00:00:00:00:01 -s 1500 --seconds 10
    xsk send eth0 --frame 'ffffffffffff 020000000002 88b5 48656c6c6f' -C 1
    xsk send eth0 -r trace.pcapng --pace 2         twice as fast as it was recorded
    xsk send eth0 -r trace.pcap.gz --rate 100000 --loop 10
    """
    names = ("eth_dst", "eth_src", "ip_dst", "ip_src", "src_port", "dst_port", "flows", "size", "frame")
    file, pace, loop, max_gap = (options.pop(name) for name in ("file", "pace", "loop", "max_gap"))
    leave = options.pop("leave_checksums")
    if file is not None:
        sys.exit(_replay(interface, file, _pace(pace, options.pop("rate"), max_gap), loop, options, names, leave))
    if (pace, loop, max_gap, leave) != (None, None, None, False):
        unfit = "--pace, --loop, --max-gap and --leave-checksums"
        raise click.UsageError(f"{unfit} are for recorded packets: name their file with -r.")
    if options["frame"] is not None and options["size"] is not None:
        raise click.UsageError("--frame has the size that it has: --size is for packets made here.")
    from toolkit.cli.commands.send import run
    from toolkit.cli.commands.send_packets import Flood

    flood = Flood(**{name: options.pop(name) for name in names})
    sys.exit(run(interface, binding_from(options), flood, **options))


def _replay(
    interface: str, file: str, pace: Pace, loop: int | None, options: dict[str, Any], made: tuple[str, ...], leave: bool
) -> int:
    """Go on with -r: recorded packets are not `made` of options."""
    unfit = [name for name in made if options.pop(name) != (1 if name == "flows" else None)]
    if unfit:
        raise click.UsageError(
            f"--{unfit[0].replace('_', '-')} is for packets made here; recorded ones (-r) have theirs."
        )
    if file == "-" and loop not in (None, 1):
        raise click.UsageError("standard input can be read once only: no --loop.")
    from toolkit.cli.commands.send_file import run

    options.pop("batch_size")
    return run(
        interface,
        binding_from(options),
        file,
        pace,
        loop=1 if loop is None else loop,
        finish_checksums=not leave,
        **options,
    )


def _pace(pace: str | None, rate: float | None, max_gap: float | None) -> Pace:
    """Return how fast, of what was asked for."""
    from toolkit.cli.commands.send_file import Pace

    if rate is not None and pace is not None:
        raise click.UsageError("--pace and --rate both say how fast: take one of them.")
    if max_gap is not None and (pace == "fast" or rate is not None):
        raise click.UsageError("--max-gap is for packets that leave in their recorded times.")
    if pace == "fast" or rate is not None:
        return Pace(None, rate)
    try:
        speed = 1.0 if pace in (None, "original") else float(str(pace))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise click.UsageError(f"--pace is 'original', 'fast' or a number above 0, not {pace!r}.")
    return Pace(speed, None, max_gap)


@click.command(short_help="Take packets and send them out of another interface, or back out of the same.")
@click.argument("interface")
@click.argument("other", required=False)
@options_of(
    FILTER,
    click.option("--both", is_flag=True, help="Forward from OTHER to INTERFACE as well."),
    click.option("--mac-swap", is_flag=True, help="Exchange source and destination MAC address."),
    click.option("--ttl", is_flag=True, help="Count the TTL (hop limit) down by one; drop what has no more of it."),
    click.option("--vlan-push", type=click.IntRange(0, 4094), metavar="ID", help="Add a VLAN tag."),
    click.option("--vlan-pop", is_flag=True, help="Remove the outer VLAN tag of packets that have one."),
    LEAVE_CHECKSUMS,
    YES,
    *RECEIVING,
    COPY,
    *COPYING,
    BATCH,
    SECONDS,
    INTERVAL,
    EXTRA,
    JSON,
)
@says_unseen
def forward(interface: str, other: str | None, **options: Any) -> None:
    """TAKE packets from INTERFACE, so that this host does not get them, and send them out of OTHER, or back.

    Both share their packet memory: the packets are not copied on the way. Counts at the end, for each direction:
    received + dropped = redirected, and received = forwarded + edited out (by --ttl) + no room (in the TX ring).

    UNSEEN

    ASKS

    Hosts that send into a veth, a tap or a virtio NIC leave the checksums of TCP and UDP to "the hardware": they are
    finished here (checksums_finished in --json). Two things are lost, and said beforehand where they may happen: VLAN
    tags that the driver or the sender takes out of the packet, and in generic mode TCP segments that were joined.

    \b
    xsk forward eth0 -f 'udp port 7' --mac-swap    reflect packets to where they came from
    xsk forward eth0 eth1 -f 'vlan 42' --vlan-pop
    xsk forward eth0 eth1 -f all --both            a bridge between two ports, in the place of this host
    """
    from toolkit.cli.commands.forward import run
    from toolkit.cli.commands.forward_edits import Edits

    if options["both"] and other in (None, interface):
        raise click.UsageError("--both is for two interfaces: name the other one.")
    edits = Edits(**{name: options.pop(name) for name in ("mac_swap", "ttl", "vlan_push", "vlan_pop")})
    finish: bool | Literal["auto"] = False if options.pop("leave_checksums") else "auto"
    sys.exit(run(interface, other, binding_from(options), edits=edits, finish_checksums=finish, **options))


@click.command(short_help="Take ARP, ping and UDP echo, and answer them from Python in this host's place.")
@click.argument("interface")
@options_of(
    click.option(
        "--ip", "addresses", metavar="ADDRESS", multiple=True, help="Answer for this (repeatable). [the interface's]"
    ),
    click.option(
        "--udp-port", type=click.IntRange(0, 65535), default=7, show_default=True, help="Echo UDP here; 0: nowhere."
    ),
    YES,
    *RECEIVING,
    COPY,
    *COPYING,
    SECONDS,
    INTERVAL,
    EXTRA,
    JSON,
)
def echo(interface: str, **options: Any) -> None:
    """TAKE ARP, neighbour discovery, ping (IPv4, IPv6) and UDP echo from INTERFACE, and answer in this host's place.

    Only questions to the addresses answered for are taken, everything else goes on to the kernel. Before it takes UDP
    from a program of this host that has the port, it asks (without a terminal: it wants --yes). Addresses other than
    the interface's own work as well, as long as the NIC lets their packets in (IPv6 asks by multicast).

    \b
    xsk echo eth0                                  then, from a neighbour: ping, arping, nc -u ADDRESS 7
    xsk echo eth0 --ip 192.0.2.99                  a host that was not there before
    xsk echo eth0 --spin                           the quickest answers, for a whole core
    """
    from toolkit.cli.commands.echo import run

    sys.exit(run(interface, binding_from(options), **options))


COMMANDS = (drop, send, forward, echo)
