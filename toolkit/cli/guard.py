# SPDX-License-Identifier: Apache-2.0
"""Asking before a filter takes the packets of the very session that the command is typed in.

The filter itself is asked, by libpcap's own interpreter: does it match frames such as the peer sends?
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import click

from toolkit import sessions
from toolkit.abi import libpcap
from toolkit.errors import ArgumentError
from toolkit.lab import frames
from toolkit.netns import NetNS, entered
from toolkit.program.expression import instructions
from toolkit.sessions import Path, Session

__all__ = ["ask", "reasons"]

_ACK, _PSH = 0x10, 0x08
_STAMPS = b"\x01\x01\x08\x0a" + bytes(8)  # TCP options as Linux sends them: two no-operations, time stamps
_SIZES = (0, 1, 36, 100, 540, 1400)  # bytes of payload: none in a bare ACK, a key stroke, a screen
_TOS = (0x00, 0x10, 0x48, 0xB8)  # as ssh asks for, by version
_TTLS = (64, 50, 128, 255)


def ask(interface: str, expression: str, *, netns: NetNS = None, assent: bool = False) -> None:
    """Return if the filter leaves our own session alone, or it is wanted all the same: --yes, or yes on a terminal.

    Raises ArgumentError where nobody says so.
    """
    if assent:
        return
    with entered(netns):
        told = list(reasons(interface, expression))
    if not told:
        return
    text = "\n".join(f"  - {one}" for one in told)
    if sys.stdin.isatty() and sys.stderr.isatty():
        click.echo(f"xsk: the filter {expression!r} on {interface} may cut you off:\n{text}", err=True)
        if click.confirm("Go on all the same?", default=False, err=True):
            return
        raise ArgumentError("nothing was done.")
    raise ArgumentError(
        f"the filter {expression!r} on {interface} may cut you off, so nothing was done:\n{text}\n"
        "Next step: leave these packets out of the filter; or look at copies (--tee of receive, capture and top); or "
        "say --yes if it is meant so."
    )


def reasons(interface: str, expression: str) -> Iterator[str]:
    """Sentences that say how taking what `expression` matches from `interface` harms the session we are in.

    None where it does not, or where there is no session. In the calling thread's network namespace.
    """
    found, hidden = sessions.of_ancestors()
    if any(command.startswith("sshd") for command in hidden):
        yield "this process runs under an sshd whose connection it may not see: run it as root, or say --yes."
    for session in found:
        yield from _harm(session, sessions.way_of(session), interface, expression)


def _harm(session: Session, path: Path, interface: str, expression: str) -> Iterator[str]:
    who = f"the session from {session.peer} port {session.peer_port} ({session.command}, pid {session.pid})"
    if interface not in path.carriers:
        if path.tunnel:
            yield f"{who} comes in through the tunnel {path.tunnel}, and {interface} may be what carries it."
        return
    tags = path.carriers[interface]
    if _takes(expression, _segments(session, path, tags)):
        yield (
            f"it takes the packets of {who}, which would hang at once. Left out: "
            f"'{_but(expression)}not (tcp port {session.local_port} and host {session.peer})'"
        )
    elif _takes(expression, _introductions(session, path, tags)):
        what = "neighbour discovery (ICMPv6 types 135 and 136)" if ":" in path.hop else "ARP"
        term = "(icmp6 and (ip6[40] = 135 or ip6[40] = 136))" if ":" in path.hop else "arp"
        yield (
            f"it takes {what}, so that this host and {path.hop} forget each other and {who} hangs after a while. "
            f"Left out: '{_but(expression)}not {term}'"
        )


def _but(expression: str) -> str:
    return "" if expression == "all" else f"({expression}) and "


def _takes(expression: str, examples: Iterator[bytes]) -> bool:
    """Whether the filter matches any of the frames."""
    if expression == "all":
        return True
    program = instructions(expression)
    return any(libpcap.offline_filter(program, example) for example in examples)


def _segments(session: Session, path: Path, tags: tuple[int, ...]) -> Iterator[bytes]:
    """What the peer sends: bare acknowledgments and data, as they look where `tags` are on them."""
    flagged = itertools.cycle((_ACK, _ACK | _PSH, _ACK))
    varied = zip(itertools.cycle(_TOS), flagged, itertools.cycle(_TTLS), strict=False)
    for size, options in itertools.product(_SIZES, (b"", _STAMPS)):
        for tos, flags, ttl in itertools.islice(varied, 12):
            segment = frames.tcp(
                bytes(size),
                session.peer_port,
                session.local_port,
                source=session.peer,
                destination=session.local,
                flags=flags,
                options=options,
            )
            a, b, tcp = session.peer, session.local, frames.IPPROTO_TCP
            if ":" in b:
                packet = frames.ipv6(segment, tcp, source=a, destination=b, hop_limit=ttl, traffic_class=tos)
                yield from _tagged(packet, frames.ETH_P_IPV6, path, tags)
            else:
                packet = frames.ipv4(segment, tcp, source=a, destination=b, ttl=ttl, tos=tos)
                yield from _tagged(packet, frames.ETH_P_IP, path, tags)


def _introductions(session: Session, path: Path, tags: tuple[int, ...]) -> Iterator[bytes]:
    """What the neighbour sends to find us, to us alone and to all, and to be found."""
    if ":" in path.hop:
        for kind in (135, 136):
            a, b = path.hop, session.local
            message = frames.icmpv6(bytes(16), kind=kind, source=a, destination=b)
            packet = frames.ipv6(message, frames.IPPROTO_ICMPV6, source=a, destination=b, hop_limit=255)
            yield from _tagged(packet, frames.ETH_P_IPV6, path, tags)
            group = "33:33:ff" + (path.mac or frames.NEAR_MAC)[8:]  # for an address that was made of the MAC
            yield from _tagged(packet, frames.ETH_P_IPV6, path._replace(mac=group), tags)
        return
    macs = {"source_mac": path.hop_mac or frames.FAR_MAC, "target_mac": path.mac or frames.NEAR_MAC}
    for operation in (1, 2):
        packet = frames.arp(operation, source_ip=path.hop, target_ip=session.local, **macs)
        yield from _tagged(packet, frames.ETH_P_ARP, path, tags)
        yield from _tagged(packet, frames.ETH_P_ARP, path._replace(mac="ff:ff:ff:ff:ff:ff"), tags)


def _tagged(packet: bytes, ethertype: int, path: Path, tags: tuple[int, ...]) -> Iterator[bytes]:
    """In Ethernet: with the tags, and without, because many NICs take the outer one off."""
    macs = {"source": path.hop_mac or frames.FAR_MAC, "destination": path.mac or frames.NEAR_MAC}
    for vlans in dict.fromkeys((tags, tags[1:])):
        yield frames.ethernet(packet, ethertype, vlans=vlans, **macs)
