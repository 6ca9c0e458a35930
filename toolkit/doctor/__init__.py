# SPDX-License-Identifier: Apache-2.0
"""Find what could keep AF_XDP from working on this machine and its interfaces, with a remedy each. Changes nothing.

for finding in examine("eth0"):
    print(finding.level, finding.text, finding.remedy)
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from toolkit._base.netns import NetNS, entered
from toolkit.doctor.finding import Finding, Level
from toolkit.doctor.interface import examine_interface
from toolkit.doctor.system import examine_system
from toolkit.errors import SystemCallError

__all__ = ["Finding", "Level", "examine"]


def examine(interface: str | None = None, *, netns: NetNS = None) -> Iterator[Finding]:
    """Examine the system, then `interface`; without a name, every interface of the network namespace but loopback.

    An interface that is down, or has no carrier, is a problem if it is named, else a note. SystemCallError (ENODEV)
    when there is no such interface.
    """
    with entered(netns):
        findings = [*_interfaces(interface)]
    yield from examine_system()
    yield from findings


def _interfaces(interface: str | None) -> Iterator[Finding]:
    if interface is not None:
        yield from examine_interface(interface, wanted=True)
        return
    for _, name in socket.if_nameindex():
        if name != "lo":
            try:
                yield from examine_interface(name, wanted=False)
            except SystemCallError as refused:
                if refused.errno != errno.ENODEV:  # it was removed meanwhile
                    raise
