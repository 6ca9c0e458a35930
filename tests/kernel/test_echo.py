# SPDX-License-Identifier: Apache-2.0
"""A host in Python, and unmodified programs of the other end of the cable that talk to it: ping, arping, sockets."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from send_support import Tap, strike
from support import Wire, eventually, frame, number_of
from test_signals import Storm

import toolkit
from toolkit.answers import Answers
from toolkit.errors import DeviceGoneError
from toolkit.lab import Lab
from toolkit.responder import Responder

pytestmark = [pytest.mark.timeout(60), pytest.mark.needs("ping")]

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


@pytest.fixture
def asking(make_lab: Callable[..., Lab]) -> Lab:
    """A Lab whose far end asks by ARP and neighbour discovery."""
    return make_lab(neighbours=False)


@pytest.fixture(params=["sleeping", "spinning"])
def host(asking: Lab, request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(asking, spin=request.param == "spinning") as running:
        yield running


def run(lab: Lab, *command: str) -> str:
    done = lab.far.run(list(command), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def neighbour(lab: Lab, address: str) -> str:
    return run(lab, "ip", "neigh", "show", address, "dev", "veth1")


# --- ping -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [IP4, IP6])
def test_ping(asking: Lab, host: Host, address: str) -> None:
    """The address is resolved, and every kind of ping is answered whole: ping itself compares the payload."""
    for options in (
        ["-c", "5", "-i", "0.01"],
        ["-f", "-c", "2000"],
        ["-A", "-c", "100"],
        ["-c", "30", "-l", "30", "-i", "0.01"],
        ["-f", "-c", "300", "-s", "1400", "-l", "10"],
        ["-c", "3", "-i", "0.01", "-p", "a5"],
    ):
        said = run(asking, "ping", "-n", "-W", "2", *options, address)
        assert " 0% packet loss" in said
        for trouble in ("wrong data", "DUP", "checksum", "truncated", "different"):
            assert trouble not in said
        if "-f" not in options:
            assert "ttl=64" in said
    assert "02:00:00:00:00:01" in neighbour(asking, address)
    assert host.responder.answered >= 2439
    assert repr(host.responder).startswith("<Responder on veth0: received=")


@pytest.mark.parametrize("address", [IP4, IP6])
def test_ping_of_every_size(asking: Lab, address: str) -> None:
    with Host(asking) as host:
        for size in (0, 1, 2, 7, 8, 9, 15, 16, 17, 55, 56, 57, 127, 500, 999, 1000, 1399, 1400, 1452):
            said = run(asking, "ping", "-n", "-W", "2", "-c", "2", "-i", "0.002", "-s", str(size), address)
            assert " 0% packet loss" in said, size
            assert "wrong data" not in said
        assert host.interface.statistics().dropped == 0


def test_ping_with_options_and_from_afar(asking: Lab) -> None:
    """Record route and time stamps come back as they were; don't fragment, type of service and low TTL are fine."""
    with Host(asking):
        for options in (["-R"], ["-T", "tsonly"], ["-M", "do", "-s", "1472"], ["-Q", "0xb8"], ["-t", "1"]):
            said = run(asking, "ping", "-n", "-W", "2", "-c", "2", "-i", "0.01", *options, IP4)
            assert " 0% packet loss" in said, options


def test_what_is_not_for_us_is_not_answered(asking: Lab) -> None:
    with Host(asking) as host:
        run(asking, "ping", "-n", "-c", "1", IP4)
        before = host.responder.answered
        # Fragments, the network's broadcast and another host behind the same MAC address.
        run(asking, "ip", "neigh", "replace", "10.11.0.78", "lladdr", "02:00:00:00:00:01", "dev", "veth1")
        for options in (["-s", "3000", IP4], ["-b", "10.11.0.255"], ["10.11.0.78"]):
            done = asking.far.run(["ping", "-n", "-c", "2", "-i", "0.01", "-W", "0.2", *options], capture_output=True)
            assert b" 100% packet loss" in done.stdout, options
        assert host.responder.answered - before <= 1  # a question of the far kernel's for our MAC address
        assert host.responder.received - before >= 8


def test_many_hosts_ask_at_once(make_lab: Callable[..., Lab]) -> None:
    """On four queues, from as many processes; each answer goes back on the queue that the question came from."""
    lab = make_lab(queues=4, neighbours=False)
    with Host(lab) as host:
        pings = [
            lab.far.popen(["ping", "-n", "-q", "-f", "-c", "500", "-W", "2", address], stdout=-1, text=True)
            for address in (IP4, IP6, IP4, IP6)
        ]
        for ping in pings:
            said, _ = ping.communicate(timeout=30)
            assert " 0% packet loss" in said, said
        assert host.responder.answered >= 2000


# --- who has? -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("arping"), reason="the command arping is missing (package iputils-arping)")
def test_arping(asking: Lab, host: Host) -> None:
    said = run(asking, "arping", "-c", "2", "-I", "veth1", IP4)
    assert said.upper().count("02:00:00:00:00:01") == 2, said


