# SPDX-License-Identifier: Apache-2.0
"""`xsk drop`, `send`, `forward` and `echo`, as processes, against an unmodified kernel at the other end of the wire."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolkit.cli.live import LiveLine, Reading
from toolkit.cli.pacer import Pacer
from toolkit.lab import Lab, frames
from toolkit.lab.capture import Capture
from toolkit.lab.namespace import Namespace
from toolkit.lab.veth import End, connect
from toolkit.program import attached

from support import Wire, eventually, frame  # isort: skip

ROOT = Path(__file__).resolve().parents[2]
XSK = [sys.executable, "-m", "toolkit.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
WAITS = ([], ["-B"], ["--spin"])


def xsk(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab.netns.run([*XSK, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def events(process: subprocess.Popen[str]) -> int:
    """How many event descriptors a process has: one for each Socket, and one for an Interface that is complete."""
    found = 0
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/{process.pid}/fd/{name}") == "anon_inode:[eventfd]"
    return found


@contextlib.contextmanager
def running(lab: Lab, *arguments: str, ready: int = 2) -> Iterator[subprocess.Popen[str]]:
    """Start xsk and wait until it has everything open: `ready` is the number of Sockets and Interfaces."""
    process = lab.netns.popen(
        [*XSK, *arguments], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 30
        while process.poll() is None and events(process) < ready:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], number: int | None = signal.SIGINT, status: int = 0) -> dict[str, Any]:
    """End the command and return the JSON object that it printed."""
    if number is not None:
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == status, (out, err)
    assert "Traceback" not in err
    report: dict[str, Any] = json.loads(out)
    return report


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


# --- drop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [*WAITS, ["-b", "7"], ["-S"], ["-c", "-m", "--ring-size", "1024"]], ids=" ".join)
def test_drop_counts_every_packet(lab: Lab, how: list[str]) -> None:
    with running(lab, "drop", "veth0", "-f", "udp", "--json", *how) as process:
        assert lab.udp(count=2000, rate=20_000) == 2000
        time.sleep(0.2)
        report = ended(process)
    assert report["received"] == report["redirected"] == 2000
    assert report["received_bytes"] == 2000 * 60
    assert reconciles(report)
    assert report["mode"] == ("generic" if "-S" in how else "native")
    assert report["wait"] == {"-B": "busy-poll", "--spin": "spin"}.get(how[0] if how else "", "poll")


def test_drop_loses_nothing_at_100000_packets_a_second(lab: Lab) -> None:
    # A third of a second fits the ring: on a machine that runs other tests, a process may have to wait for its turn.
    with running(lab, "drop", "veth0", "-f", "udp", "--ring-size", "32768", "--json") as process:
        with lab.generator(rate=100_000, count=100_000) as generator:
            generator.wait()
        time.sleep(0.2)
        report = ended(process, signal.SIGTERM)
    assert report["redirected"] > 90_000  # a veth may lose some before the program sees them, on a busy machine
    assert report["received"] == report["redirected"]
    assert reconciles(report)


def test_drop_prints_live_lines_and_a_summary_with_all_six_counters(lab: Lab) -> None:
    with running(lab, "drop", "veth0", "-f", "udp", "--seconds", "1.5", "-n", "0.25", "-x") as process:
        lab.udp(count=300, rate=400)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    lines = [line for line in out.splitlines() if "packets/s" in line and "total" in line]
    assert 4 <= len(lines) <= 6, out
    assert sum(line.strip().startswith("kernel: ") for line in out.splitlines()) == len(lines)
    assert "redirected 300 = received 300 + dropped 0" in out
    for name in ("rx_dropped", "rx_ring_full", "rx_fill_ring_empty_descs", "rx_invalid_descs", "tx_invalid_descs"):
        assert name in out
    assert "no free frame" in out


def test_a_warning_is_a_note_for_people(make_lab: Callable[..., Lab]) -> None:
    done = xsk(make_lab(mtu=9000), "forward", "veth0", "-f", "udp", "--seconds", "0.2")
    assert done.returncode == 0
    assert done.stderr.startswith("xsk: note: veth0 has an MTU of 9000")
    assert ".py" not in done.stderr


def test_drop_counts_what_it_got_when_the_interface_vanishes(lab: Lab) -> None:
    with running(lab, "drop", "veth0", "-f", "udp", "--json") as process:
        lab.udp(count=50)
        time.sleep(0.2)
        lab.delete_interface()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "deleted" in err
    assert json.loads(out)["received"] == 50


# --- send -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "10.11.0.2"), (socket.AF_INET6, "fd11::2")], ids=["IPv4", "IPv6"]
)
def test_send_reaches_a_socket_of_the_kernel(lab: Lab, family: socket.AddressFamily, address: str) -> None:
    flows: collections.Counter[int] = collections.Counter()
    with udp_socket(lab.far, 4000, family) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        done = xsk(
            lab, "send", "veth0", "--ip-dst", address, "--dst-port", "4000", "--src-port", "6000", "--flows", "3",
            "-s", "200", "-C", "1501", "-b", "64", "--rate", "50000", "--json",
        )  # fmt: skip
        for _ in range(1501):  # the kernel checked MAC address, IP address and both checksums
            payload, sender = receiver.recvfrom(2000)
            assert len(payload) == 200 - 14 - (40 if family == socket.AF_INET6 else 20) - 8
            assert sender[0] == (lab.ip6 if family == socket.AF_INET6 else lab.ip)
            flows[sender[1]] += 1
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["sent"] == report["completed"] == 1501
    assert report["sent_bytes"] == 1501 * 200
    assert report["invalid"] == 0
    assert set(flows) == {6000, 6001, 6002}
    assert max(flows.values()) - min(flows.values()) <= 1


def test_send_a_frame_of_ones_own_and_leave_what_arrives_alone(lab: Lab, wire: Wire) -> None:
    text = "02:00:00:00:00:02 020000000001-88b5 " + bytes(range(50)).hex()
    done = xsk(lab, "send", "veth0", "--frame", text, "-C", "70", "-b", "32")
    assert done.returncode == 0, done.stderr
    expected = bytes.fromhex("02000000000202000000000188b5") + bytes(range(50))
    assert wire.receive(70) == [expected] * 70
    assert "sent 70 = completed 70 + refused by the kernel 0 + still with it 0" in done.stdout
    # The options change it, and then its checksums are computed.
    mine = frames.udp_frame(source_mac=lab.mac, destination_mac=lab.peer_mac).hex()
    done = xsk(lab, "send", "veth0", "--frame", mine, "--dst-port", "77", "--ip-dst", "10.11.0.2", "-C", "1")
    wanted = frames.udp_frame(
        source_mac=lab.mac, destination_mac=lab.peer_mac, destination_port=77, destination_ip="10.11.0.2"
    )
    assert wire.receive(1) == [wanted], done.stderr


def test_send_until_a_signal_attaches_nothing_and_completes(lab: Lab, wire: Wire) -> None:
    process = lab.netns.popen(
        [*XSK, "send", "veth0", "--ip-dst", "10.11.0.2", "--rate", "5000", "--json"],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert len(wire.receive(500, timeout=20)) == 500
        assert attached(index_of(lab.netns, "veth0"), lab.netns) is None
        assert lab.ping(count=2).received == 2  # what arrives is the kernel's
        report = ended(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert report["sent"] == report["completed"] >= 500
    assert report["sent"] <= report["seconds"] * 5000 + 10


def test_send_says_that_the_interface_went_down_and_how_far_it_got(lab: Lab, wire: Wire) -> None:
    process = lab.netns.popen(
        [*XSK, "send", "veth0", "--ip-dst", "10.11.0.2", "--rate", "5000", "--json"],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert len(wire.receive(200, timeout=20)) == 200
        lab.set_down()
        out, err = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 1
    assert "ENETDOWN" in err
    assert "Traceback" not in err
    report = json.loads(out)
    assert report["sent"] >= report["completed"] >= 200


def test_send_is_paced_smoothly() -> None:
    now = [100.0]
    pacer = Pacer(10_000, 64, clock=lambda: now[0])
    sent, groups = 0, []
    while now[0] < 101.0:
        due = pacer.due(sent)
        if due:
            groups.append((now[0], due))
        sent += due
        now[0] += max(pacer.pause(sent), 1e-6) if not due else 0
    assert abs(sent - 10_000) <= 20
    assert max(due for _, due in groups) <= 20  # a millisecond's worth, no bursts
    # After a stall of a minute it does not send a minute's worth at once.
    now[0] += 60
    burst = 0
    while due := pacer.due(sent + burst):
        burst += due
    assert 10_000 * 0.05 < burst <= 10_000 * 0.1 + 64
    # As fast as it goes, a batch is always due.
    assert Pacer(None, 64).due(12345) == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--ip-dst", "--eth-dst", "--frame"]),
        (["--ip-dst", "10.11.0.77"], ["10.11.0.77", "MAC address", "ping", "--eth-dst"]),
        (["--ip-dst", "10.99.0.1"], ["10.99.0.1"]),
        (["--ip-dst", "nonsense"], ["nonsense", "192.0.2.1"]),
        (["--ip-dst", "nonsense", "--eth-dst", "02:00:00:00:00:02"], ["nonsense", "--ip-dst", "IPv4"]),
        (["--eth-dst", "02:00"], ["02:00", "MAC address"]),
        (["--eth-dst", "02:00:00:00:00:02", "--src-port", "65000", "--flows", "1000"], ["65535", "--flows"]),
        (["--eth-dst", "02:00:00:00:00:02", "-s", "1600"], ["1600", "MTU", "1500"]),
        (["--eth-dst", "02:00:00:00:00:02", "-z"], ["veth0", "zero-copy"]),
        (["--eth-dst", "02:00:00:00:00:02", "-q", "5"], ["queue 5", "EINVAL"]),
        (["--eth-dst", "zz:00:00:00:00:02"], ["zz:00", "MAC address"]),
        (["--frame", "xyz"], ["--frame", "hex"]),
        (["--frame", "0102"], ["2 bytes", "Ethernet header"]),
    ],
)
def test_send_refuses_in_a_sentence(lab: Lab, arguments: list[str], words: list[str]) -> None:
    done = xsk(lab, "send", "veth0", *arguments)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


# --- forward --------------------------------------------------------------------------------------------------------


class Bridged:
    """far (veth1) ══ veth0 [near] veth2 ══ veth3 (beyond): near holds both ends that `xsk forward` joins."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.beyond = Namespace()
        try:
            connect(
                End(lab.netns, "veth2", "02:00:00:00:00:03", "10.12.0.1", "fd12::1"),
                End(self.beyond, "veth3", "02:00:00:00:00:04", "10.11.0.3", "fd11::3"),
                queues=1,
                mtu=1500,
                neighbours=False,
                offloads=False,
            )
        except BaseException:
            self.beyond.close()
            raise


