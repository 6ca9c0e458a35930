# SPDX-License-Identifier: Apache-2.0
"""An interface's offloads by their names, as `ethtool -k` shows them: by ioctl, in the calling thread's namespace."""

from __future__ import annotations

import array
import fcntl
import socket
import struct

__all__ = ["active_offloads"]

# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GSTRINGS = 0x1B
_ETHTOOL_GSSET_INFO = 0x37
_ETHTOOL_GFEATURES = 0x3A
_ETH_SS_FEATURES = 4
_ETH_GSTRING_LEN = 32


def active_offloads(name: str) -> dict[str, bool]:
    """The offloads that are on, by the kernel's names (rx-lro, rx-gro-hw, rx-vlan-hw-parse, …) -> can be switched off.

    Empty where the kernel does not say.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:

        def ask(words: list[int]) -> array.array[int]:
            buffer = array.array("I", words)
            fcntl.ioctl(asker, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), buffer.buffer_info()[0]))
            return buffer

        try:
            # struct ethtool_sset_info: cmd, reserved, sset_mask (u64), one count for each set bit
            (count,) = ask([_ETHTOOL_GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0, 0])[4:]
            strings = ask([_ETHTOOL_GSTRINGS, _ETH_SS_FEATURES, count] + [0] * (count * _ETH_GSTRING_LEN // 4))
            blocks = -(-count // 32)
            # struct ethtool_gfeatures: cmd, size, then available, requested, active, never_changed for each 32
            features = ask([_ETHTOOL_GFEATURES, blocks] + [0] * (blocks * 4))
        except OSError:
            return {}
    text = strings[3:].tobytes()
    names = [text[at : at + _ETH_GSTRING_LEN].split(b"\0")[0].decode() for at in range(0, len(text), _ETH_GSTRING_LEN)]
    active: dict[str, bool] = {}
    for number, one in enumerate(names):
        available, _, on, _ = features[2 + number // 32 * 4 :][:4]
        if on >> number % 32 & 1:
            active[one] = bool(available >> number % 32 & 1)
    return active