@pytest.mark.skipif(not shutil.which("arping"), reason="the command arping is missing (package iputils-arping)")
def test_a_duplicate_ipv4_address_is_found(asking: Lab) -> None:
    """RFC 5227: a probe from 0.0.0.0 is answered, so the address is taken."""
    if "-D" not in _arping_help(asking):
        pytest.skip("this arping has no -D (package iputils-arping has)")
    with Host(asking):
        for address, taken in ((IP4, True), ("10.11.0.78", False)):
            done = asking.far.run(["arping", "-D", "-c", "2", "-w", "1", "-I", "veth1", address], capture_output=True)
            assert (done.returncode != 0) is taken, done.stdout


def _arping_help(lab: Lab) -> str:
    done = lab.far.run(["arping", "-h"], capture_output=True, text=True)
    return str(done.stdout + done.stderr)


@pytest.mark.parametrize("address", [IP4, IP6])
def test_the_kernel_resolves_and_confirms_the_address(asking: Lab, address: str) -> None:
    """REACHABLE after a question to all, and again after the unicast question of a kernel that wants to be sure."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # What it wants to be sure of it asks from its link-local address, and a Lab has none.
    run(asking, "ip", "addr", "add", "fe80::2/64", "dev", "veth1", "nodad")
    with Host(asking) as host, asking.far.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"?", (address, 9))
        assert eventually(lambda: "REACHABLE" in neighbour(asking, address)), neighbour(asking, address)
        answered = host.responder.answered
        run(asking, "ip", "neigh", "change", address, "dev", "veth1", "lladdr", "02:00:00:00:00:01", "nud", "probe")
        assert eventually(lambda: "REACHABLE" in neighbour(asking, address)), neighbour(asking, address)
        assert host.responder.answered > answered


@pytest.mark.parametrize("enhanced", [1, 0])
def test_a_duplicate_ipv6_address_is_found(asking: Lab, enhanced: int) -> None:
    """The far kernel gives itself our address, and one that is free; only the first fails (RFC 4862, RFC 7527)."""

    def configure() -> None:
        for key, value in (("accept_dad", 1), ("dad_transmits", 1), ("enhanced_dad", enhanced)):
            with open(f"/proc/sys/net/ipv6/conf/veth1/{key}", "w") as setting:
                setting.write(str(value))
        with open("/proc/sys/net/ipv6/conf/all/accept_dad", "w") as setting:
            setting.write("1")

    asking.far.call(configure)
    with Host(asking):
        run(asking, "ip", "addr", "add", f"{IP6}/64", "dev", "veth1")
        assert eventually(lambda: "dadfailed" in run(asking, "ip", "addr", "show", "dev", "veth1"), timeout=3.0)
        run(asking, "ip", "addr", "del", f"{IP6}/64", "dev", "veth1")
        run(asking, "ip", "addr", "add", "fd11::78/64", "dev", "veth1")
        assert eventually(lambda: "tentative" not in run(asking, "ip", "addr", "show", "dev", "veth1"), timeout=5.0)
        assert "dadfailed" not in run(asking, "ip", "addr", "show", "dev", "veth1")


# --- UDP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [IP4, IP6])
def test_udp_echo(asking: Lab, host: Host, address: str) -> None:
    """Through kernel sockets, which verify checksums; one datagram at a time, and many at once."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with asking.far.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)
        sock.connect((address, PORT))
        for size in (0, 1, 2, 17, 18, 19, 1000, 1452):
            payload = bytes(i * 7 & 0xFF for i in range(size))
            sock.send(payload)
            assert sock.recv(2000) == payload
        for burst in range(20):
            payloads = [f"datagram {burst} {i}".encode() * (i + 1) for i in range(30)]
            for payload in payloads:
                sock.send(payload)
            assert [sock.recv(2000) for _ in payloads] == payloads


def test_two_echoes_do_not_talk_for_ever(asking: Lab) -> None:
    with Host(asking) as host, asking.far.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", PORT))
        sock.settimeout(0.2)
        run(asking, "ping", "-n", "-c", "1", IP4)
        before = host.responder.answered
        sock.sendto(b"tick", (IP4, PORT))
        with pytest.raises(TimeoutError):
            sock.recv(100)
        assert host.responder.answered - before <= 1


# --- bad days -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ring_size", [1, 8])
@pytest.mark.parametrize("spin", [False, True])
def test_the_smallest_rings(asking: Lab, ring_size: int, spin: bool) -> None:
    """Answers must not come to an end because nobody collects what was sent."""
    with Host(asking, ring_size=ring_size, spin=spin) as host:
        said = run(asking, "ping", "-n", "-q", "-W", "1", "-c", "200", "-i", "0.002", IP4)
        lost = float(said.split("% packet loss")[0].split()[-1])
        # With one frame to receive into, a packet that comes while another is answered is lost, and it may be a ping.
        assert lost <= (0 if ring_size >= 8 else 10), (said, host.responder, host.interface.umem.audit())