@pytest.fixture
def bridged(make_lab: Callable[..., Lab]) -> Iterator[Bridged]:
    made = Bridged(make_lab(neighbours=False))
    yield made
    made.beyond.close()


def numbered(count: int) -> list[bytes]:
    """Frames of many lengths, each with its number and a body that can be checked."""
    return [frame(i, 60 + 37 * i % 1400) for i in range(count)]


@pytest.mark.parametrize("how", [*WAITS, ["-S"], ["-c", "-m"]], ids=" ".join)
def test_forward_sends_packets_back_with_swapped_macs(lab: Lab, wire: Wire, how: list[str]) -> None:
    sent = numbered(300)
    with running(lab, "forward", "veth0", "-f", "all", "--mac-swap", "--json", *how) as process:
        wire.send(sent)
        back = wire.receive(300)
        report = ended(process)
    assert back == [one[6:12] + one[:6] + one[12:] for one in sent]
    (way,) = report["directions"]
    assert reconciles(way)
    assert way["received"] == way["forwarded"] == 300
    assert way["octets"] == sum(map(len, sent))
    assert way["edited_out"] == way["no_room"] == 0
    assert way["all_sent"]


@pytest.mark.parametrize("how", WAITS, ids=" ".join)
def test_forward_both_ways_is_a_bridge_for_two_kernels(bridged: Bridged, how: list[str]) -> None:
    lab = bridged.lab
    with running(lab, "forward", "veth0", "veth2", "-f", "all", "--both", "--json", *how, ready=4) as process:
        for address in ("10.11.0.3", "fd11::3"):  # ARP and neighbour discovery go across as well
            told = lab.far.run(
                ["ping", "-n", "-c", "20", "-i", "0.01", address], capture_output=True, text=True, timeout=30
            )
            assert " 20 received" in told.stdout, told.stdout
        assert transfer(bridged.beyond, lab.far, "10.11.0.3", 1_000_000)
        report = ended(process)
    there, back = report["directions"]
    assert (there["from"], there["to"], back["from"], back["to"]) == ("veth0", "veth2", "veth2", "veth0")
    for way in (there, back):
        assert reconciles(way)
        assert way["received"] == way["forwarded"] >= 41
        assert way["all_sent"]
    assert there["forwarded"] > 600  # a megabyte in packets of an MTU


