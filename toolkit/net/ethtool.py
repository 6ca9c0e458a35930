# SPDX-License-Identifier: Apache-2.0
"""Do what `ip link set up` and `ethtool` do, by ioctl on one interface, in the calling thread's network namespace."""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Sequence
from fcntl import ioctl
from typing import NamedTuple

from toolkit.errors import kernel_error

__all__ = ["Asker", "Channels", "active_offloads", "gro", "offloads_off", "queues", "set_gro", "set_up"]

# linux/sockios.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCETHTOOL = 0x8946
# linux/if.h
IFF_UP = 1 << 0
IFF_NOARP = 1 << 7
# linux/ethtool.h
ETHTOOL_GDRVINFO = 0x03
ETHTOOL_STXCSUM = 0x17
ETHTOOL_GSTRINGS = 0x1B
ETHTOOL_GSTATS = 0x1D
ETHTOOL_STSO = 0x1F
ETHTOOL_SGSO = 0x24
ETHTOOL_GFLAGS = 0x25
ETHTOOL_SFLAGS = 0x26
ETHTOOL_GGRO = 0x2B
ETHTOOL_SGRO = 0x2C
ETHTOOL_GSSET_INFO = 0x37
ETHTOOL_GFEATURES = 0x3A
ETHTOOL_GCHANNELS = 0x3C
ETH_FLAG_TXVLAN = 1 << 7
ETH_FLAG_RXVLAN = 1 << 8
ETH_SS_STATS = 1
ETH_SS_FEATURES = 4
ETH_GSTRING_LEN = 32


class Channels(NamedTuple):
    """The queues in use, as `ethtool -l` shows them."""

    rx: int
    tx: int
    paired: bool  # whether receive and transmit queues are counted in pairs ("combined")


