# SPDX-License-Identifier: Apache-2.0
"""The xsk command, run as a person runs it: as a process, in a namespace of the lab."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from datetime import datetime
from typing import Any

import pytest

import toolkit
from tests.helpers.cli import ENVIRONMENT, XSK, descendants, ended_after, reconciles, running, xsk
from tests.helpers.wire import eventually, netns_cookie, netns_in_use
from toolkit.abi import libbpf as abi
from toolkit.cli.commands import demo
from toolkit.errors import ToolkitError
from toolkit.lab import Lab
from toolkit.program import Program, attached, xdp_links

# --- receive -------------------------------------------------------------------------------------------------------


def test_receive_counts_what_was_sent_and_ends_on_sigint(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp", "--json") as process:
        assert lab.udp(count=250, rate=2000) == 250
        report = ended_after(process, lab, 250)
    assert report["received"] == report["redirected"] == 250
    assert report["dropped"] == 0
    assert report["mode"] == "native"
    assert report["zero_copy"] is False
    assert reconciles(report)


@pytest.mark.timing("two lines in 2.5 s")
def test_receive_prints_a_rate_line_each_second(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp", "--seconds", "2.5") as process:
        lab.udp(count=200, rate=200)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    lines = [line for line in out.splitlines() if "packets/s" in line and "total" in line]
    assert len(lines) == 2
    assert out.splitlines() == lines, "standard output has the lines, and nothing else"
    assert all(re.match(r"\d\d:\d\d:\d\dZ ", line) for line in lines)
    assert "redirected 200 = received 200\n" in err


def test_receive_shows_packets_in_hex_and_stops_after_count(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "icmp", "-x", "-c", "3") as process:
        lab.ping(count=3, interval=0.05, wait=0.1)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out.count("ICMP echo request 10.11.0.2 → 10.11.0.1") == 3
    # Ethernet and the start of IPv4, byte by byte
    assert out.count("0000  02 00 00 00 00 01 02 00 00 00 00 02 08 00 45 00") == 3
    assert len(re.findall(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z  queue 0  ICMP", out, re.MULTILINE)) == 3
    assert "3 packets" in err
    assert "packets/s" not in out


def test_packets_in_hex_and_as_json(lab: Lab) -> None:
    """With -x and --json both are there, and every line of standard output is an object."""
    before = time.time_ns()
    with running(lab, "receive", "veth0", "-x", "-c", "3", "--json", "icmp") as process:
        lab.ping(count=3, interval=0.05, wait=0.1)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    *packets, report = map(json.loads, out.splitlines())
    assert report["received"] == len(packets) == 3
    for one in packets:
        assert bytes.fromhex(one["hex"])[12:14] == b"\x08\x00"
        assert len(one["hex"]) == 2 * one["wire_length"]
        assert one["summary"].startswith("ICMP echo request 10.11.0.2 → 10.11.0.1")
        assert one["time"].endswith("Z")
        arrived = datetime.fromisoformat(one["time"][:26] + "+00:00")
        assert before / 1e9 - 1 <= arrived.timestamp() <= time.time()


def test_receive_takes_exactly_count_and_reconciles_the_others(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp", "-c", "10", "--json") as process:
        lab.udp(count=200)
        out, _ = process.communicate(timeout=20)
    report = json.loads(out)
    assert report["taken"] == 10
    assert reconciles(report)


def test_receive_in_generic_mode_says_so(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp", "--generic", "-c", "1", "--json") as process:
        lab.udp(count=1)
        out, _ = process.communicate(timeout=20)
    assert json.loads(out)["mode"] == "generic"


def test_receive_from_another_namespace(lab: Lab) -> None:
    done = subprocess.run(
        [*XSK, "receive", "veth0", "--filter", "udp", "--seconds", "0.5", "--json", "--netns", _path(lab)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        pass_fds=(lab.netns.fileno(),),
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["interface"] == "veth0"


def _path(lab: Lab) -> str:
    return f"/proc/self/fd/{lab.netns.fileno()}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_receive_ends_cleanly_on_other_signals(lab: Lab, number: signal.Signals) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp", "--json") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert reconciles(json.loads(out))


def test_receive_says_that_the_interface_vanished(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp") as process:
        lab.delete_interface()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "veth0" in err
    assert "deleted" in err
    assert "Traceback" not in err


def test_a_closed_pipe_ends_it_without_a_traceback(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp", "-x") as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        lab.udp(count=5)
        _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "Traceback" not in err
    with lab.netns.entered():
        assert attached(lab_index(lab)) is None


def lab_index(lab: Lab) -> int:
    import socket

    with lab.netns.entered():
        return socket.if_nametoindex(lab.interface)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["receive", "nope0", "--filter", "all"], ["nope0", "ENODEV", "ip link"]),
        (["receive", "veth0"], ["filter", "`all`", "SSH"]),
        (["receive", "veth0", "--filter", "udp prot 53"], ["udp prot 53", "syntax error"]),
        (["receive", "veth0", "--filter", "udp", "--queue", "9"], ["queue 9", "EINVAL", "1 receive queue"]),
        (["receive", "veth0", "--filter", "udp", "--zero-copy"], ["zero-copy", "EOPNOTSUPP"]),
        (["receive", "veth0", "--filter", "udp", "--ring-size", "1000"], ["ring_size cannot be 1000", "power of two"]),
        (["receive", "veth0", "--filter", "udp", "--netns", "nowhere"], ["nowhere", "ip netns"]),
    ],
)
def test_errors_are_one_sentence_on_stderr(lab: Lab, arguments: list[str], words: list[str]) -> None:
    done = xsk(lab, *arguments)
    assert done.returncode == (1 if len(arguments) > 2 else 2)  # without a filter the command line is not complete
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert attached(lab_index(lab), lab.netns) is None


# --- status --------------------------------------------------------------------------------------------------------


def test_status_names_program_process_and_socket(lab: Lab) -> None:
    with running(lab, "receive", "veth0", "--filter", "udp") as process:
        done = xsk(lab, "status")
        told = json.loads(xsk(lab, "status", "--json").stdout)
    assert done.returncode == 0, done.stderr
    assert "veth0" in done.stdout
    assert "xsk_redirect" in done.stdout
    assert "native" in done.stdout
    (interface,) = (one for one in told["interfaces"] if one["interface"] == "veth0")
    assert interface["link_ids"]
    assert [holder["pid"] for holder in interface["holders"]] == [process.pid]
    (sock,) = (one for one in told["sockets"] if one["holder"] and one["holder"]["pid"] == process.pid)
    assert sock["zero_copy"] in (None, False)  # None where the kernel has no sock_diag for AF_XDP
    assert sock["statistics"] is None or sock["statistics"]["rx_dropped"] == 0


def test_status_shows_a_foreign_program_and_how_to_get_rid_of_it(lab: Lab) -> None:
    index = lab_index(lab)
    with Program.build("xdp_pass.c") as program:
        with lab.netns.entered():
            assert abi.libbpf().bpf_xdp_attach(index, program.fd, abi.XDP_FLAGS_SKB_MODE, None) == 0
        done = xsk(lab, "status")
    assert "xdp_pass" in done.stdout
    assert "generic" in done.stdout
    assert "ip link set dev veth0 xdp off" in " ".join(done.stdout.split())


def test_status_without_any_program(lab: Lab) -> None:
    done = xsk(lab, "status")
    assert done.returncode == 0
    assert "no XDP program" in done.stdout


# --- demo ----------------------------------------------------------------------------------------------------------


class Made:
    """What a demo has made while it runs: links, and network namespaces. Others on this machine make some as well."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.links: set[int] = set()
        self.namespaces: set[tuple[int, int]] = set()  # inode, cookie
        self._pid = process.pid
        eventually(lambda: self._note() or process.poll() is not None, timeout=30)

    def _note(self) -> bool:
        ours = os.readlink("/proc/self/ns/net")
        for number, target in descriptors(self._pid):
            if target == "anon_inode:bpf_link":
                with contextlib.suppress(OSError), open(f"/proc/{self._pid}/fdinfo/{number}") as info:
                    self.links |= {int(line.split()[1]) for line in info if line.startswith("link_id:")}
            elif target.startswith("net:[") and target != ours:
                with contextlib.suppress(OSError, ToolkitError):
                    cookie = netns_cookie(f"/proc/{self._pid}/fd/{number}")
                    self.namespaces.add((int(target[5:-1]), cookie))
        return bool(self.links) and len(self.namespaces) >= 2

    def gone(self) -> bool:
        """Whether there is nothing left of it, nor a process that lives in it or holds it."""
        if self.links & {link.id for link in xdp_links()}:
            return False
        return not any(netns_in_use(*one) for one in self.namespaces)


