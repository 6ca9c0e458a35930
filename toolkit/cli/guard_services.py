# SPDX-License-Identifier: Apache-2.0
"""What a filter would take from the services of this host: from listening and bound sockets, from connections.

And what all of them need: ARP and neighbour discovery, the answers of name servers, the lease of an address.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from toolkit.cli.guard_probes import BROADCAST, Probe, Source, Target, wire
from toolkit.net import reach, sockets
from toolkit.net.reach import Lane
from toolkit.net.sessions import Session
from toolkit.net.sockets import Endpoint
from toolkit.packets import frames

__all__ = ["DISCOVERY", "Harm", "harms"]

DISCOVERY = "icmp6 and ip6[40] >= 133 and ip6[40] <= 136"
_ELSEWHERE = {4: "203.0.113.77", 6: "2001:db8:77::77"}  # somebody beyond the gateway
_FRAGMENT = 44  # linux/in6.h: the header of an IPv6 fragment
_NAMED = 3  # senders and ports that a sentence names
_MOST_GROUPS = 16  # multicast groups that are tried
_MOST_CONNECTIONS = 500  # that are tried, one of each peer's port
_RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")


class Harm(NamedTuple):
    """What taking does: a line for people, and the filter terms of what had better be left out."""

    text: str
    without: tuple[str, ...]


class _Way(NamedTuple):
    """Who may send on a lane, and to what, in one family and scope."""

    sources: list[Source]
    targets: list[Target]


_Ways = list[tuple[Lane, list[_Way]]]


def harms(interface: str, probe: Probe, known: Sequence[Session] = (), *, answered: bool = False) -> Iterator[Harm]:
    """Say what it would do to take what the probe's filter matches from `interface`.

    In the calling thread's network namespace. known: sessions that somebody else looks after. answered: ARP, neighbour
    discovery and ping are answered in this host's place, so nobody misses them.
    """
    ours = {(one.local, one.local_port, one.peer, one.peer_port) for one in known}
    found = list(sockets.endpoints())
    if not found and not _has_default_route():
        return  # nobody is there who could miss a packet
    lanes = reach.lanes(interface)
    if any(lane.loopback for lane in lanes):  # every address of 127.0.0.0/8 is this host's, those that are used count
        looped = {one.local: 32 for one in found if _loops(one) and _version(one.local) == 4}
        lanes = [lane._replace(addresses=looped | lane.addresses) for lane in lanes]
    else:
        found = [one for one in found if not _loops(one)]
    connected = [one for one in found if one.peer and (one.local, one.port, one.peer, one.peer_port) not in ours]
    bound = [one for one in found if not one.peer]
    ways = [(lane, list(_ways(lane, lanes, probe))) for lane in lanes if lane.addresses]
    yield from _of_services(ways, bound, probe)
    yield from _of_fragments(ways, [one for one in bound if one.kind == "udp"], probe)
    yield from _of_connections(ways, connected, bound, probe)
    yield from _of_name_servers(ways, probe)
    yield from _of_leases(ways, probe)
    used = any(lane.gateways or any(_reaches(lane, one) for one in found) for lane, _ in ways)
    if used and not answered:
        yield from _of_introductions(ways, probe)


def _loops(one: Endpoint) -> bool:
    return bool(one.local) and ipaddress.ip_address(one.local).is_loopback


def _reaches(lane: Lane, one: Endpoint) -> bool:
    """Whether packets to the socket may come over the lane."""
    return one.local in lane.addresses or one.local in lane.groups if one.local else bool(lane.addresses)


def _has_default_route() -> bool:
    for name, default in (("route", "00000000"), ("ipv6_route", "0" * 32)):
        try:
            with open(f"/proc/thread-self/net/{name}") as table:
                for line in table:
                    fields = line.split()
                    where = 1 if name == "route" else 0
                    if fields[where] == default and "lo" not in (fields[0], fields[-1]):
                        return True
        except FileNotFoundError:
            continue
    return False


# --- who sends --------------------------------------------------------------------------------------------------------


def _ways(lane: Lane, lanes: Sequence[Lane], probe: Probe) -> Iterator[_Way]:
    """The senders and the receivers of each family, link-local ones by themselves; those that stand for all."""
    wire_lane = lane if lane.neighbours or lane.gateways else next((one for one in lanes if one.neighbours), lane)
    local: dict[tuple[int, bool], list[str]] = {}
    for text in lane.addresses:
        one = ipaddress.ip_address(text)
        local.setdefault((one.version, one.is_link_local and one.version == 6), []).append(text)
    mine = {address for one in lanes for address in one.addresses}
    for (version, linked), addresses in local.items():
        gateways = [one for one in wire_lane.gateways if ipaddress.ip_address(one).version == version]
        mac = next((wire_lane.neighbours[one] for one in wire_lane.gateways if one in wire_lane.neighbours), "")
        known = {*mine, *probe.named, *gateways, *wire_lane.neighbours}
        names = [*probe.named, *gateways, *(_stranger(text, lane.addresses[text], known) for text in addresses)]
        if gateways:
            names.append(_ELSEWHERE[version])
        if lane.loopback:
            names, mac = [*names, *addresses], lane.mac
        # Those first whom the filter may speak of: not all are tried where it can tell many apart.
        senders = {
            text: wire_lane.neighbours.get(text, mac or frames.FAR_MAC) for text in (*names, *wire_lane.neighbours)
        }
        fit = [
            Source(text, own)
            for text, own in senders.items()
            if (one := ipaddress.ip_address(text)).version == version
            and (one.is_link_local and version == 6) == linked
            and (text not in mine or lane.loopback)
        ]
        ends = dict.fromkeys((fit[0].address, fit[-1].address)) if fit else ()
        fit = [Source(text, own) for own in probe.named_macs for text in ends] + fit
        targets = [Target(text, lane.mac or frames.NEAR_MAC, lane.tags) for text in addresses]
        yield _Way(probe.sources(fit), probe.targets(targets))


def _stranger(text: str, prefix: int, known: set[str]) -> str:
    """An address of the net that nobody is known by, if there is one: somebody may come with it."""
    net = ipaddress.ip_interface(f"{text}/{prefix}").network
    hosts = itertools.islice(net.hosts(), len(known) + 1)
    return next((str(one) for one in hosts if str(one) not in known), text)


def _from(taken: Iterable[str], ways: Iterable[_Way]) -> str:
    """Say who is meant, of those that stand for all."""
    names = list(dict.fromkeys(taken))
    everybody = {source.address for way in ways for source in way.sources}
    if set(names) >= everybody:
        return "from anybody"
    for version in (4, 6):
        if set(names) == {one for one in everybody if _version(one) == version}:
            return f"from anybody by IPv{version}"
    names = ["hosts beyond the gateway" if name in _ELSEWHERE.values() else name for name in names]
    return f"from {', '.join(names[:_NAMED])}{' and others' if len(names) > _NAMED else ''}"


# --- sockets ----------------------------------------------------------------------------------------------------------


def _of_services(ways: _Ways, bound: Sequence[Endpoint], probe: Probe) -> Iterator[Harm]:
    """TCP sockets that listen and UDP sockets that are bound: a line for each kind and those whom they lose."""
    kinds: tuple[Literal["tcp", "udp"], ...] = ("tcp", "udp")
    for kind in kinds:
        lost: dict[int, dict[str, int]] = {}  # by our port: senders, and from which port of theirs (0: any)
        seen: list[_Way] = []
        for lane, group in ways:
            places: dict[str, set[int]] = {}
            for one in bound:
                if one.kind == kind and _reaches(lane, one):
                    places.setdefault(one.local, set()).add(one.port)
            for way in group if places else ():
                seen.append(way)
                pairs = probe.pairs(way.sources, _also_all(way, lane, kind))
                for (source, target), clients in itertools.product(pairs, (False, True)):
                    ports = {port for local, some in places.items() if local in ("", target.address) for port in some}
                    left = tuple(port for port in sorted(ports) if _is_clients(kind, port) is clients)
                    for port, begin in probe.ports(kind, left, source, target, clients).items() if left else ():
                        senders = lost.setdefault(port, {})
                        senders[source.address] = min(begin, senders.get(source.address, begin))
        inodes: dict[int, int] = {one.port: one.inode for one in bound if one.kind == kind and one.port in lost}
        yield from _named_services(kind, lost, inodes, seen)


def _named_services(
    kind: str, lost: dict[int, dict[str, int]], inodes: dict[int, int], seen: list[_Way]
) -> Iterator[Harm]:
    who = sockets.owners({inode for inode in inodes.values() if inode}) if lost else {}
    alike: dict[str, list[int]] = {}
    for port, senders in lost.items():
        begin = min(senders.values())
        answers = f" with source port {begin}" if begin else ""
        alike.setdefault(_from(list(senders), seen) + answers, []).append(port)
    for whence, ports in alike.items():
        first = [f"{port}{_holder(who, inodes[port])}" for port in sorted(ports)[: 2 * _NAMED]]
        more = f" and {len(ports) - len(first)} more" if len(ports) > len(first) else ""
        yield Harm(
            f"{kind.upper()} to port{'s' if len(ports) > 1 else ''} {', '.join(first)}{more}, {whence}",
            _terms(kind, "dst", ports),
        )


def _of_fragments(ways: _Ways, bound: Sequence[Endpoint], probe: Probe) -> Iterator[Harm]:
    """Fragments of long datagrams, but for the first: they have no ports, and without them none arrives."""
    lost: list[str] = []
    seen: list[_Way] = []
    for lane, group in ways:
        for way in group if any(_reaches(lane, one) for one in bound) else ():
            seen.append(way)
            pairs = probe.pairs(way.sources, way.targets)
            lost += [source.address for source, target in pairs if probe.takes(_later_fragments(source, target))]
    if lost:
        versions = set(map(_version, lost))
        terms = tuple(
            term for version, term in ((4, "ip[6:2] & 0x1fff != 0"), (6, "ip6 proto 44")) if version in versions
        )
        yield Harm(f"later fragments of UDP datagrams, {_from(lost, seen)}", terms)


def _later_fragments(source: Source, target: Target) -> Iterator[bytes]:
    a, b = source.address, target.address
    if ":" in b:
        header = bytes((frames.IPPROTO_UDP, 0)) + (181 << 3).to_bytes(2, "big") + bytes(4)
        packet = frames.ipv6(header + bytes(600), _FRAGMENT, source=a, destination=b)
        yield from wire(packet, frames.ETH_P_IPV6, source.mac, target.mac, target.tags)
    else:
        packet = frames.ipv4(bytes(600), frames.IPPROTO_UDP, source=a, destination=b, fragment=185)
        yield from wire(packet, frames.ETH_P_IP, source.mac, target.mac, target.tags)


def _holder(who: dict[int, tuple[str, int]], inode: int) -> str:
    command, pid = who.get(inode, ("", 0))
    return f" ({command}, pid {pid})" if pid else ""


def _terms(kind: str, side: str, ports: Iterable[int]) -> tuple[str, ...]:
    """Filter terms for these ports, or for all of the protocol where they are many."""
    some = sorted(set(ports))
    return tuple(f"{kind} {side} port {port}" for port in some) if len(some) <= 2 * _NAMED else (kind,)


def _is_clients(kind: str, port: int) -> bool:
    """Whether a bound UDP socket is likely to wait for answers of a server."""
    return kind == "udp" and port >= 32768


def _also_all(way: _Way, lane: Lane, kind: str) -> list[Target]:
    """The targets; for UDP the multicast groups of the family, and over IPv4 everybody at once."""
    found = list(way.targets)
    for one in way.targets[:1] if kind == "udp" else ():
        groups = [group for group in lane.groups if _version(group) == _version(one.address)]
        found += [Target(group, _group_mac(group), one.tags) for group in groups[:_MOST_GROUPS]]
        if _version(one.address) == 4:
            found.append(Target("255.255.255.255", BROADCAST, one.tags))
    return found


def _group_mac(group: str) -> str:
    """The MAC address of a multicast group (RFC 1112, RFC 2464)."""
    raw = frames.ip_bytes(group)
    return (b"\x33\x33" + raw[-4:] if ":" in group else b"\x01\x00\x5e" + bytes([raw[1] & 0x7F]) + raw[2:]).hex(":")


def _of_connections(
    ways: _Ways, connected: Sequence[Endpoint], bound: Sequence[Endpoint], probe: Probe
) -> Iterator[Harm]:
    """Connections to others; those that came to a listening socket are a matter of that."""
    served = {(one.kind, one.port) for one in bound}
    calls: dict[tuple[str, int], dict[str, Endpoint]] = {}
    for one in connected:
        if (one.kind, one.port) not in served:
            calls.setdefault((one.kind, one.peer_port), {}).setdefault(one.peer, one)
    tried = 0
    for (kind, port), peers in sorted(calls.items()):
        lost = []
        for peer, one in peers.items():
            for lane, _ in ways:
                if tried < _MOST_CONNECTIONS and one.local in lane.addresses:
                    tried += 1
                    hop = peer if peer in lane.neighbours else next(iter(lane.gateways), "")
                    source = Source(peer, lane.neighbours.get(hop, frames.FAR_MAC))
                    target = Target(one.local, lane.mac or frames.NEAR_MAC, lane.tags)
                    if probe.conversation(kind, source, port, target, one.port):
                        lost.append(one)
        if lost:
            holder = _holder(sockets.owners({lost[0].inode}), lost[0].inode)
            others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            text = f"the {kind.upper()} connection to {lost[0].peer} port {port}{holder}{others}"
            yield Harm(text, (f"{kind} src port {port}",))


# --- what all of them need --------------------------------------------------------------------------------------------


def _of_name_servers(ways: _Ways, probe: Probe) -> Iterator[Harm]:
    """Their answers, where the way to them is through the interface."""
    lost = []
    for server in _name_servers():
        for lane, group in ways:
            near = any(
                server in ipaddress.ip_interface(f"{text}/{prefix}").network for text, prefix in lane.addresses.items()
            )
            if not near and not any(ipaddress.ip_address(one).version == server.version for one in lane.gateways):
                continue
            mac = next((lane.neighbours[one] for one in (str(server), *lane.gateways) if one in lane.neighbours), "")
            source = Source(str(server), mac or frames.FAR_MAC)
            for way in group:
                target = next((one for one in way.targets if _version(one.address) == server.version), None)
                if target is not None and probe.conversation("udp", source, 53, target, 40000):
                    lost.append(str(server))
    if lost:
        yield Harm(f"the answers of the name server {lost[0]}", ("udp src port 53",))


def _name_servers() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    found = {}
    for path in _RESOLVERS:
        try:
            with open(path) as file:
                words = [line.split() for line in file]
        except (OSError, ValueError):
            continue
        for line in words:
            try:
                one = ipaddress.ip_address(line[1].partition("%")[0]) if line[:1] == ["nameserver"] else None
            except (ValueError, IndexError):
                continue
            if one is not None and not one.is_loopback:
                found[one] = True
    return list(found)


def _version(text: str) -> int:
    return ipaddress.ip_address(text).version


def _of_leases(ways: _Ways, probe: Probe) -> Iterator[Harm]:
    """The answers of a DHCP server, to clients that hear them by raw sockets as well."""
    for lane, group in ways:
        for way in group if lane.leased else ():
            targets = [one for one in _also_all(way, lane, "udp") if ":" not in one.address]
            for source, target in itertools.product(way.sources, targets):
                if probe.conversation("udp", source, 67, target, 68):
                    yield Harm(f"the DHCP server's answers, so that {lane.leased[0]} expires", ("udp dst port 68",))
                    return


def _of_introductions(ways: _Ways, probe: Probe) -> Iterator[Harm]:
    """ARP and neighbour discovery of any neighbour: to us alone, and to all."""
    arp = discovery = False
    for lane, group in ways:
        for way in group if lane.resolves else ():
            for source, target in itertools.product(way.sources, way.targets):
                if ":" in target.address:
                    discovery = discovery or probe.takes(_solicitations(source, target))
                else:
                    arp = arp or probe.takes(_requests(source, target))
    if arp:
        yield Harm("ARP, so that this host and its neighbours forget each other", ("arp",))
    if discovery:
        text = "neighbour discovery (ICMPv6), so that this host and its neighbours forget each other"
        yield Harm(text, (f"({DISCOVERY})",))


def _requests(source: Source, target: Target) -> Iterator[bytes]:
    for operation, mac in itertools.product((1, 2), (target.mac, BROADCAST)):
        packet = frames.arp(
            operation, source_mac=source.mac, source_ip=source.address, target_mac=target.mac, target_ip=target.address
        )
        yield from wire(packet, frames.ETH_P_ARP, source.mac, mac, target.tags)


def _solicitations(source: Source, target: Target) -> Iterator[bytes]:
    last = frames.ip_bytes(target.address)[-3:].hex(":")
    for kind, mac in ((135, target.mac), (135, f"33:33:ff:{last}"), (136, target.mac), (134, "33:33:00:00:00:01")):
        message = frames.icmpv6(bytes(16), kind=kind, source=source.address, destination=target.address)
        packet = frames.ipv6(
            message, frames.IPPROTO_ICMPV6, source=source.address, destination=target.address, hop_limit=255
        )
        yield from wire(packet, frames.ETH_P_IPV6, source.mac, mac, target.tags)