def transfer(server: Namespace, client: Namespace, address: str, size: int) -> bool:
    """Send `size` bytes by TCP between two kernels; whether they arrived as they were."""
    data = os.urandom(size)
    with server.entered():
        listener = socket.create_server((address, 5001))
    with client.entered():
        sender = socket.socket()
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


def test_forward_one_way_leaves_the_other_interface_to_the_kernel(bridged: Bridged) -> None:
    lab, sent = bridged.lab, numbered(200)
    with (
        Wire(lab) as wire,
        Capture("veth3", bridged.beyond) as beyond,
        running(lab, "forward", "veth0", "veth2", "-f", "ether proto 0x88b5", "--json", ready=3) as process,
    ):
        assert attached(index_of(lab.netns, "veth2"), lab.netns) is None
        wire.send(sent)
        got = [one for one in beyond.frames(timeout=2.0) if one[12:14] == b"\x88\xb5"]
        report = ended(process)
    assert got == sent
    (way,) = report["directions"]
    assert reconciles(way)
    assert way["received"] == way["forwarded"] == 200
    assert (way["from"], way["to"]) == ("veth0", "veth2")


def test_forward_counts_the_time_to_live_down(lab: Lab, wire: Wire) -> None:
    def packet(ttl: int, payload: bytes, vlans: tuple[int, ...] = ()) -> bytes:
        body = frames.ipv4(frames.udp(payload, 1, 2), frames.IPPROTO_UDP, ttl=ttl)
        return frames.ethernet(body, frames.ETH_P_IP, vlans=vlans)

    def packet6(limit: int) -> bytes:
        return frames.ethernet(frames.ipv6(b"x" * 30, frames.IPPROTO_UDP, hop_limit=limit), frames.ETH_P_IPV6)

    alive = [packet(64, b"a" * 18), packet(2, b"b" * 500), packet(255, b"", (7,)), packet6(9), frame(1, 60)]
    dead = [packet(1, b"c"), packet(0, b"d"), packet6(1)]
    with running(lab, "forward", "veth0", "-f", "all", "--ttl", "--json") as process:
        wire.send([alive[0], *dead, *alive[1:]])
        back = wire.receive(len(alive))
        report = ended(process)
    after = [packet(63, b"a" * 18), packet(1, b"b" * 500), packet(254, b"", (7,)), packet6(8), frame(1, 60)]
    # The kernel takes the tag out of what it hands to a packet socket.
    after[2] = after[2][:12] + after[2][16:]
    assert back == after
    (way,) = report["directions"]
    assert (way["received"], way["forwarded"], way["edited_out"]) == (8, 5, 3)
    assert reconciles(way)


