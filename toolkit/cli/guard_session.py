# SPDX-License-Identifier: Apache-2.0
"""What a filter would take from the very session that the command is typed in, so that it hangs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from toolkit.cli.guard_probes import ACK, BROADCAST, Probe, wire
from toolkit.cli.guard_services import DISCOVERY, Harm
from toolkit.net import sessions
from toolkit.net.sessions import Path, Session
from toolkit.packets import frames

__all__ = ["harms"]

_PSH = 0x08
_STAMPS = b"\x01\x01\x08\x0a" + bytes(8)  # TCP options as Linux sends them: two no-operations, time stamps
_SIZES = (0, 1, 36, 100, 540, 1400)  # bytes of payload: none in a bare ACK, a key stroke, a screen
_TOS = (0x00, 0x10, 0x48, 0xB8)  # as ssh asks for, by version
_TTLS = (64, 50, 128, 255)


def harms(interface: str, probe: Probe, found: sessions.Sessions) -> Iterator[Harm]:
    """Say how taking what the probe's filter matches from `interface` harms the sessions that we are in.

    Nothing where it does not, or where there is no session. In the calling thread's network namespace.
    """
    if any(command.startswith("sshd") for command in found.hidden):
        text = "this process runs under an sshd whose connection it may not see: run it as root, or say --yes"
        yield Harm(text, ())
    for session in found.found:
        yield from _harm(session, sessions.way_of(session), interface, probe)


def _harm(session: Session, path: Path, interface: str, probe: Probe) -> Iterator[Harm]:
    who = f"the session from {session.peer} port {session.peer_port} ({session.command}, pid {session.pid})"
    if interface not in path.carriers:
        if path.tunnel:
            text = f"{who} comes in through the tunnel {path.tunnel}, and {interface} may be what carries it"
            yield Harm(text, ())
        return
    tags = path.carriers[interface]
    if probe.takes(_segments(session, path, tags)):
        yield Harm(f"{who} would hang at once", (f"(tcp port {session.local_port} and host {session.peer})",))
    elif probe.takes(_introductions(session, path, tags)):
        what, term = ("neighbour discovery (ICMPv6)", f"({DISCOVERY})") if ":" in path.hop else ("ARP", "arp")
        text = f"{what}, so that this host and {path.hop} forget each other, and {who} hangs after a while"
        yield Harm(text, (term,))


def _segments(session: Session, path: Path, tags: tuple[int, ...]) -> Iterator[bytes]:
    """What the peer sends: bare acknowledgments and data, as they look where `tags` are on them."""
    flagged = itertools.cycle((ACK, ACK | _PSH, ACK))
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
        yield from _tagged(packet, frames.ETH_P_ARP, path._replace(mac=BROADCAST), tags)


def _tagged(packet: bytes, ethertype: int, path: Path, tags: tuple[int, ...]) -> Iterator[bytes]:
    return wire(packet, ethertype, path.hop_mac or frames.FAR_MAC, path.mac or frames.NEAR_MAC, tags)
