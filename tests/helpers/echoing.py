# SPDX-License-Identifier: Apache-2.0
"""A Responder that runs in a thread, and who asks it."""

from __future__ import annotations

import threading
from typing import Any

import toolkit
from toolkit.forward.answers import Answers
from toolkit.forward.responder import Responder
from toolkit.lab import Lab

__all__ = ["IP4", "IP6", "MAC", "PORT", "Host", "answerable", "run"]

MAC = bytes.fromhex("020000000001")
# Addresses that no kernel has: who answers for them is the Responder.
IP4, IP6 = "10.11.0.77", "fd11::77"
PORT = 7


class Host:
    """A Responder on the near end of a Lab, which runs in a thread."""

    def __init__(self, lab: Lab, *, spin: bool = False, ring_size: int = 256, **options: Any) -> None:
        self.interface = toolkit.open("veth0", filter="all", ring_size=ring_size, netns=lab.netns, **options)
        self.responder = Responder(self.interface, Answers(MAC, [IP4, IP6], udp_port=PORT))
        self.failure: BaseException | None = None
        self._stop = threading.Event()
        self._spin = spin
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.responder.run(stop=self._stop.is_set, spin=self._spin)
        except BaseException as failure:
            self.failure = failure

    def stop(self) -> None:
        self._stop.set()
        self.thread.join(5)

    def __enter__(self) -> Host:
        self.thread.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.stop()
        if raised[0] is None and self.failure is None:
            assert self.interface.flush(5.0)
            audit = self.interface.umem.audit()
            assert audit["rx"] + audit["free"] == audit["frames"], audit
        self.interface.close()
        if raised[0] is None and self.failure is not None:
            raise self.failure


def run(lab: Lab, *command: str) -> str:
    done = lab.far.run(list(command), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def answerable() -> bytes:
    from scapy.layers.inet import ICMP, IP
    from scapy.layers.l2 import Ether

    packet = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / IP(src="10.11.0.2", dst=IP4) / ICMP()
    return bytes(packet)