def test_forward_adds_and_removes_vlan_tags(lab: Lab) -> None:
    plain = [frame(i, 60 + i) for i in range(40)]
    tagged = [one[:12] + b"\x81\x00\x00\x2a" + one[12:] for one in plain]
    short = frame(1, 14)[:12] + b"\x81\x00"  # announces a tag and ends: goes out, but no kernel shows it to anybody
    for option, sent, wanted in (
        (["--vlan-push", "42"], plain, tagged),
        (["--vlan-pop"], tagged, plain),
        (["--vlan-pop"], [*plain, short, *tagged], [*plain, *plain]),
        (["--vlan-pop", "--vlan-push", "42"], tagged, tagged),
    ):
        with (
            Capture("veth1", lab.far) as far,
            running(lab, "forward", "veth0", "-f", "all", *option, "--json") as process,
        ):
            with Wire(lab) as wire:
                wire.send(sent)
            back = far.frames(len(wanted), timeout=3.0)
            report = ended(process)
        assert back == wanted, option
        (way,) = report["directions"]
        assert way["forwarded"] == way["received"] == len(sent)
        assert reconciles(way)


def test_forward_prints_lines_and_what_adds_up(lab: Lab, wire: Wire) -> None:
    command = ["forward", "veth0", "-f", "ether proto 0x88b5", "--mac-swap", "--seconds", "1.2", "-n", "0.5", "-x"]
    with running(lab, *command) as process:
        wire.send(numbered(100))
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "MAC addresses swapped" in out
    assert out.count("veth0 → veth0  ") == 2
    assert "redirected 100 = received 100 + dropped 0" in out
    assert "received 100 = forwarded 100 + edited out 0 + no room 0" in out
    assert "tx_invalid_descs" in out


