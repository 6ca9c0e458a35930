# SPDX-License-Identifier: Apache-2.0
"""NicCounters: packets that a NIC or its driver lost since some moment, as far as they count them.

In zero-copy mode the frames of a fill ring are all that the NIC has to put packets in. What finds none is dropped in
the hardware: neither the XDP program nor the socket ever hears of it, and only the NIC can count it. Which counter that
is differs from driver to driver.
"""

from __future__ import annotations

import contextlib
import re

from toolkit._base.netns import Home
from toolkit.errors import ToolkitError
from toolkit.net.ethtool import Asker
from toolkit.net.sysfs import InterfaceDirectory

__all__ = ["NicCounters"]

# Packets for which the device had no room; these two are what libpcap calls dropped by the interface (ps_ifdrop).
_MISSED = ("rx_missed_errors", "rx_fifo_errors")
# Others of struct rtnl_link_stats64 that are losses. What "dropped" includes depends on the driver; veth has there what
# found no room in an RX ring.
_OTHERS = ("rx_dropped", "rx_errors", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors")
# Names of `ethtool -S`: rx_no_buffer_count, rx0_drops, rx_out_of_buffer, rx_queue_0_alloc_failed, port.rx_discards, …
_LOSS = re.compile(
    r"drop|discard|miss|no_?buf|out_?of_?buf|oob|no_?desc|no_dma|overflow|overrun|fifo|fail|errors?$|_err(_|$)",
    re.IGNORECASE,
)
# Packets that an XDP program dropped, as it was to: rx_queue_0_xdp_drops of veth, rx_xdp_drop of mlx5. Some drivers add
# redirects that failed, which the sockets count themselves.
_MEANT = re.compile(r"xdp_drops?$", re.IGNORECASE)
_SENDING = re.compile(r"(?:^|[^a-z])tx|transmit|collision|carrier", re.IGNORECASE)


class NicCounters:
    """The counters of one interface from now on. Reading never raises; close() it."""

    def __init__(self, interface: str, home: Home) -> None:
        """Begin, in the calling thread's network namespace, which is `home`."""
        self._interface = interface
        self._home = home
        self._missed: int | None = None  # as last read; written by missed()
        self._directory: InterfaceDirectory | None = None
        with contextlib.suppress(ToolkitError, OSError):  # no sysfs here: only the driver's are known
            self._directory = InterfaceDirectory(interface)
        self._before = self._read()  # names -> values: the kernel's, the driver's

    def missed(self) -> int | None:
        """Return how many packets the NIC had no room for since then; None where the kernel does not say it.

        After the device has gone, what was known last. Costs some 10 us.
        """
        now, before = self._of_kernel(_MISSED), self._before[0]
        if len(now) == len(_MISSED) and now.keys() <= before.keys():
            self._missed = sum(max(value - before[name], 0) for name, value in now.items())
        return self._missed

    def moved(self) -> dict[str, int]:
        """Return all counters of losses that have moved since then: name -> by how much. The kernel's first."""
        return {
            name: value - before.get(name, 0)
            for values, before in zip(self._read(), self._before, strict=True)
            for name, value in values.items()
            if value > before.get(name, 0)
        }

    def _read(self) -> tuple[dict[str, int], dict[str, int]]:
        return self._of_kernel((*_MISSED, *_OTHERS)), self._of_driver()

    def _of_kernel(self, names: tuple[str, ...]) -> dict[str, int]:
        found: dict[str, int] = {}
        if self._directory is not None:
            for name in names:
                with contextlib.suppress(ToolkitError, OSError, ValueError):
                    found[name] = self._directory.read(f"statistics/{name}")
        return found

    def _of_driver(self) -> dict[str, int]:
        with self._home.entered() as reached, contextlib.suppress(OSError):
            if reached:
                with Asker(self._interface) as asker:
                    return {name: value for name, value in asker.statistics().items() if is_loss(name)}
        return {}

    def close(self) -> None:
        """Close what is open. Repeatable."""
        if self._directory is not None:
            self._directory.close()


def is_loss(name: str) -> bool:
    """Return whether a driver's counter of this name counts packets that were lost on the way in."""
    return _LOSS.search(name) is not None and not (_SENDING.search(name) or _MEANT.search(name))