def descriptors(pid: int | str) -> list[tuple[str, str]]:
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append((name, os.readlink(f"/proc/{pid}/fd/{name}")))
    return found


@pytest.mark.timing("a flood for 2.5 s")
def test_demo_adds_up_and_leaves_nothing() -> None:
    command = [*XSK, "demo", "--seconds", "2.5", "--json"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        made = Made(process)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert made.links
    assert len(made.namespaces) >= 2
    report = json.loads(out)
    assert reconciles(report)
    assert report["sent"] >= report["redirected"] > 1000
    assert report["received"] > 1000
    assert {"ICMP", "UDP"} <= set(report["protocols"])
    assert {"mode", "zero_copy", "seconds"} <= set(report)
    assert eventually(made.gone)


def test_demo_begins_to_count_when_all_is_open(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(1.2)  # as a compilation on a slow machine
        return toolkit.open(*arguments, **options)

    monkeypatch.setattr(demo, "open_interface", slowly)
    assert demo.run(None, None, 1.0, as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seconds"] > 0.9
    assert report["received"] > 0


def test_demo_on_a_terminal_shows_a_live_picture() -> None:
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [*XSK, "demo", "--seconds", "2"], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # the other end is closed: it has ended
                    break
            elif process.poll() is not None:
                break
        assert process.wait(10) == 0, shown.decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
    text = shown.decode(errors="replace")
    for words in ("received through AF_XDP", "top flows", "ICMP echo request", "redirected = received"):
        assert words in text


@pytest.mark.timing("it receives for 2 s, in which the packets have to come")
def test_demo_on_a_real_interface_sends_nothing(lab: Lab) -> None:
    with running(lab, "demo", "--interface", "veth0", "--filter", "udp", "--seconds", "2", "--json") as process:
        lab.udp(count=30)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["sent"] is None
    assert report["received"] == report["redirected"] == 30


def test_demo_killed_leaves_no_program_and_no_namespace() -> None:
    process = subprocess.Popen([*XSK, "demo", "--seconds", "20"], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        made = Made(process)
        assert eventually(lambda: any("ping" in line for line in descendants(process.pid).values()))
        assert made.links
        assert not made.gone()
    finally:
        process.kill()
        process.wait()
    assert eventually(made.gone), "the program or a namespace outlived its process"


def test_help_teaches() -> None:
    shown_help = subprocess.run([*XSK, "--help"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    assert shown_help.returncode == 0
    for text in ("demo", "receive", "status", "do NOT reach the kernel", "udp port 53"):
        assert text in shown_help.stdout
    for command in ("receive", "drop", "capture"):
        shown = subprocess.run([*XSK, command, "--help"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
        assert "`xsk help filters`" in shown.stdout
    filters = subprocess.run([*XSK, "help", "filters"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    assert "VLAN tags that the NIC has taken off" in " ".join(filters.stdout.split())
    one = subprocess.run([*XSK, "receive", "--help"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    assert "tcp port 443" in one.stdout
