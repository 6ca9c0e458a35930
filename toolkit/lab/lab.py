# SPDX-License-Identifier: Apache-2.0
"""Two namespaces joined by a veth pair: packets are received at the near end and sent from the far end."""

from __future__ import annotations

import contextlib
import html
import itertools
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from toolkit._base.arguments import whole
from toolkit._base.uninterrupted import uninterrupted
from toolkit.errors import ArgumentError
from toolkit.lab.namespace import Namespace
from toolkit.lab.veth import End, connect, counters, delete, has_ip6, revive
from toolkit.net import ethtool
from toolkit.packets import frames

if TYPE_CHECKING:
    from toolkit.lab.generator import Generator
    from toolkit.lab.sniffer import Sniffer
    from toolkit.lab.traffic import PingResult

__all__ = ["Lab"]

IP6_LEAST_MTU = 1280  # bytes: RFC 8200, section 5


class Lab:
    """A private network of two hosts: `near`, where the work is done, and `far`, where the traffic comes from.

    Each end has a namespace, `queues` receive and transmit queues, a fixed MAC, IPv4 and IPv6 address, and an MTU of
    `mtu` bytes. The network is silent: no packet crosses it unless a program sends one. With `neighbours` (default)
    both know each other's MAC address; without, they ask by ARP and neighbour discovery, and IPv6 adds its multicast
    reports. With `offloads` the kernel may leave checksums open and segments uncut, as it does on veth by itself. With
    `gro` the near end takes live frames (of the generator, or redirected) without an XDP program too; it may then join
    TCP segments. Below an MTU of 1280 bytes the kernel has no IPv6 on an interface (RFC 8200), nor where it was booted
    without: `ip6` and `peer_ip6` are then "", and what asks for IPv6 raises ArgumentError.

    Attributes: `interface`, `mac`, `ip`, `ip6` and `netns` of the near end; `peer`, `peer_mac`, `peer_ip`, `peer_ip6`
    and `far` of the other. `netns` and `far` are Namespaces: `with lab.far.entered():` is inside one (a socket made
    there sends from there), `lab.far.popen()` and `run()` start programs in it. `with lab.far:` is not: that closes it.

    Nothing is named, nothing is left behind: it all goes with `close`, with the object, or with the process.
    Raises `PrivilegeError` without CAP_SYS_ADMIN and CAP_NET_ADMIN, `ArgumentError` for sizes no veth has.
    """

    def __init__(
        self,
        queues: int = 1,
        mtu: int = 1500,
        *,
        interface: str = "veth0",
        peer: str = "veth1",
        neighbours: bool = True,
        offloads: bool = False,
        gro: bool = False,
    ) -> None:
        queues, mtu = whole("queues", queues, 1, 4096), whole("mtu", mtu, 68, 65535)
        self.interface = interface  # name of the receiving end, in the namespace `netns`
        self.peer = peer  # name of the sending end, in the namespace `far`
        self.queues = queues
        self.mtu = mtu
        self.mac, self.peer_mac = frames.NEAR_MAC, frames.FAR_MAC
        self.ip, self.peer_ip = frames.NEAR_IP, frames.FAR_IP
        self.ip6, self.peer_ip6 = frames.NEAR_IP6, frames.FAR_IP6
        self._neighbours = neighbours
        # Uninterrupted: otherwise an interrupt could leave namespaces without an object that closes them.
        uninterrupted(lambda: self._build(offloads, gro), dispose=lambda _: self.close())

    def _build(self, offloads: bool, gro: bool) -> None:
        with contextlib.ExitStack() as undo:
            self.netns = undo.enter_context(Namespace())  # of the receiving end
            self.far = undo.enter_context(Namespace())  # of the sending end
            self._ends = (
                End(self.netns, self.interface, self.mac, self.ip, self.ip6),
                End(self.far, self.peer, self.peer_mac, self.peer_ip, self.peer_ip6),
            )
            connect(*self._ends, queues=self.queues, mtu=self.mtu, neighbours=self._neighbours, offloads=offloads)
            if not self.netns.call(lambda: has_ip6(self.interface)):
                self.ip6 = self.peer_ip6 = ""
            if gro:
                with self.netns.entered():
                    ethtool.set_gro(self.interface, True)
            undo.pop_all()

    @property
    def near(self) -> Namespace:
        """The namespace of the receiving end: the same as `netns`."""
        return self.netns

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.netns.closed

    def set_down(self) -> None:
        """Take the receiving end down, as `ip link set dev veth0 down` does."""
        with self.netns.entered():
            ethtool.set_up(self.interface, up=False)

    def set_up(self) -> None:
        """Bring the receiving end up again and wait until packets cross."""
        revive(*self._ends, neighbours=self._neighbours)

    def delete_interface(self) -> None:
        """Delete the pair, as if the device had been pulled out. May be called again."""
        delete(self._ends[0])

    def ping(
        self, count: int = 1, *, interval: float = 0.01, size: int = 56, ipv6: bool = False, wait: float = 1.0
    ) -> PingResult:
        """Run the system's ping from far to near; missing answers are counted, not raised. See `traffic.ping`."""
        from toolkit.lab.traffic import ping

        return ping(self.far, self._target(ipv6), count=count, interval=interval, size=size, wait=wait)

    def udp(
        self,
        payloads: Iterable[bytes] | None = None,
        *,
        count: int = 1,
        size: int = 18,
        source_port: int = 5000,
        destination_port: int = 9,
        flows: int = 1,
        rate: float | None = None,
        ipv6: bool = False,
    ) -> int:
        """Send datagrams from kernel sockets at far to near, and return how many: `payloads`, or `count` times zeros.

        `size` is the payload's; `flows` source ports from `source_port` take turns; `rate` is datagrams/s.
        """
        from toolkit.lab.traffic import send_udp

        if payloads is None:
            payloads = itertools.repeat(bytes(size), count)
        ports = {"source_port": source_port, "destination_port": destination_port, "flows": flows}
        return send_udp(self.far, self._target(ipv6), payloads, rate=rate, **ports)

    def _target(self, ipv6: bool) -> str:
        """The near end's address."""
        if ipv6 and not self.ip6:
            why, remedy = "the kernel was booted or built without it", "send IPv4"
            if self.mtu < IP6_LEAST_MTU:
                why, remedy = f"its MTU of {self.mtu} is too small for that", f"Lab(mtu={IP6_LEAST_MTU}), or IPv4"
            raise ArgumentError(f"this lab has no IPv6: {why}. Next step: {remedy}.")
        return self.ip6 if ipv6 else self.ip

    def send_frames(self, frames: Iterable[bytes], *, rate: float | None = None) -> int:
        """Send each frame from far to near, byte by byte as given, and return how many. See `traffic.send_frames`."""
        from toolkit.lab.traffic import send_frames

        return send_frames(self.far, self.peer, frames, rate=rate)

    def capture(self, *, far: bool = False, outgoing: bool = False) -> Sniffer:
        """Capture what the kernel receives at the near end (or `far`) from now on; with `outgoing`, what it sends."""
        from toolkit.lab.sniffer import Sniffer

        return (
            Sniffer(self.peer, self.far, outgoing=outgoing)
            if far
            else Sniffer(self.interface, self.netns, outgoing=outgoing)
        )

    def generator(
        self,
        *,
        rate: float | None = None,
        seconds: float | None = None,
        count: int | None = None,
        size: int = 64,
        flows: int = 1,
        ipv6: bool = False,
        frame: bytes | Sequence[bytes] | None = None,
        cpu: int | None = None,
    ) -> Generator:
        """A generator of up to several million frames/s from the far end to the near end: see `Generator`.

        `rate` in frames/s (None: as fast as it goes), bounded by `seconds`, `count`, or its `stop`. By default it sends
        UDP frames of `size` bytes in `flows` flows, each numbered (`toolkit.lab.redirect.Stamp`), with right checksums;
        `ipv6` chooses the family. `frame`, or a sequence of frames that take turns, are sent as they are instead.
        `cpu` is where it runs: a veth delivers to receive queue `cpu % queues`.
        """
        from toolkit.lab.generator import Generator

        return Generator(
            self, rate=rate, seconds=seconds, count=count, size=size, flows=flows, ipv6=ipv6, frame=frame, cpu=cpu
        )

    def counters(self) -> dict[str, int]:
        """The kernel's counters of the receiving end: rx_packets, rx_bytes, rx_dropped, tx_packets, ..."""
        return counters(self.netns, self.interface)

    def close(self) -> None:
        """End the programs in both namespaces, and the network. May be called again."""
        for namespace in (self.far, self.netns):
            namespace.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<Lab {self.peer} {self.peer_ip} -> {self.interface} {self.ip}, "
            f"{self.queues} queues, mtu {self.mtu}{', closed' if self.closed else ''}>"
        )

    def _repr_html_(self) -> str:
        """For notebooks: both ends as a table."""
        rows = (
            ("near (receives)", self.interface, self.mac, self.ip, self.ip6, str(self.netns)),
            ("far (sends)", self.peer, self.peer_mac, self.peer_ip, self.peer_ip6, str(self.far)),
        )
        head = "".join(f"<th>{title}</th>" for title in ("end", "interface", "MAC", "IPv4", "IPv6", "namespace"))
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><tr>{head}</tr>{body}</table>"
