# SPDX-License-Identifier: Apache-2.0
"""`xsk capture`, run as a person runs it: its files, its signals, and what the exit code says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import toolkit
from tests.helpers.capturing import WHAT, capture, capturing, recorded
from tests.helpers.wire import Wire, eventually, frame
from tests.helpers.workers import is_attached
from toolkit.lab import Lab


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


@pytest.mark.timing("two lines in three seconds, and 500 packets")
def test_the_progress_line_has_rate_kept_dropped_and_size(lab: Lab, tmp_path: Path) -> None:
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
            before = lab.counters()["rx_packets"]
            wire.send([frame(i) for i in range(40)])
            assert eventually(lambda before=before: lab.counters()["rx_packets"] >= before + 40)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        passed_on = re.search(r"passed on to the kernel: ([\d,]+)", err)
        # Beside ours, the kernels of both ends say hello to each other.
        assert passed <= (int(passed_on[1].replace(",", "")) if passed_on else 0) < passed + 30
        assert ("not of the sample 40" in err) == bool(options[1:]), err


@pytest.mark.needs("capinfos")
def test_the_file_has_the_filter_that_libpcap_reads_and_what_more_there_is(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    for expression, filtering, words in (("udp", "udp", "1 of 100, first 64 B"), ("all", "", "1 of 100")):
        capture(lab, expression, "-w", path, "--overwrite", "--sample", "100", "-s", "64", "--seconds", "0.1")
        with toolkit.read(path) as recorded:
            assert recorded.filter == filtering
        about = subprocess.run(["capinfos", path], capture_output=True, text=True, check=True).stdout
        assert words in about
    capture(lab, "udp", "-w", path, "--overwrite", "-s", "0", "--seconds", "0.1")
    with toolkit.read(path) as recorded:
        assert recorded.filter == "udp"
    assert (
        "less than an Ethernet header. Next step: give 14 bytes" in capture(lab, "udp", "-w", path, "-s", "13").stderr
    )


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
