# SPDX-License-Identifier: Apache-2.0
"""What `ip link set up` and `ethtool` do, by ioctl, in the calling thread's network namespace."""

from __future__ import annotations

import array
import socket
import struct
from fcntl import ioctl

from toolkit.errors import kernel_error

__all__ = ["gro", "offloads_off", "queues", "set_gro", "set_up"]

# linux/sockios.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCETHTOOL = 0x8946
# linux/if.h
IFF_UP = 1 << 0
IFF_NOARP = 1 << 7
# linux/ethtool.h
ETHTOOL_STXCSUM = 0x17
ETHTOOL_STSO = 0x1F
ETHTOOL_SGSO = 0x24
ETHTOOL_GFLAGS = 0x25
ETHTOOL_SFLAGS = 0x26
ETHTOOL_GGRO = 0x2B
ETHTOOL_SGRO = 0x2C
ETHTOOL_GCHANNELS = 0x3C
ETH_FLAG_TXVLAN = 1 << 7
ETH_FLAG_RXVLAN = 1 << 8


def _request(call: int, name: str, payload: bytes, tried: str) -> bytes:
    """One ioctl on interface `name`; `payload` is the union of struct ifreq. Returns that union, 24 bytes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            return ioctl(control, call, struct.pack("16s24s", name.encode(), payload))[16:]
        except OSError as refused:
            raise kernel_error("ioctl", refused.errno or 0, tried) from refused


def set_up(name: str, *, up: bool = True, arp: bool | None = None) -> None:
    """Bring the interface up or down; with `arp` also set or clear its IFF_NOARP. Its other flags stay."""
    tried = f"cannot bring {name} {'up' if up else 'down'}"
    (flags,) = struct.unpack_from("H", _request(SIOCGIFFLAGS, name, b"", tried))
    flags = flags | IFF_UP if up else flags & ~IFF_UP
    if arp is not None:
        flags = flags & ~IFF_NOARP if arp else flags | IFF_NOARP
    _request(SIOCSIFFLAGS, name, struct.pack("H", flags), tried)


def _ethtool(name: str, words: list[int], tried: str) -> array.array[int]:
    """One SIOCETHTOOL whose structure is u32 words, the command first. Returns the words as the kernel left them."""
    buffer = array.array("I", words)
    _request(SIOCETHTOOL, name, struct.pack("P", buffer.buffer_info()[0]), tried)
    return buffer


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
    """The numbers of receive and transmit queues in use, as `ethtool -l` shows them."""
    # cmd, max_rx, max_tx, max_other, max_combined, rx, tx, other, combined
    words = _ethtool(name, [ETHTOOL_GCHANNELS] + [0] * 8, f"cannot read the number of queues of {name}")
    return words[5] + words[8], words[6] + words[8]