def test_forward_says_which_interface_vanished(bridged: Bridged) -> None:
    lab = bridged.lab
    with running(lab, "forward", "veth0", "veth2", "-f", "udp", "--both", "--json", ready=4) as process:
        lab.netns.run(["ip", "link", "del", "veth2"], check=True)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "veth2" in err
    assert len(json.loads(out)["directions"]) == 2
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["veth0", "nope0", "-f", "udp"], 1, ["nope0", "ENODEV"]),
        (["veth0", "-f", "udp prot"], 1, ["udp prot"]),
        (["veth0"], 1, ["filter", "'all'", "SSH"]),
        (["veth0", "-f", "udp", "--both"], 2, ["--both", "two interfaces"]),
        (["veth0", "veth0", "-f", "udp", "--both"], 2, ["--both", "two interfaces"]),
        (["veth0", "lo", "-f", "udp", "--ring-size", "1000"], 1, ["1000", "power-of-two"]),
    ],
)
def test_forward_refuses_in_a_sentence(lab: Lab, arguments: list[str], status: int, words: list[str]) -> None:
    done = xsk(lab, "forward", *arguments)
    assert done.returncode == status, done.stdout
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


# --- echo -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("ping")
@pytest.mark.parametrize("how", [*WAITS, ["-S"]], ids=" ".join)
def test_echo_answers_an_unmodified_ping(make_lab: Callable[..., Lab], how: list[str]) -> None:
    lab = make_lab(neighbours=False)  # the other kernel asks for MAC addresses first
    with running(lab, "echo", "veth0", "--json", *how) as process:
        four = lab.ping(count=100, interval=0.002)
        six = lab.ping(count=100, interval=0.002, ipv6=True)
        large = lab.ping(count=3, size=1400)
        report = ended(process)
    assert (four.received, six.received, large.received) == (100, 100, 3)
    # And ARP, and neighbour discovery; the first few may be the kernel's, which answers until the program is on.
    assert report["answered"] == report["received"] >= 195
    assert report["unanswered"] == 0
    assert set(report["addresses"]) == {lab.ip, lab.ip6}
    assert report["all_sent"]
    assert reconciles(report)