@pytest.mark.parametrize("spin", [False, True])
def test_a_device_that_vanishes(asking: Lab, spin: bool) -> None:
    host = Host(asking, spin=spin)
    host.__enter__()
    try:
        run(asking, "ping", "-n", "-c", "1", IP4)
        asking.delete_interface()
        host.thread.join(5)
        assert isinstance(host.failure, DeviceGoneError), host.failure
    finally:
        host.stop()
        host.interface.close()


def test_step_without_waiting_also_notices(asking: Lab) -> None:
    with toolkit.open("veth0", filter="all", ring_size=64, netns=asking.netns) as near:
        responder = Responder(near, Answers(MAC, [IP4]))
        assert responder.step() == responder.step(0.01) == 0 or responder.received
        asking.delete_interface()
        deadline = time.monotonic() + 3

        def step_on() -> None:
            while time.monotonic() < deadline:
                responder.step()

        with pytest.raises(DeviceGoneError):
            step_on()


def test_a_busy_kernel_is_told_again(lab: Lab) -> None:
    """An answer that the kernel had no time for leaves without another question, also while spinning."""
    question = answerable()
    for spin in (False, True):
        with Tap.far(lab, 0x0800) as tap, Wire(lab) as wire, contextlib.ExitStack() as stack:
            host = Host(lab, spin=spin)
            (sock,) = host.interface.sockets
            wake, calls = sock.tx._wake, []

            def busy(wake: Any = wake, calls: list[int] = calls) -> bool:
                calls.append(1)
                return bool(wake()) if len(calls) > 3 else False

            sock.tx._wake = busy
            stack.enter_context(host)
            wire.send([question])
            assert eventually(lambda: any(one[:6] == question[6:12] for one in tap.take(0)), timeout=2.0), calls


def answerable() -> bytes:
    from scapy.layers.inet import ICMP, IP
    from scapy.layers.l2 import Ether

    packet = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / IP(src="10.11.0.2", dst=IP4) / ICMP()
    return bytes(packet)


def test_noise_does_no_harm(asking: Lab) -> None:
    """Packets of every kind and length among the pings; those are answered, nothing raises, no frame is lost."""
    stop = threading.Event()

    def make_noise(wire: Wire) -> None:
        seed = 0
        while not stop.is_set():
            packets = [answerable()[: 14 + seed % 40] + frame(seed + i, 14 + (seed + i) % 300)[14:] for i in range(20)]
            wire.send(packets)
            seed += 20
            time.sleep(0.001)

    with Host(asking) as host, Wire(asking) as wire:
        thread = threading.Thread(target=make_noise, args=(wire,))
        thread.start()
        try:
            said = run(asking, "ping", "-n", "-q", "-W", "2", "-c", "200", "-i", "0.005", IP4)
        finally:
            stop.set()
            thread.join()
        assert " 0% packet loss" in said
        assert host.responder.received > 1000


class BrokenError(Exception):
    pass


def test_an_answer_that_raises(lab: Lab) -> None:
    """The packets before it are answered, once; its own frame and those behind it come back."""
    with (
        toolkit.open("veth0", filter="all", ring_size=64, frames=128, netns=lab.netns) as near,
        Tap.far(lab) as tap,
        Wire(lab) as wire,
    ):
        (sock,) = near.sockets
        wire.send([frame(0), frame(1)])
        assert eventually(lambda: sock.rx.available(2) == 2)
        seen: list[int] = []

        def answer(packet: memoryview) -> bool:
            seen.append(number_of(packet))
            if len(seen) == 2:
                raise BrokenError
            return True

        with pytest.raises(BrokenError):
            sock.reply(answer)
        assert sock.reply(answer) == (0, 0)
        assert near.flush(5.0)
        assert [number_of(one) for one in tap.take(1)] == [0]
        audit = near.umem.audit()
        assert audit["free"] + audit["rx"] == audit["frames"]


def test_sigint_in_an_answering_loop(lab: Lab) -> None:
    """At moments spread over the loop: no answer is given twice, and every frame comes back."""
    with (
        toolkit.open("veth0", filter="all", ring_size=64, frames=128, netns=lab.netns) as near,
        Tap.far(lab) as tap,
        Wire(lab) as wire,
        Storm(9) as storm,
    ):
        (sock,) = near.sockets
        number = 0

        def loop() -> None:
            nonlocal number
            while True:
                number += 2
                wire.send([frame(number - 2), frame(number - 1)])
                sock.reply(lambda packet: True)

        for _ in range(100):
            strike(storm, loop)
            near.umem.audit()
        while sock.reply(lambda packet: True)[0]:
            pass
        assert near.flush(5.0)
        got = [number_of(one) for one in tap.take(1)]
        assert len(got) == len(set(got)) > 500
        audit = near.umem.audit()
        assert audit["free"] + audit["rx"] == audit["frames"], audit
