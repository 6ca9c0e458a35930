# SPDX-License-Identifier: Apache-2.0
"""The xsk command as a process in a lab's namespace: run to its end, or for the length of a block, once it is ready."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from tests.helpers.wire import child_environment, eventually
from toolkit.lab import Lab
from toolkit.lab.namespace import Namespace

__all__ = [
    "ENVIRONMENT",
    "WAITS",
    "XSK",
    "descendants",
    "ended",
    "ended_after",
    "events",
    "index_of",
    "inheriting",
    "line_with",
    "reconciles",
    "running",
    "transfer",
    "udp_socket",
    "xsk",
]

XSK = [sys.executable, "-m", "toolkit.cli"]
ENVIRONMENT = child_environment(PYTHONUNBUFFERED="1")
WAITS: tuple[list[str], ...] = ([], ["--busy-poll"], ["--spin"])  # every way to wait for packets


def inheriting(ignored: Sequence[int] = (), blocked: Sequence[int] = ()) -> list[str]:
    """A command that has these signals ignored or blocked and becomes the command behind it."""
    code = (
        "import os, signal, sys\n"
        f"for number in {[int(one) for one in ignored]}: signal.signal(number, signal.SIG_IGN)\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {[int(one) for one in blocked]})\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-I", "-S", "-c", code]


def xsk(lab: Lab, *arguments: str, wrapper: Sequence[str] = (), **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it (behind `wrapper`, say nohup) to its end."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
    return lab.netns.run([*wrapper, *XSK, *arguments], env=ENVIRONMENT, **options)


@contextlib.contextmanager
def running(
    lab: Lab, *arguments: str, ready: int = 2, wrapper: Sequence[str] = (), **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start it (behind `wrapper`) and wait until it has everything open.

    `ready` is the number of Sockets and Interfaces (or Tees); workers have theirs to themselves, there it is 0.
    """
    options = {"env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = lab.netns.popen([*wrapper, *XSK, *arguments], **options)
    try:
        assert eventually(lambda: events(process.pid) >= ready or process.poll() is not None, 30, step=0.02)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def descendants(pid: int) -> dict[int, str]:
    """Programs that it started, and theirs: pid and command line."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                for child in map(int, file.read().split()):
                    with open(f"/proc/{child}/cmdline") as line:
                        found[child] = line.read().replace("\0", " ")
                    found |= descendants(child)
    return found


def events(pid: int) -> int:
    """How many event descriptors it has: one for each Socket, and one for an Interface, which is made last."""
    found = 0
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found += "eventfd" in os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def ended(process: subprocess.Popen[str], number: int | None = signal.SIGINT, status: int = 0) -> dict[str, Any]:
    """End the command and return the JSON object that it printed."""
    if number is not None:
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status, (out, err)
    assert "Traceback" not in err
    report: dict[str, Any] = json.loads(out)
    return report


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Wait for a line on standard output that has `text` in it. What was printed before is not seen again."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"it ended without a line that has {text!r} in it")


def index_of(namespace: Namespace, name: str) -> int:
    with namespace.entered():
        return socket.if_nametoindex(name)


def reconciles(report: dict[str, Any]) -> bool:
    reasons = report["drop_reasons"]
    assert len(reasons) == 6
    assert report["dropped"] == reasons["rx_dropped"] + reasons["rx_ring_full"]
    return bool(report["received"] + report["dropped"] == report["redirected"])


def udp_socket(namespace: Namespace, port: int, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    """A socket of the kernel's, bound to a port."""
    with namespace.entered():
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind(("", port))
    made.settimeout(2)
    return made


def transfer(server: Namespace, client: Namespace, address: str, size: int) -> bool:
    """Send `size` bytes by TCP between two kernels; whether they arrived as they were."""
    data = os.urandom(size)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.entered():
        listener = socket.create_server((address, 5001), family=family)
    with client.entered():
        sender = socket.socket(family)
    digest = hashlib.sha256()

    def receive() -> None:
        accepted, _ = listener.accept()
        with accepted:
            while chunk := accepted.recv(65536):
                digest.update(chunk)

    with listener, sender:
        receiver = threading.Thread(target=receive)
        receiver.start()
        sender.settimeout(20)
        sender.connect((address, 5001))
        sender.sendall(data)
        sender.shutdown(socket.SHUT_WR)
        receiver.join(20)
    return digest.digest() == hashlib.sha256(data).digest()


def ended_after(process: Any, lab: Lab, packets: int, number: int = signal.SIGINT) -> Any:
    """End xsk when the driver has seen N packets; the object it prints, or what it says on standard error."""
    assert eventually(lambda: lab.counters()["rx_packets"] >= packets)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return json.loads(out) if out.startswith("{") else err
