# SPDX-License-Identifier: Apache-2.0
"""Cable: a Lab over the NICs of a guest (scripts/guest), or over a veth where there are none, for the same checks.

The variable GUEST_NICS says which kinds: "veth,virtio,igb". Of each but veth the guest has two pairs, in this order.
NICs are moved into the Lab's namespaces, get its names and addresses, and go back when it is closed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

from toolkit.lab import Lab, Namespace
from toolkit.lab.veth import End, connect

__all__ = ["NICS", "Cable"]

NICS = tuple(os.environ.get("GUEST_NICS", "veth").split(","))
_IN_GUEST = [kind for kind in NICS if kind != "veth"]  # eth0 to eth3, eth4 to eth7, ...
READY = 60.0  # seconds: a carrier comes after two on an idle machine


class Cable(Lab):
    """A Lab of two NICs of a kind; number 1: of the next two, with its near end beside that of another Cable.

    The near end takes what is for its own address only, as NICs do. The far end takes all, to be a witness.
    """

    def __init__(self, number: int = 0, *, beside: Cable | None = None, mtu: int = 1500, kind: str = "veth") -> None:
        self.number, self.kind = number, kind
        self._beside = beside
        super().__init__(mtu=mtu, interface=f"veth{2 * number}", peer=f"veth{2 * number + 1}")

    def _build(self, offloads: bool, gro: bool) -> None:
        del offloads, gro
        if self.number:
            self.mac, self.peer_mac = "02:00:00:00:00:0a", "02:00:00:00:00:03"
            self.ip, self.peer_ip, self.ip6, self.peer_ip6 = "10.12.0.1", "10.12.0.2", "fd12::1", "fd12::2"
        with contextlib.ExitStack() as undo:
            self.netns = self._beside.netns if self._beside else undo.enter_context(Namespace())
            self.far = undo.enter_context(Namespace())
            self._ends = (
                End(self.netns, self.interface, self.mac, self.ip, self.ip6),
                End(self.far, self.peer, self.peer_mac, self.peer_ip, self.peer_ip6),
            )
            if self.kind == "veth":
                connect(*self._ends, queues=1, mtu=self.mtu, neighbours=True, offloads=False)
            else:
                self.ip6 = self.peer_ip6 = ""
                for place, end in enumerate(self._ends):
                    self._adopt(end, self._name(place))
                self.set_up()
            undo.pop_all()

    def _name(self, place: int) -> str:
        """What the guest calls the NIC."""
        return f"eth{4 * _IN_GUEST.index(self.kind) + 2 * self.number + place}"

    def _adopt(self, end: End, name: str) -> None:
        """Take a NIC of the guest into a namespace; silent, and with the name and addresses of a Lab's end."""
        there = f"/proc/{os.getpid()}/fd/{end.namespace.fileno()}"
        subprocess.run(f"ip link set {name} down netns {there}".split(), check=True)
        with end.namespace.entered():
            with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w") as setting:
                setting.write("1")
            with open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as setting:
                setting.write("1")
        for offload in ("tx", "tso", "gso", "gro", "lro", "rxvlan", "txvlan"):  # those that it has
            end.namespace.run(["ethtool", "-K", name, offload, "off"], capture_output=True)
        for command in (
            f"ip link set {name} name {end.name}",
            f"ip link set {end.name} address {end.mac} mtu {self.mtu} arp off",
            f"ip address add {end.ip}/24 dev {end.name}",
            *([f"ip link set {end.name} promisc on"] if end is self._ends[1] else []),
        ):
            end.namespace.run(command.split(), check=True)

    def set_up(self) -> None:
        """Bring both ends up and wait until packets cross."""
        if self.kind == "veth":
            super().set_up()
            return
        for end, other in (self._ends, self._ends[::-1]):
            end.namespace.run(["ip", "link", "set", end.name, "up"], check=True)
            neighbour = f"ip neigh replace {other.ip} lladdr {other.mac} nud permanent dev {end.name}"
            end.namespace.run(neighbour.split(), check=True)
        deadline = time.monotonic() + READY
        while not self.ping(wait=1).received:
            assert time.monotonic() < deadline, f"no packet crosses from {self.peer} to {self.interface}"

    def set_mtu(self, mtu: int) -> None:
        """Of both ends; waits until packets cross again."""
        for end in self._ends:
            end.namespace.run(["ip", "link", "set", end.name, "mtu", str(mtu)], check=True)
        self.mtu = mtu
        self.set_up()

    def close(self) -> None:
        """Give the NICs back."""
        if not self.far.closed and self.kind != "veth":
            for place, end in enumerate(self._ends):
                back = f"ip link set {end.name} down name {self._name(place)} netns 1"
                end.namespace.run(back.split(), check=False)
        self.far.close()
        if self._beside is None:
            self.netns.close()