class Asker:
    """One socket for the ioctls about one interface. OSError as the kernel gives it. Use it as a context manager."""

    def __init__(self, name: str | bytes) -> None:
        """In the calling thread's network namespace, which the socket stays in."""
        self._name = name.encode(errors="surrogateescape") if isinstance(name, str) else name
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """One ioctl; `payload` is the union of struct ifreq. Returns that union, 24 bytes."""
        return ioctl(self._socket, request, struct.pack("16s24s", self._name, payload))[16:]

    def ethtool(self, words: Sequence[int]) -> array.array[int]:
        """One SIOCETHTOOL whose structure is u32 words, the command first. Returns what the kernel made of them."""
        buffer = array.array("I", words)
        self.ask(SIOCETHTOOL, struct.pack("P", buffer.buffer_info()[0]))
        return buffer

    def channels(self) -> Channels:
        """The numbers of queues in use."""
        # struct ethtool_channels: cmd, max_rx, max_tx, max_other, max_combined, rx, tx, other, combined
        *_, rx, tx, _other, combined = self.ethtool([ETHTOOL_GCHANNELS] + [0] * 8)
        return Channels(rx + combined, tx + combined, combined > 0)

    def driver(self) -> tuple[str, str]:
        """The driver's name, and on which bus the device is."""
        # struct ethtool_drvinfo (196 bytes): cmd, driver[32], version[32], fw_version[32], bus_info[32], …
        text = self.ethtool([ETHTOOL_GDRVINFO] + [0] * 48).tobytes()
        driver, bus = (text[at : at + 32].split(b"\0")[0].decode(errors="replace") for at in (4, 100))
        return driver, bus

    def offloads(self) -> dict[str, bool]:
        """The offloads that are on, by the kernel's names -> whether they can be switched off."""
        names = self._strings(ETH_SS_FEATURES)
        blocks = -(-len(names) // 32)
        # struct ethtool_gfeatures: cmd, size, then available, requested, active, never_changed for each 32
        features = self.ethtool([ETHTOOL_GFEATURES, blocks] + [0] * (blocks * 4))
        active: dict[str, bool] = {}
        for number, name in enumerate(names):
            available, _, on, _ = features[2 + number // 32 * 4 :][:4]
            if on >> number % 32 & 1:
                active[name] = bool(available >> number % 32 & 1)
        return active

    def statistics(self) -> dict[str, int]:
        """The driver's own counters, by its own names, as `ethtool -S` shows them."""
        names = self._strings(ETH_SS_STATS)
        # struct ethtool_stats: cmd, n_stats, then a u64 for each
        values = self.ethtool([ETHTOOL_GSTATS, len(names)] + [0] * (2 * len(names)))[2:].tobytes()
        return dict(zip(names, struct.unpack(f"={len(names)}Q", values), strict=True))

    def _strings(self, kind: int) -> list[str]:
        """The names in a set of strings, ETH_SS_*."""
        # struct ethtool_sset_info: cmd, reserved, sset_mask (u64), one count for each set bit
        count = self.ethtool([ETHTOOL_GSSET_INFO, 0, 1 << kind, 0, 0])[4]
        words = self.ethtool([ETHTOOL_GSTRINGS, kind, count] + [0] * (count * ETH_GSTRING_LEN // 4))
        text = words[3:].tobytes()
        cells = (text[at * ETH_GSTRING_LEN :][:ETH_GSTRING_LEN] for at in range(count))
        return [cell.split(b"\0")[0].decode(errors="replace").strip() for cell in cells]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def active_offloads(name: str) -> dict[str, bool]:
    """The offloads that are on, by the kernel's names (rx-lro, rx-gro-hw, rx-vlan-hw-parse, …) -> can be switched off.

    Empty where the kernel does not say.
    """
    try:
        with Asker(name) as asker:
            return asker.offloads()
    except OSError:
        return {}


def set_up(name: str, *, up: bool = True, arp: bool | None = None) -> None:
    """Bring the interface up or down; with `arp` also set or clear its IFF_NOARP. Its other flags stay."""
    try:
        with Asker(name) as asker:
            (flags,) = struct.unpack_from("H", asker.ask(SIOCGIFFLAGS))
            flags = flags | IFF_UP if up else flags & ~IFF_UP
            if arp is not None:
                flags = flags & ~IFF_NOARP if arp else flags | IFF_NOARP
            asker.ask(SIOCSIFFLAGS, struct.pack("H", flags))
    except OSError as refused:
        tried = f"cannot bring {name} {'up' if up else 'down'}"
        raise kernel_error("ioctl", refused.errno or 0, tried) from refused


def _ethtool(name: str, words: Sequence[int], tried: str) -> array.array[int]:
    try:
        with Asker(name) as asker:
            return asker.ethtool(words)
    except OSError as refused:
        raise kernel_error("ioctl", refused.errno or 0, tried) from refused


def _set_value(name: str, command: int, value: int) -> None:
    """An ethtool command of struct ethtool_value, such as ETHTOOL_SGRO."""
    _ethtool(name, [command, value], f"cannot change an offload of {name} (ethtool command {command:#x} = {value})")


def offloads_off(name: str) -> None:
    """What the wire carries is then what the receiver sees: no open checksums, no giant segments, no hidden tags.

    Off: TX checksums, TSO, GSO, GRO, VLAN tag insertion and removal.
    """
    for command in (ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_SGRO):
        _set_value(name, command, 0)
    flags = _ethtool(name, [ETHTOOL_GFLAGS, 0], f"cannot read the offloads of {name}")[1]
    _set_value(name, ETHTOOL_SFLAGS, flags & ~(ETH_FLAG_TXVLAN | ETH_FLAG_RXVLAN))


def gro(name: str) -> bool:
    """Whether generic receive offload is on."""
    return _ethtool(name, [ETHTOOL_GGRO, 0], f"cannot read the offloads of {name}")[1] != 0


def set_gro(name: str, on: bool) -> None:
    """Switch generic receive offload on or off."""
    _set_value(name, ETHTOOL_SGRO, int(on))


def queues(name: str) -> tuple[int, int]:
    """The numbers of receive and transmit queues in use."""
    try:
        with Asker(name) as asker:
            rx, tx, _ = asker.channels()
            return rx, tx
    except OSError as refused:
        raise kernel_error("ioctl", refused.errno or 0, f"cannot read the number of queues of {name}") from refused
