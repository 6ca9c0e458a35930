# SPDX-License-Identifier: Apache-2.0
"""`xsk echo`: a host in Python. ARP, ping and UDP echo, answered without the kernel's network stack."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Iterable
from typing import Any

import click
import cloup

from toolkit.cli import options as opt
from toolkit.cli.binding import Binding
from toolkit.cli.command import command
from toolkit.cli.lossy import warn_of_losses
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine, Reading
from toolkit.cli.view.losses import loss_lines, losses, now
from toolkit.cli.view.summary import introduce, outcome
from toolkit.errors import ArgumentError, ClosedError, DeviceGoneError
from toolkit.forward.responder import Responder
from toolkit.interface.interface import Interface
from toolkit.net.routes import own_addresses

__all__ = ["echo", "expression_for", "run"]

_FLUSH = 1.0  # seconds that the last answers have to leave


@command(
    cloup.option_group(
        "What to answer",
        cloup.option(
            "--ip",
            "addresses",
            metavar="ADDRESS",
            multiple=True,
            help="Answer for this address (repeatable).  [the interface's]",
        ),
        cloup.option(
            "--udp-port",
            metavar="PORT",
            type=click.IntRange(0, 65535),
            default=7,
            show_default=True,
            help="Echo UDP at this port. 0 echoes none.",
        ),
        opt.YES,
    ),
    cloup.option_group("What to show", opt.INTERVAL, opt.EXTRA, opt.JSON),
    cloup.option_group("When to stop", opt.SECONDS),
    opt.where(),
    opt.how_to_receive(),
    examples=(
        ("xsk echo eth0", "then ping it from a neighbour"),
        ("xsk echo eth0 --ip 192.0.2.99", "a host that was not there before"),
        ("xsk echo eth0 --spin", "the quickest answers; takes a whole core"),
    ),
    matters=("--ip", "--udp-port", "--spin", "--seconds", "--interval", "--json", "--queue", "--yes"),
)
def echo(interface: str, **options: Any) -> int:
    """TAKE ARP, neighbour discovery, ping (IPv4, IPv6) and UDP echo from INTERFACE, and answer in this host's place.

    It takes questions to the addresses that it answers for. All other packets go on to the kernel. Before it takes UDP
    from a program of this host that has the port, it asks (`xsk help taking`). Addresses other than the interface's own
    work as well, as long as the NIC lets their packets in (IPv6 asks by multicast).

    Standard output gets a line each second, standard error the account at the end (`xsk help output`).
    """
    return run(interface, opt.binding_from(options), **options)


def run(
    interface: str,
    binding: Binding,
    *,
    addresses: tuple[str, ...],
    udp_port: int,
    seconds: float | None,
    interval: float,
    extra: bool,
    as_json: bool,
) -> int:
    """Answer until a signal or `seconds`; the exit code."""
    from toolkit.forward.answers import Answers

    device = binding.describe(interface)
    mine = addresses or tuple(own_addresses(device.ifindex, binding.netns))
    if not mine:
        raise ArgumentError(
            f"{interface} has no IP address that could be answered for. Next step: name one, `--ip 192.0.2.1`, or give "
            f"the interface one, `ip address add 192.0.2.1/24 dev {interface}`."
        )
    answers = Answers(device.mac, mine, udp_port=udp_port or None)
    questions = expression_for(mine, udp_port)
    warn_of_losses(binding, [interface], tcp=False)
    with (
        Stop(seconds) as stop,
        binding.open(interface, questions, frags=False, timestamps=False, answered=True) as opened,
    ):
        if not as_json:
            introduce(opened, f"answering for {', '.join(mine)}")
        responder, began = Responder(opened, answers), stop.restart()  # to compile and attach is not to answer
        line = LiveLine(
            lambda: _reading(responder, opened),
            interval=interval,
            statistics=opened.statistics if extra else None,
            quiet=as_json,
        )
        gone = _loop(responder, stop, line, spin=binding.wait == "spin")
        report = _summary(opened, responder, mine, time.monotonic() - began, gone)
    return output.finish(report, _conclude, as_json=as_json)


def expression_for(addresses: Iterable[str], udp_port: int) -> str:
    """Return the filter that takes only what can be answered; all else stays with the kernel.

    Fragments are left to the kernel, which can put them together.
    """
    parsed = [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]
    terms = []
    ip4 = [str(address) for address in parsed if address.version == 4]
    if ip4:
        to_us = " or ".join(f"ip dst host {address}" for address in ip4)
        asked = " or ".join(f"arp dst host {address}" for address in ip4)
        udp = f" or udp dst port {udp_port}" if udp_port else ""
        terms.append(f"(arp[6:2] = 1 and ({asked}))")
        terms.append(f"(({to_us}) and ip[6:2] & 0x3fff = 0 and ((icmp and icmp[0] = 8){udp}))")
    ip6 = [address for address in parsed if address.version == 6]
    if ip6:
        to_us = " or ".join(f"ip6 dst host {address}" for address in ip6)
        asked = " or ".join(f"({_at_target(address.packed)})" for address in ip6)
        udp = f" or (ip6[6] = 17 and ip6[42:2] = {udp_port})" if udp_port else ""
        terms.append(f"(ip6[6] = 58 and ip6[40] = 135 and ({asked}))")
        terms.append(f"(({to_us}) and ((ip6[6] = 58 and ip6[40] = 128){udp}))")
    return " or ".join(terms)


def _at_target(address: bytes) -> str:
    """A neighbour solicitation for `address`: its target follows 8 bytes of ICMPv6."""
    words = [int.from_bytes(address[at : at + 4], "big") for at in range(0, 16, 4)]
    return " and ".join(f"ip6[{48 + 4 * at}:4] = {word:#x}" for at, word in enumerate(words))


def _loop(responder: Responder, stop: Stop, line: LiveLine, *, spin: bool) -> DeviceGoneError | None:
    try:
        while not stop:
            if spin:
                responder.run(stop.timeout, spin=True)
            else:
                responder.step(stop.timeout)
            line.tick()
    except DeviceGoneError as gone:
        return gone
    return None


def _summary(
    opened: Interface,
    responder: Responder,
    addresses: tuple[str, ...],
    seconds: float,
    gone: DeviceGoneError | None,
) -> dict[str, Any]:
    """Detach, answer what still waits, and compare the counters."""
    left = True
    try:
        opened.stop_taking()
        while responder.step(0.05):
            pass
        left = not opened.flush(_FLUSH)
    except (ClosedError, DeviceGoneError):
        pass
    with contextlib.suppress(ClosedError, DeviceGoneError):
        opened.detach()
    counters, statistics = opened.counters(), opened.statistics()
    received, answered = responder.statistics()
    return {
        **outcome(opened, gone, statistics),
        "addresses": list(addresses),
        "redirected": counters["redirected"],
        "received": received,
        "answered": answered,
        "unanswered": received - answered,
        "all_sent": not left,
        **losses(opened, statistics),
        "passed": counters.get("passed"),
        "seconds": round(seconds, 3),
    }


def _reading(responder: Responder, opened: Interface) -> Reading:
    """Return the figures of the live line."""
    received, answered = responder.statistics()
    others = {"unanswered": received - answered, **now(opened.statistics())}
    return Reading(answered, others=others)


def _conclude(report: dict[str, Any]) -> None:
    output.say(
        f"{report['answered']:,} answers in {report['seconds']:.1f} s",
        *([f"passed on to the kernel: {report['passed']:,}"] if report["passed"] else []),
        output.equation("redirected", report["redirected"], {key: report[key] for key in ("received", "dropped")}),
        output.equation("received", report["received"], {key: report[key] for key in ("answered", "unanswered")}),
        *loss_lines(report, sending=True),
    )