@pytest.mark.needs("ping")
def test_echo_loses_nothing_of_a_flood(lab: Lab) -> None:
    with running(lab, "echo", "veth0", "--json") as process:
        done = lab.far.run(["ping", "-f", "-q", "-c", "5000", lab.ip], capture_output=True, text=True, timeout=60)
        report = ended(process)
    assert " 5000 received" in done.stdout, done.stdout
    assert report["answered"] == report["redirected"] == 5000


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_echo_returns_datagrams_and_leaves_the_rest_to_the_kernel(lab: Lab, family: socket.AddressFamily) -> None:
    address = lab.ip6 if family == socket.AF_INET6 else lab.ip
    with (
        running(lab, "echo", "veth0", "--udp-port", "4007", "--json") as process,
        udp_socket(lab.far, 0, family) as asker,
        udp_socket(lab.netns, 4008, family) as other,
    ):
        for size in (0, 1, 18, 777, 1400):
            body = os.urandom(size)
            asker.sendto(body, (address, 4007))
            assert asker.recvfrom(2000)[0] == body
        asker.sendto(b"for the kernel", (address, 4008))
        assert other.recv(100) == b"for the kernel"
        assert transfer(lab.netns, lab.far, lab.ip, 10_000)
        # Fragments cannot be answered here, so they are not taken: the kernel's own ping answer comes.
        assert lab.ping(count=1, size=4000, ipv6=family == socket.AF_INET6).received == 1
        report = ended(process)
    assert report["answered"] == report["redirected"] == 5
    assert report["passed"] > 0


