# SPDX-License-Identifier: Apache-2.0
"""The NICs of a guest: pairs, joined as by a cable, as qemu's options."""

from __future__ import annotations

from dataclasses import dataclass

# What qemu emulates and Debian's kernels drive. Without IOMMU_PLATFORM (and so without the legacy interface), a virtio
# NIC has no zero-copy. A NIC of the PCI Express kind sits in a port of its own.
_DEVICES = {
    "virtio": "virtio-net-pci,disable-legacy=on,iommu_platform=on",
    "igb": "igb",
    "vmxnet3": "vmxnet3",
    "e1000e": "e1000e",
}
_OWN_PORT = ("igb",)
KINDS = tuple(_DEVICES)
PAIRS = 8  # at most


@dataclass(frozen=True)
class Pair:
    """Two NICs on a cable, of one kind or of two."""

    near: str
    far: str

    @classmethod
    def parse(cls, text: str) -> Pair:
        """Of "igb", or "igb+virtio" for a pair of two kinds; ValueError says what is wrong."""
        near, _, far = text.partition("+")
        for kind in (near, far or near):
            if kind not in _DEVICES:
                raise ValueError(
                    f"a NIC is {', '.join(KINDS[:-1])} or {KINDS[-1]}, or two of them (igb+virtio), not {kind!r}"
                )
        return cls(near, far or near)

    def __str__(self) -> str:
        return self.near if self.near == self.far else f"{self.near}+{self.far}"


def options(pairs: list[Pair], queues: int) -> list[str]:
    """Qemu's options for these pairs. With several queues the virtio NICs are on taps: tapN, which joined() makes."""
    found = []
    for pair_number, pair in enumerate(pairs):
        for end, kind in enumerate((pair.near, pair.far)):
            number = 2 * pair_number + end
            if queues > 1:
                found += ["-netdev", f"tap,id=n{number},ifname=tap{number},queues={queues},script=no,downscript=no"]
            else:
                found += ["-netdev", f"hubport,id=n{number},hubid={pair_number}"]
            device = f"{_DEVICES[kind]},netdev=n{number},mac=52:54:00:00:00:{number + 1:02x}"
            if kind == "virtio" and queues > 1:
                device += f",mq=on,vectors={2 * queues + 2}"
            if kind in _OWN_PORT:
                found += ["-device", f"pcie-root-port,id=port{number},slot={number + 1},chassis={number + 1}"]
                device += f",bus=port{number}"
            found += ["-device", device]
    return found


def joined(pairs: list[Pair]) -> str:
    """A shell script that makes multi-queue taps and joins those of a pair, in the network namespace that it runs in.

    A bridge that learns nothing passes every frame to the other side. It has no address, and asks for none.
    """
    silent = "for one in /proc/sys/net/ipv6/conf/*/disable_ipv6; do echo 1 >$one; done"
    lines = ["set -e", silent]
    for pair_number in range(len(pairs)):
        bridge = f"cable{pair_number}"
        lines.append(f"ip link add {bridge} type bridge ageing_time 0 mcast_snooping 0 group_fwd_mask 0xfff8")
        lines.append(f"ip link set {bridge} up mtu 65000")
        for number in (2 * pair_number, 2 * pair_number + 1):
            lines.append(f"ip tuntap add tap{number} mode tap multi_queue vnet_hdr")
            lines.append(f"ip link set tap{number} mtu 65000 master {bridge} up")
    return "\n".join(lines)
