# SPDX-License-Identifier: Apache-2.0
"""Where `xsk capture` writes to, and what it says there: pipes, FIFOs, terminals; closed, full, or read by nobody."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from tests.helpers.capturing import WHAT, XSK, capture, capturing, recorded
from tests.helpers.cli import ENVIRONMENT
from tests.helpers.wire import Wire, catches, eventually, frame
from tests.helpers.workers import is_attached
from toolkit.cli.stop import BURST
from toolkit.lab import Lab


@pytest.mark.needs("tcpdump", "tshark")
@pytest.mark.parametrize(
    "reader",
    [["tcpdump", "-n", "-t", "-e", "-l", "-r", "-"], ["tshark", "-n", "-l", "-r", "-"]],
    ids=["tcpdump", "tshark"],
)
def test_a_pipe_is_live(lab: Lab, wire: Wire, reader: list[str]) -> None:
    """The reader shows a packet soon after it came, while the capture goes on."""
    piped = subprocess.Popen(
        reader, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert piped.stdin is not None
    assert piped.stdout is not None
    with capturing(lab, *WHAT, "-w", "-", stdout=piped.stdin) as process:
        piped.stdin.close()
        piped.stdin = None
        for i in range(3):
            wire.send([frame(i, 60 + i)])
            assert f"{60 + i}" in piped.stdout.readline()
            if reader[0] == "tcpdump":
                while not piped.stdout.readline().startswith("\t0x0020"):  # the rest of its hex
                    pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    piped.communicate(timeout=20)
    assert process.returncode == 0, err
    assert piped.returncode == 0
    assert "3 packets" in err


def test_a_closed_pipe_ends_it_with_a_sentence(lab: Lab, wire: Wire) -> None:
    with capturing(lab, *WHAT, "-w", "-") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        assert eventually(lambda: wire.send([frame(0)]) is None and process.poll() is not None)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the program that read the pipe has ended" in err
    assert "Traceback" not in err
    assert not is_attached(lab)


def test_a_fifo_is_opened_when_somebody_reads_it_and_nothing_is_taken_before(
    lab: Lab, wire: Wire, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [*XSK, *WHAT, "-w", str(fifo)]
    process = lab.netns.popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    eventually(lambda: catches(process.pid, signal.SIGTERM), timeout=20)  # Python by itself does not
    time.sleep(0.5)  # for what must not happen
    assert not is_attached(lab)
    process.send_signal(signal.SIGINT)  # it can be ended while it waits
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "no process reads this pipe" in err
    process = lab.netns.popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    with open(fifo, "rb") as reader:
        assert process.stderr is not None
        assert "native XDP" in process.stderr.readline()
        before = lab.counters()["rx_packets"]
        wire.send([frame(i) for i in range(5)])
        assert eventually(lambda: lab.counters()["rx_packets"] >= before + 5)
        process.send_signal(signal.SIGINT)
        (tmp_path / "a.pcapng").write_bytes(reader.read())  # to its end
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert recorded(tmp_path / "a.pcapng") == [frame(i) for i in range(5)]


@pytest.mark.timing("it captures for 2.5 s, in which the packets have to come")
def test_who_stops_reading_the_progress_costs_no_packets(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with capturing(lab, *WHAT, "-w", path, "--interval", "0.1", "--seconds", "2.5") as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        time.sleep(0.5)  # the first lines of progress
        wire.send([frame(i) for i in range(5)])
        assert process.wait(20) == 0
    assert recorded(path) == [frame(i) for i in range(5)]


def test_a_closed_standard_output_gets_no_packets(lab: Lab) -> None:
    """Its number belongs to something else by then, such as a socket."""
    script = f"exec {' '.join(XSK)} udp -w - --seconds 1 >&-"
    done = lab.netns.run(["bash", "-c", script], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert "standard output is closed" in done.stderr


def test_a_terminal_gets_no_packets(lab: Lab) -> None:
    import pty

    main, end = pty.openpty()
    try:
        done = capture(lab, *WHAT, "-w", "-", stdout=end)
    finally:
        os.close(main)
        os.close(end)
    assert done.returncode == 1
    assert "is a terminal" in done.stderr


def test_the_time_begins_when_it_captures(lab: Lab, tmp_path: Path) -> None:
    """A reader of the FIFO who comes late does not cost the capture its seconds."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = lab.netns.popen(
        [*XSK, "udp", "-w", str(fifo), "--seconds", "2", "--json"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert eventually(lambda: catches(process.pid, signal.SIGTERM), timeout=20)
    time.sleep(1.2)  # the reader is late
    with open(fifo, "rb") as reader:
        reader.read()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(out)["seconds"] >= 1.9


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_without_stderr_the_packets_stay_packets(lab: Lab, wire: Wire, tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "out.pcapng"
    line = " ".join([*XSK, *WHAT, "-w", "-", "-c", "5", *options, f"2>&- >{path}"])
    process = lab.netns.popen(["bash", "-c", line], env=ENVIRONMENT)
    with process:
        assert eventually(lambda: is_attached(lab), 20)
        assert eventually(lambda: path.stat().st_size > 0, 20)
        wire.send([frame(i) for i in range(5)])
        assert process.wait(20) == 0
    assert recorded(path) == [frame(i) for i in range(5)]


@pytest.mark.parametrize("command", ["status", "doctor", "drop veth0 -f udp --seconds 0.1"])
def test_without_stdout_json_goes_nowhere(lab: Lab, command: str) -> None:
    line = f"{sys.executable} -m toolkit.cli {command} --json >&-"
    done = lab.netns.run(["bash", "-c", line], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or command == "doctor"


def test_a_full_stderr_that_nobody_reads_stops_nothing(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    path = tmp_path / "a.pcapng"
    process = lab.netns.popen([*XSK, *WHAT, "-w", str(path), "--interval", "0.1"], env=ENVIRONMENT, stderr=writer)
    try:
        with process:
            assert eventually(lambda: is_attached(lab) and path.exists(), 20)
            time.sleep(0.5)  # the first lines of progress, for which there is no room
            wire.send([frame(i) for i in range(5)])
            assert eventually(lambda: len(recorded(path)) == 5, 10)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
    finally:
        os.close(reader)
        os.close(writer)
    assert recorded(path) == [frame(i) for i in range(5)]


def waiting_in(pipe: int) -> int:
    """Bytes that wait to be read."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])


def test_a_second_signal_of_another_kind_ends_it_at_once(lab: Lab, wire: Wire) -> None:
    reader, writer = os.pipe()  # which nobody reads
    try:
        with capturing(lab, *WHAT, "-w", "-", stdout=writer) as process:
            wire.send([frame(i, 1500) for i in range(200)])
            room = fcntl.fcntl(reader, fcntl.F_GETPIPE_SZ)
            assert eventually(lambda: waiting_in(reader) > room - 4096)  # it is full
            process.send_signal(signal.SIGTERM)
            time.sleep(BURST + 0.2)  # later than what comes together
            process.send_signal(signal.SIGINT)
            assert process.wait(3) == -signal.SIGINT
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("limit", range(5, 14))
def test_without_descriptors_it_says_so(lab: Lab, tmp_path: Path, limit: int) -> None:
    line = f"ulimit -n {limit}; {' '.join(XSK)} {' '.join(WHAT)} -w {tmp_path}/a.pcap -c 1 --seconds 0.1"
    done = lab.netns.run(["bash", "-c", line], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    assert "ENODEV" not in done.stderr
    assert done.returncode == 0 or "EMFILE" in done.stderr or "Too many open files" in done.stderr, done.stderr
