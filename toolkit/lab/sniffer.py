# SPDX-License-Identifier: Apache-2.0
"""Sniffer: the frames that the kernel receives on an interface, by AF_PACKET: independent of AF_XDP."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from types import TracebackType

from toolkit._base.netns import NetNS, entered
from toolkit.errors import DeviceGoneError, SystemCallError, closed_error, kernel_error

__all__ = ["Sniffer"]

# linux/if_packet.h and linux/socket.h
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_AUXDATA = 8
PACKET_OUTGOING = 4
SO_RCVBUFFORCE = 33
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6
_AUXDATA = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_BUFFER = 64 << 20  # bytes of queue in the kernel
_LONGEST = 1 << 17


class Sniffer:
    """Frames that arrive at an interface, from the moment this object is made.

    Sees what the kernel's network stack sees: not the packets that an XDP program redirected or dropped. With
    `outgoing` it takes those that leave instead. For counts of up to some 100,000 frames; it copies each. One thread.
    """

    def __init__(self, interface: str, netns: NetNS = None, *, outgoing: bool = False) -> None:
        self._outgoing = outgoing
        self._socket: socket.socket | None = None
        tried = f"cannot capture on {interface}"
        try:
            with entered(netns):
                # Protocol 0 receives nothing until bind() names the interface: no frame of another one slips in.
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)
            self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
            self._socket.bind((interface, ETH_P_ALL))
        except SystemCallError:
            raise
        except OSError as refused:
            self.close()
            raise kernel_error("packet", refused.errno or 0, tried) from refused

    def fileno(self) -> int:
        """The socket's descriptor, for select and epoll."""
        return self._open().fileno()

    def frames(self, count: int | None = None, timeout: float = 1.0) -> list[bytes]:
        """Up to `count` frames (None: no bound), as they were on the wire; fewer after `timeout` seconds without one.

        With timeout 0 it returns what has arrived already. Raises `DeviceGoneError` when the interface goes down.
        """
        source = self._open()
        found: list[bytes] = []
        deadline = time.monotonic() + timeout
        while count is None or len(found) < count:
            source.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                data, ancillary, _, address = source.recvmsg(_LONGEST, 64)
            except (BlockingIOError, TimeoutError):
                break
            except OSError as refused:
                if refused.errno == errno.ENETDOWN:
                    raise DeviceGoneError(
                        errno.ENETDOWN, "the captured interface went down or was deleted. Next step: check `ip link`."
                    ) from refused
                raise
            if (address[2] == PACKET_OUTGOING) == self._outgoing:
                found.append(_with_tag(data, ancillary))
                deadline = time.monotonic() + timeout
        return found

    def lost(self) -> int:
        """How many frames found the queue full since the last call."""
        _, dropped = struct.unpack("=II", self._open().getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        return int(dropped)

    def close(self) -> None:
        """Stop capturing. May be called again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise closed_error("this capture was closed")
        return self._socket

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _with_tag(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """Put the outermost VLAN tag back, which the kernel takes out of a frame and hands over beside it."""
    for level, kind, content in ancillary:
        if level == SOL_PACKET and kind == PACKET_AUXDATA and len(content) >= _AUXDATA.size:
            status, _, _, _, _, control, protocol = _AUXDATA.unpack_from(content)
            if status & TP_STATUS_VLAN_VALID:
                protocol = protocol if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                return data[:12] + struct.pack("!HH", protocol, control) + data[12:]
    return data
