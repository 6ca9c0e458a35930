# SPDX-License-Identifier: Apache-2.0
"""What `xsk send` sends: a UDP packet made of options, or one given in hex, in as many flows as asked for."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit._base.netns import NetNS
from toolkit.errors import ArgumentError
from toolkit.net.routes import next_hop, own_addresses

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from toolkit.net.device import Device

__all__ = ["Flood"]

# RFC 2544 (RFC 5180): addresses for benchmarks, which belong to no host.
_BENCHMARK = {4: ("198.18.0.1", "198.18.0.2"), 6: ("2001:2::1", "2001:2::2")}
_SOURCE_PORT, _DISCARD = 5000, 9
_LINK_HEADER, _TAG = 14, 4  # bytes


@dataclass(frozen=True)
class Flood:
    """The packets that were asked for; None for what the command line leaves open."""

    eth_dst: str | None = None
    eth_src: str | None = None
    ip_src: str | None = None
    ip_dst: str | None = None
    src_port: int | None = None
    dst_port: int | None = None
    flows: int = 1
    size: int | None = None  # bytes of the frame, without its check sequence
    frame: str | None = None  # hex

    def packets(self, device: Device, batch_size: int, netns: NetNS) -> npt.NDArray[np.uint8]:
        """Return packets to be sent over and over: shape (n, length) u8, every flow equally often."""
        import numpy as np

        from toolkit.packets.template import Template

        template, columns = Template(self._frame(device, netns)), self._columns()
        repeat = -(-batch_size // self.flows)
        if self.flows > 1:
            first = self.src_port if self.src_port is not None else _SOURCE_PORT
            if first + self.flows > 65536:
                raise ArgumentError(
                    f"--flows {self.flows} from source port {first} on: there are ports up to 65535 only. "
                    "Next step: a lower --src-port, or fewer flows."
                )
            columns["src_port"] = np.tile(np.arange(first, first + self.flows), repeat)
        # A frame given in hex goes out as it is, wrong checksums and all, unless something in it is to be changed.
        return template.fill(self.flows * repeat, checksums=self.frame is None or bool(columns), **columns)

    def _columns(self) -> dict[str, Any]:
        """Return the columns that override a frame given in hex. A frame that was made here has them already."""
        if self.frame is None:
            return {}
        names = ("eth_dst", "eth_src", "ip_src", "ip_dst", "src_port", "dst_port")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _frame(self, device: Device, netns: NetNS) -> bytes:
        frame = self._made(device, netns) if self.frame is None else self._given()
        longest = device.mtu + _LINK_HEADER + _TAG * (frame[12:14] in (b"\x81\x00", b"\x88\xa8"))
        if len(frame) > longest:
            raise ArgumentError(
                f"a packet of {len(frame)} bytes is too long for {device.name}: its MTU is {device.mtu}, with headers "
                f"{longest} bytes. Next step: a smaller --size, or `ip link set dev {device.name} mtu …`."
            )
        return frame

    def _given(self) -> bytes:
        assert self.frame is not None
        try:
            return bytes.fromhex(re.sub(r"[\s:.-]", "", self.frame))
        except ValueError:
            raise ArgumentError(
                f"--frame cannot be {self.frame!r}. Next step: give the whole frame in hex, two digits for each byte, "
                "from the destination MAC address on."
            ) from None

    def _made(self, device: Device, netns: NetNS) -> bytes:
        from toolkit.packets.frames import udp_frame

        target, source, mac = self.ip_dst, self.ip_src, self.eth_dst
        family = 6 if ":" in (target or source or "") else 4
        if mac is None:
            if target is None:
                raise ArgumentError(
                    f"cannot send from {device.name}: nothing says where to. Next step: give --ip-dst ADDRESS (its MAC "
                    "address is taken from the kernel's neighbours), --eth-dst MAC, or a whole --frame."
                )
            mac, usual = next_hop(device.name, device.ifindex, target, netns)
            source = source or usual
        if source is None and target is not None:
            candidates = (one for one in own_addresses(device.ifindex, netns) if (":" in one) == (family == 6))
            source = next(candidates, None)
        _check(("--ip-dst", target, family), ("--ip-src", source, family))
        return udp_frame(
            size=self.size if self.size is not None else 64,
            source_port=self.src_port if self.src_port is not None else _SOURCE_PORT,
            destination_port=self.dst_port if self.dst_port is not None else _DISCARD,
            source_ip=source or _BENCHMARK[family][0],
            destination_ip=target or _BENCHMARK[family][1],
            source_mac=self.eth_src or device.mac.hex(":"),
            destination_mac=mac,
        )


def _check(*addresses: tuple[str, str | None, int]) -> None:
    for option, address, family in addresses:
        if address is None:
            continue
        try:
            socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, address)
        except OSError:
            raise ArgumentError(
                f"{option} {address} is not an IPv{family} address. Next step: give one, such as "
                f"{_BENCHMARK[family][1]}."
            ) from None
