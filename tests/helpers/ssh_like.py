# SPDX-License-Identifier: Apache-2.0
"""A login as sshd makes one: accepts a TCP connection and runs a command under it, then tells whether it still works.

Run with: address, port, command and its arguments. Prints "listening", and at the end a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys

DEADLINE = 20.0  # seconds for a word to cross a private cable
ANSWER = os.environ.get("SSH_LIKE_ANSWER")  # typed at the terminal that the command gets; without: no terminal


def on_terminal(command: list[str], answer: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a terminal, and type `answer` when it asks."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while piece := os.read(master, 4096):
            shown += piece
            if answer and b"[y/N]" in shown:
                os.write(master, answer.encode() + b"\n")
                answer = ""
    os.close(master)
    return subprocess.CompletedProcess(command, process.wait(), shown.decode(), "")


def main() -> None:
    address, port, *command = sys.argv[1:]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, int(port)), family=family) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
    with connection:
        connection.settimeout(DEADLINE)
        assert connection.recv(16) == b"hello"
        if ANSWER:
            done = on_terminal(command, ANSWER)
        else:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        connection.sendall(b"still there?")
        try:
            works = connection.recv(16) == b"yes"
        except TimeoutError:
            works = False
    print(json.dumps({"status": done.returncode, "out": done.stdout, "err": done.stderr, "works": works}))


if __name__ == "__main__":
    main()