def test_echo_is_a_host_that_was_not_there(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(neighbours=False)
    ask = ["ping", "-n", "-c", "3", "-i", "0.05", "-W", "1"]
    with running(
        lab, "echo", "veth0", "--ip", "10.11.0.99", "--ip", "fd11::99", "--udp-port", "0", "--json"
    ) as process:
        for address in ("10.11.0.99", "fd11::99", "10.11.0.1"):  # the last is the kernel's, and stays so
            told = lab.far.run([*ask, address], capture_output=True, text=True, timeout=30)
            assert " 3 received" in told.stdout, told.stdout
        report = ended(process)
    assert report["answered"] == report["redirected"] >= 8  # six pings, and two questions for the MAC address at least
    assert report["addresses"] == ["10.11.0.99", "fd11::99"]


def test_echo_without_an_address_says_what_to_do(lab: Lab) -> None:
    lab.netns.run(["ip", "address", "flush", "dev", "veth0"], check=True)
    done = xsk(lab, "echo", "veth0")
    assert done.returncode == 1
    assert "--ip" in done.stderr
    assert "ip address add" in done.stderr
    done = xsk(lab, "echo", "veth0", "--ip", "10.0.0.300")
    assert done.returncode == 1
    assert "10.0.0.300" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", WAITS, ids=" ".join)
def test_echo_says_that_the_interface_vanished(lab: Lab, how: list[str]) -> None:
    with running(lab, "echo", "veth0", "--json", *how) as process:
        assert lab.ping(count=3).received == 3
        lab.delete_interface()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "deleted" in err
    assert json.loads(out)["answered"] == 3


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("how", WAITS, ids=" ".join)
@pytest.mark.parametrize("command", [["drop", "-f", "udp"], ["forward", "-f", "udp"], ["echo"]], ids=lambda c: c[0])
def test_a_signal_ends_it_with_a_summary(lab: Lab, command: list[str], how: list[str], number: signal.Signals) -> None:
    with running(lab, command[0], "veth0", *command[1:], *how) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "redirected 0 = received 0 + dropped 0" in out
    assert "counted by the kernel:" in out
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


@pytest.mark.parametrize("command", ["drop", "forward"])
def test_ended_in_the_middle_of_traffic_the_counters_add_up(lab: Lab, command: str) -> None:
    with (
        running(lab, command, "veth0", "-f", "udp", "--json") as process,
        lab.generator(rate=50_000, seconds=10) as generator,
    ):
        time.sleep(0.5)
        report = ended(process)
        assert generator.running
    way = report["directions"][0] if command == "forward" else report
    assert way["redirected"] > 5_000
    assert reconciles(way)
    if command == "forward":
        assert way["received"] == way["forwarded"] + way["no_room"]
        assert way["all_sent"]


def test_a_killed_command_leaves_nothing(lab: Lab) -> None:
    with running(lab, "forward", "veth0", "-f", "all") as process:
        process.kill()
        process.wait()
        index = index_of(lab.netns, "veth0")
        assert eventually(lambda: attached(index, lab.netns) is None)
        assert lab.ping(count=1).received == 1


@pytest.mark.parametrize("option", ["--seconds", "--rate", "-n"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_number_is_refused(lab: Lab, option: str, value: str) -> None:
    done = xsk(lab, "send", "veth0", "--eth-dst", "02:00:00:00:00:02", "-C", "1", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{value}' is not a finite number" in done.stderr


@pytest.mark.parametrize("command", ["doctor", "detach", "echo"])
def test_a_namespace_that_is_not_there(lab: Lab, command: str) -> None:
    done = xsk(lab, command, "veth0", "--netns", "²")  # a digit, and not of a pid
    assert done.returncode == 1
    assert done.stderr.startswith("xsk: there is no network namespace '²'")


@pytest.mark.parametrize("arguments", [["drop", "veth0", "-f", "udp", "--json"], ["detach", "veth0"], ["--help"]])
def test_a_full_disk_under_the_output(lab: Lab, arguments: list[str]) -> None:
    seconds = ["--seconds", "0.2"] if arguments[0] == "drop" else []
    with open("/dev/full", "w") as full:
        done = lab.netns.run(
            [*XSK, *arguments, *seconds], env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == "xsk: cannot write to standard output: No space left on device\n"
    assert attached(index_of(lab.netns, "veth0"), lab.netns) is None


def test_help_teaches_with_examples(lab: Lab) -> None:
    for command, words in {
        "drop": ["-f, --filter", "received + dropped = redirected", "xsk drop eth0"],
        "send": ["--ip-dst", "--rate", "-s, --size", "-C, --count", "xsk send eth0"],
        "forward": ["--mac-swap", "--both", "xsk forward eth0 eth1"],
        "echo": ["--udp-port", "--ip", "xsk echo eth0"],
    }.items():
        told = xsk(lab, command, "--help").stdout
        for word in [*words, "-n, --interval", "-x, --extra", "-z, --zero-copy", "-c, --copy", "-m,", "--json"]:
            assert word in told, (command, word)
        if command != "send":
            for word in ("-N, --native", "-S, --generic", "-p, --poll", "-B, --busy-poll", "--spin", "-q, --queue"):
                assert word in told, (command, word)


def test_a_live_line_tells_rates_of_its_interval(capsys: pytest.CaptureFixture[str]) -> None:
    counted = [0, 0]
    line = LiveLine(lambda: Reading(counted[0], counted[1], {"dropped": counted[0] // 2}), interval=0.1, name="a → b")
    line.tick()
    assert capsys.readouterr().out == ""
    counted[:] = [1000, 64_000]
    time.sleep(0.11)
    line.tick()
    line.tick()
    (first,) = capsys.readouterr().out.splitlines()
    assert "a → b" in first
    assert "total    1,000" in first
    assert "dropped 500" in first
    time.sleep(0.11)
    line.tick()
    (second,) = capsys.readouterr().out.splitlines()
    assert "       0 packets/s" in second
    assert "dropped 0" in second
