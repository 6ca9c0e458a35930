# SPDX-License-Identifier: Apache-2.0
"""`xsk capture`, run as a person runs it: files, pipes, signals, and what the exit code says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers.wire import Wire, child_environment, eventually, frame
from toolkit.cli.stop import BURST
from toolkit.lab import Lab
from toolkit.program import attached

pytestmark = [
    pytest.mark.needs("tcpdump", "tshark"),
    pytest.mark.timing("it gives a process part of a second for its work, which it may have to wait for"),
]

XSK = [sys.executable, "-m", "toolkit.cli", "capture", "veth0"]
WHAT = ["ether", "proto", "0x88b5"]  # what frame() makes; several words, as one types them
ENVIRONMENT = child_environment(PYTHONUNBUFFERED="1")


def capture(lab: Lab, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **options}
    return lab.netns.run([*XSK, *map(str, arguments)], env=ENVIRONMENT, **options)


def is_attached(lab: Lab) -> bool:
    import socket

    with lab.netns.entered():
        return attached(socket.if_nametoindex(lab.interface)) is not None


@contextlib.contextmanager
def capturing(lab: Lab, *arguments: Any, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start it, and wait until it says what it captures (and so has its file)."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = lab.netns.popen([*XSK, *map(str, arguments)], env=ENVIRONMENT, **options)
    try:
        if "--json" in arguments:
            file = Path(arguments[arguments.index("-w") + 1])
            assert eventually(lambda: any(file.parent.glob(f"{file.stem}*")) or process.poll() is not None, 20)
            time.sleep(0.1)
        else:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert "native XDP" in first, first + process.stderr.read()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def recorded(path: Path) -> list[bytes]:
    with toolkit.read(path) as source:
        return [bytes(one) for batch in source for one in batch]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(lab: Lab, wire: Wire, tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.pcapng"
    with capturing(lab, *WHAT, "-w", path) as process:
        wire.send([frame(i) for i in range(200)])
        assert eventually(lambda: path.stat().st_size > 200 * 64)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == ""
    assert recorded(path) == [frame(i) for i in range(200)]
    assert "redirected 200 = received 200\n" in err
    assert "received 200 = written 200" in err
    assert "LACKS" not in err
    assert not is_attached(lab)


def test_json_says_the_same(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    with capturing(lab, *WHAT, "-w", path, "--json", "-c", 5) as process:
        wire.send([frame(i) for i in range(12)])
        out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)
    assert report["format"] == "pcap"
    assert report["written"] == 5 == len(recorded(path))  # just as many as were asked for
    assert report["received"] == report["written"] + report["unwanted"]
    assert report["redirected"] == report["received"] + report["dropped"]
    assert report["whole"] is True
    assert report["error"] is None
    assert report["file_bytes"] == path.stat().st_size


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
        for i in range(200):
            wire.send([frame(i)])
            if process.poll() is not None:
                break
            time.sleep(0.05)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the program that read the pipe has ended" in err
    assert "Traceback" not in err
    assert not is_attached(lab)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for the signal."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def test_a_fifo_is_opened_when_somebody_reads_it_and_nothing_is_taken_before(
    lab: Lab, wire: Wire, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [*XSK, *WHAT, "-w", str(fifo)]
    process = lab.netns.popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    eventually(lambda: catches(process.pid, signal.SIGTERM), timeout=20)  # Python by itself does not
    time.sleep(0.5)
    assert not is_attached(lab)
    process.send_signal(signal.SIGINT)  # it can be ended while it waits
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "no process reads this pipe" in err
    process = lab.netns.popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    with open(fifo, "rb") as reader:
        assert process.stderr is not None
        assert "native XDP" in process.stderr.readline()
        wire.send([frame(i) for i in range(5)])
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        (tmp_path / "a.pcapng").write_bytes(reader.read())  # to its end
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert recorded(tmp_path / "a.pcapng") == [frame(i) for i in range(5)]


def test_who_stops_reading_the_progress_costs_no_packets(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with capturing(lab, *WHAT, "-w", path, "--interval", "0.1", "--seconds", "2.5") as process:
        assert process.stderr is not None
        process.stderr.close()
        process.stderr = None
        time.sleep(0.5)
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


def test_a_file_that_exists_is_refused_before_anything_is_taken(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(b"precious")
    done = capture(lab, *WHAT, "-w", path, "--seconds", "0.1")
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert "--overwrite" in done.stderr
    assert "XDP" not in done.stderr
    assert path.read_bytes() == b"precious"
    done = capture(lab, *WHAT, "-w", path, "--seconds", "0.1", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert recorded(path) == []


@pytest.mark.parametrize(
    ("options", "mode"), [((), 0o600), (("--file-group", "0"), 0o640), (("--file-mode", "644"), 0o644)]
)
def test_only_who_was_named_reads_it(lab: Lab, tmp_path: Path, options: tuple[str, ...], mode: int) -> None:
    before = os.umask(0)
    try:
        done = capture(lab, *WHAT, "-w", tmp_path / "a.pcapng", "--seconds", "0.1", *options)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.pcapng").stat().st_mode & 0o777 == mode


def test_rotation_by_size(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    with capturing(lab, *WHAT, "-w", tmp_path / "a.pcapng", "-C", "4k", "-c", "200", "--json") as process:
        wire.send([frame(i, 64) for i in range(200)])
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    report = json.loads(out)
    files = [tmp_path / "a.pcapng", *(tmp_path / f"a.pcapng{i}" for i in range(1, report["files"]))]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert report["files"] >= 5
    assert [one for file in files for one in recorded(file)] == [frame(i, 64) for i in range(200)]
    assert report["file_bytes"] == sum(file.stat().st_size for file in files)


def test_rotation_by_time_and_count_ends_by_itself(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    """Also while nothing comes."""
    with capturing(lab, *WHAT, "-w", tmp_path / "a-%s.pcap", "-G", "1.5", "-W", "2") as process:
        wire.send([frame(i) for i in range(10)])
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert [packet for one in files for packet in recorded(one)] == [frame(i) for i in range(10)]


def test_a_vanished_interface_is_an_error_and_the_file_is_whole(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with capturing(lab, *WHAT, "-w", path) as process:
        wire.send([frame(i) for i in range(10)])
        assert eventually(lambda: path.stat().st_size > 10 * 64)
        lab.delete_interface()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert len(recorded(path)) == 10


def test_the_progress_line_tells_rate_kept_dropped_and_size(lab: Lab, tmp_path: Path) -> None:
    with capturing(lab, "udp", "-w", tmp_path / "a.pcapng", "--seconds", "3", "--interval", "0.5") as process:
        lab.udp(count=500, rate=500)
        _, err = process.communicate(timeout=20)
    lines = [line for line in err.splitlines() if "packets/s  " in line]
    assert len(lines) >= 2
    for words in ("total", "dropped 0", "bit/s", "file "):
        assert all(words in line for line in lines)


def test_tee_leaves_the_kernel_its_packets(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with capturing(lab, "icmp", "-w", path, "--tee") as process:
        assert lab.ping(count=5).received == 5
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert len(recorded(path)) == 5
    with capturing(lab, "icmp", "-w", path, "--overwrite") as process:
        assert lab.ping(count=2, wait=0.1).received == 0  # without, it does not get them


def test_what_the_kernel_got_is_counted_whatever_the_reason(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    for options, passed in ((["--sample", "4000000000"], 40), (["--tee"], 40), ([], 0)):
        with capturing(lab, *WHAT, "-w", path, "--overwrite", *options) as process:
            wire.send([frame(i) for i in range(40)])
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        told = re.search(r"passed on to the kernel: ([\d,]+)", err)
        # Beside ours, the kernels of both ends say hello to each other.
        assert passed <= (int(told[1].replace(",", "")) if told else 0) < passed + 30
        assert ("not of the sample 40" in err) == bool(options[1:]), err


def test_the_file_has_the_filter_that_libpcap_reads_and_tells_the_rest(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    for expression, filtering, words in (("udp", "udp", "1 of 100, first 64 B"), ("all", "", "1 of 100")):
        capture(lab, expression, "-w", path, "--overwrite", "--sample", "100", "-s", "64", "--seconds", "0.1")
        with toolkit.read(path) as recorded:
            assert recorded.filter == filtering
        told = subprocess.run(["capinfos", path], capture_output=True, text=True, check=True).stdout
        assert words in told
    capture(lab, "udp", "-w", path, "--overwrite", "-s", "0", "--seconds", "0.1")
    with toolkit.read(path) as recorded:
        assert recorded.filter == "udp"
    assert (
        "less than an Ethernet header. Next step: give 14 bytes" in capture(lab, "udp", "-w", path, "-s", "13").stderr
    )


def test_the_time_begins_when_it_captures(lab: Lab, tmp_path: Path) -> None:
    """A reader of the FIFO who comes late does not cost the capture its seconds."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = lab.netns.popen(
        [*XSK, "udp", "-w", str(fifo), "--seconds", "2", "--json"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    time.sleep(1.2)
    with open(fifo, "rb") as reader:
        reader.read()
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(out)["seconds"] >= 1.9


@pytest.mark.needs("pyarrow")
def test_parquet_by_its_suffix(lab: Lab, tmp_path: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    with capturing(lab, "udp", "-w", path, "-c", "20", "--json") as process:
        lab.udp(count=20)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["written"] == 20
    table = pyarrow.parquet.read_table(path)
    assert table.num_rows == 20
    assert set(table["dst_port"].to_pylist()) == {9}
    assert table.schema.metadata[b"filter"] == b"udp"


def test_compression_by_suffix_and_by_option(lab: Lab, wire: Wire, tmp_path: Path) -> None:
    for name, options in (("a.pcapng.gz", ()), ("b", ("--compress", "gzip", "--pcap"))):
        path = tmp_path / name
        with capturing(lab, *WHAT, "-w", path, "-c", "50", *options) as process:
            wire.send([frame(i) for i in range(50)])
            _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert path.read_bytes()[:2] == b"\x1f\x8b"
        assert recorded(path) == [frame(i) for i in range(50)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-w", "x"], "no filter says what to take"),
        (["udp"], "--write"),
        (["udp", "-w", "x", "-C", "many"], "is not a size"),
        (["udp", "-w", "x", "-W", "3"], "without a size or a time"),
        (["udp", "-w", "x", "-G", "3"], "holds no time"),
        (["udp", "-w", "-", "-C", "3"], "cannot rotate"),
        (["udp", "-w", "x.parquet", "-C", "3"], "does not rotate"),
        (["udp", "-w", "x.parquet.gz"], "compresses by itself"),
        (["udp", "-w", "no/such/x"], "directory does not exist"),
        (["udp", "-w", "ds/", "--pcap"], "names a directory"),
        (["udp", "-w", "x", "--file-mode", "rw"], "not a mode"),
        (["udp", "-w", "x", "--file-mode", "755"], "mode cannot be 0o755"),
        (["udp", "-w", "x", "--file-group", "no-such"], "no group"),
        (["udp", "-w", "x", "--tee", "--spin"], "--tee copies packets"),
        (["udp", "and", "and", "-w", "x"], "syntax error"),
    ],
)
def test_what_makes_no_sense_is_refused(lab: Lab, tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = capture(lab, *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert expected in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert not is_attached(lab)


def test_the_help_says_what_it_takes_away(lab: Lab) -> None:
    text = " ".join(capture(lab, "--help").stdout.split())
    for part in (
        "so that this host does not get them",
        "With --tee the file gets copies",
        "`xsk help filters`",
        "`xsk help files`",
    ):
        assert part in text


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
            time.sleep(0.5)
            wire.send([frame(i) for i in range(5)])
            assert eventually(lambda: len(recorded(path)) == 5, 10)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
    finally:
        os.close(reader)
        os.close(writer)
    assert recorded(path) == [frame(i) for i in range(5)]


def test_a_second_signal_of_another_kind_ends_it_at_once(lab: Lab, wire: Wire) -> None:
    reader, writer = os.pipe()  # which nobody reads
    try:
        with capturing(lab, *WHAT, "-w", "-", stdout=writer) as process:
            wire.send([frame(i, 1500) for i in range(200)])
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(BURST + 0.2)
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
