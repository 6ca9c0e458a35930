# SPDX-License-Identifier: Apache-2.0
"""The rows of the table: each has a work, programs and a load. The programs run in turn, pair after pair."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import filtering, load
from benchmarks.capture import PACKETS, SETTLE, WRITERS, disk_alone, start_writer, target_directory
from benchmarks.consumer import Consumer, PeerError, Worker
from benchmarks.figures import ratios, spread
from benchmarks.isolation import Cores
from benchmarks.load import Run
from benchmarks.pinging import Pinged, pinging
from benchmarks.tcpdump import Tcpdump
from benchmarks.testpmd import Settings, Testpmd
from benchmarks.turns import SPINNING, UNTUNED, Plan, alternate, rate_ratios, summary
from toolkit.lab import Lab
from toolkit.packets import frames
from toolkit.packets.checksum import folded

__all__ = ["NAMES", "measure", "start_testpmd", "start_worker"]

STEADY = 200_000.0  # packets/s of the row that waits in poll
# For the saturated rows: enough for the packets of a delay (1 ms), and few enough that the frames fit the CPU's cache.
# With 32768 entries the kernel, on the generator's CPU, needs 150 ns more for each packet.
_RING = 4096

TIMED = "toolkit, with arrival times"
LOOKING, FINISHING = "toolkit, looking for open checksums", "toolkit, finishing every checksum"
LONG, FINISHING_LONG = "toolkit, 1500 B", "toolkit, 1500 B, finishing every checksum"

Start = Callable[[Lab], Consumer]


def start_worker(
    where: Cores, job: str, *, module: str = "benchmarks.worker", **options: Any
) -> Callable[[Lab], Worker]:
    """Return the function that starts one of our own processes."""
    return lambda lab: Worker(job, lab, where, module, job, **options)


def start_testpmd(plan: Plan, mode: str) -> Callable[[Lab], Testpmd]:
    """Return the function that starts testpmd in a mode, with the settings that were found for it."""
    settings = plan.settings.get(mode, Settings())
    return lambda lab: Testpmd(lab, mode, plan.where, settings)


def _testpmds(plan: Plan, mode: str, work: Callable[[Start], Run]) -> dict[str, Callable[[], Run]]:
    """Return testpmd as tuned, and with its first settings if these differ, so that a lucky try does not decide."""
    chosen = plan.settings.get(mode, Settings())
    who: dict[str, Callable[[], Run]] = {"testpmd": lambda: work(start_testpmd(plan, mode))}
    if chosen != Settings():
        who[UNTUNED] = lambda: work(lambda lab: Testpmd(lab, mode, plan.where))
    return who


def receive(plan: Plan) -> dict[str, Any]:
    """Receive and drop packets at full speed, without arrival times like testpmd; and measure the ceiling."""
    where, seconds = plan.where, plan.seconds
    bare: dict[str, Any] = {"ring_size": _RING, "timestamps": False}
    who: dict[str, Callable[[], Run]] = {
        "toolkit": lambda: load.receiving(start_worker(where, "receive", **bare), where, seconds),
        SPINNING: lambda: load.receiving(start_worker(where, "receive", wait="spin", **bare), where, seconds),
        TIMED: lambda: load.receiving(start_worker(where, "receive", ring_size=_RING), where, seconds),
        **_testpmds(plan, "rxonly", lambda start: load.receiving(start, where, seconds)),
        "AF_PACKET in Python": lambda: load.receiving(
            start_worker(where, "af_packet", module="benchmarks.peers"), where, seconds, gro=True
        ),
    }
    slow: dict[str, Callable[[], Run]] = {
        "tcpdump": lambda: load.receiving(lambda lab: Tcpdump(lab, where), where, seconds, gro=True),
        "scapy": lambda: load.receiving(
            start_worker(where, "scapy", module="benchmarks.peers"), where, seconds, gro=True
        ),
    }
    ceilings: list[float] = []
    runs = alternate(plan, who, after=lambda: ceilings.append(load.ceiling(where, seconds)))
    runs.update(alternate(plan, slow, pairs=plan.slow_peers))
    return {
        "title": "receive and drop, 64 B, saturated",
        "ceiling_pps": spread(ceilings),
        "who": summary(runs),
        "ratios": rate_ratios(runs, {"testpmd": 1.0, "AF_PACKET in Python": 10.0}),
    }


def steady(plan: Plan) -> dict[str, Any]:
    """Receive and drop at 200 000 packets/s, with all defaults, waiting in poll(2)."""
    where, seconds = plan.where, plan.seconds
    who: dict[str, Callable[[], Run]] = {
        "toolkit": lambda: load.receiving(start_worker(where, "receive"), where, seconds, rate=STEADY),
        "AF_PACKET in Python": lambda: load.receiving(
            start_worker(where, "af_packet", module="benchmarks.peers"), where, seconds, rate=STEADY, gro=True
        ),
    }
    runs = alternate(plan, who)
    return {"title": "receive at 200 000 packets/s, waiting in poll", "who": summary(runs), "wanted_cpu": 0.10}


def half(plan: Plan) -> dict[str, Any]:
    """Receive at half the generator's full rate, with all defaults, and sum the lengths."""
    where, seconds = plan.where, plan.seconds

    def run() -> Run:
        rate = load.ceiling(where, seconds / 3) / 2
        return load.receiving(start_worker(where, "receive", sum_lengths=True), where, seconds, rate=rate)

    runs = alternate(plan, {"toolkit": run})
    return {"title": "receive at half speed, default rings, summing lengths", "who": summary(runs)}


def send(plan: Plan) -> dict[str, Any]:
    """Send 64-byte packets as fast as possible."""
    where, seconds = plan.where, plan.seconds
    who: dict[str, Callable[[], Run]] = {
        "toolkit": lambda: load.sending(start_worker(where, "send"), where, seconds),
        **_testpmds(plan, "txonly", lambda start: load.sending(start, where, seconds)),
    }
    runs = alternate(plan, who)
    return {"title": "send 64 B", "who": summary(runs), "ratios": rate_ratios(runs, {"testpmd": 1.0})}


def forward(plan: Plan) -> dict[str, Any]:
    """Swap the MAC addresses and send back the packets, at full speed.

    "toolkit" does not touch checksums, like testpmd; the others check for open ones, which is the default on a veth,
    and find none, or one in every packet.
    """
    where, seconds = plan.where, plan.seconds

    def forwarding(frame: bytes | None = None, **options: Any) -> Run:
        start = start_worker(where, "forward", timestamps=False, **options)
        return load.forwarding(start, where, seconds, frame=frame)

    who: dict[str, Callable[[], Run]] = {
        "toolkit": forwarding,
        LOOKING: lambda: forwarding(finish=True),
        FINISHING: lambda: forwarding(open_frame(64), finish=True),
        FINISHING_LONG: lambda: forwarding(open_frame(1500), finish=True),
        LONG: lambda: forwarding(open_frame(1500)),
        **_testpmds(plan, "macswap", lambda start: load.forwarding(start, where, seconds)),
    }
    ceilings: list[float] = []
    runs = alternate(plan, who, after=lambda: ceilings.append(load.ceiling(where, seconds)))
    return {
        "title": "forward with MAC swap, 64 B",
        "ceiling_pps": spread(ceilings),
        "who": summary(runs),
        "ratios": rate_ratios(runs, {"testpmd": 1.0}),
    }


def open_frame(size: int) -> bytes:
    """Return a frame whose UDP checksum was left to the NIC: the sum of the pseudo header is in its place."""
    frame = bytearray(frames.udp_frame(bytes(size - 42), size=size))
    words = np.frombuffer(bytes(frame[26:34] + frame[38:40]) + b"\0\x11", dtype=">u2")
    frame[40:42] = int(folded(words.sum(dtype=np.uint64)[None])[0]).to_bytes(2, "big")
    return bytes(frame)


def one_by_one(plan: Plan) -> dict[str, Any]:
    """Receive packets one at a time: peek, get, read 64 bytes, release; and in batches under the same load."""
    where, seconds = plan.where, plan.seconds
    who: dict[str, Callable[[], Run]] = {
        "per packet": lambda: load.receiving(start_worker(where, "one_by_one"), where, seconds),
        "in batches": lambda: load.receiving(
            start_worker(where, "receive", touch=True, ring_size=_RING), where, seconds
        ),
    }
    runs = alternate(plan, who)
    return {"title": "per-packet API, 64 bytes of each touched", "who": summary(runs), "wanted_pps": 500_000.0}


def ping(plan: Plan) -> dict[str, Any]:
    """Answer ping -A and ping -f."""
    where = plan.where
    echo = {"mac": frames.NEAR_MAC, "address": frames.NEAR_IP}
    who: dict[str, Callable[[], Pinged]] = {
        "toolkit, spinning": lambda: pinging(start_worker(where, "echo", **echo), where, plan.pings),
        "testpmd": lambda: pinging(start_testpmd(plan, "icmpecho"), where, plan.pings),
        "toolkit, in poll": lambda: pinging(start_worker(where, "echo", spin=False, **echo), where, plan.pings),
        "the kernel": lambda: pinging(None, where, plan.pings),
    }
    runs = alternate(plan, who)
    by = {
        name: {
            "adaptive_us": spread([one.adaptive for one in many]),
            "flood_us": spread([one.flood for one in many]),
            "lost": sum(one.lost for one in many),
            "answers": sum(one.answers for one in many),
        }
        for name, many in runs.items()
        if many
    }
    ratio = ratios([one.adaptive for one in runs["toolkit, spinning"]], [one.adaptive for one in runs["testpmd"]])
    flood = ratios([one.flood for one in runs["toolkit, spinning"]], [one.flood for one in runs["testpmd"]])
    return {"title": "ping", "who": by, "ratio": ratio, "flood_ratio": flood, "wanted_ratio": 2.0}


def passing(plan: Plan) -> dict[str, Any]:
    """Compare a filter that matches nothing with a program that only passes packets on to the kernel."""
    where, seconds = plan.where, plan.seconds
    expression = filtering.EXPRESSIONS["host or port or net"]
    who: dict[str, Callable[[], Run]] = {
        "toolkit": lambda: filtering.through(where, seconds, expression),
        "bare XDP_PASS": lambda: filtering.through(where, seconds, None),
    }
    runs = alternate(plan, who)
    return {
        "title": "pass a filter that matches nothing",
        "who": summary(runs),
        "ratios": rate_ratios(runs, {"bare XDP_PASS": 0.85}),
        "program_ns": filtering.program_ns(plan.pairs),
    }


def capture(plan: Plan, size: int = 64) -> dict[str, Any]:
    """Write packets to a file, at full speed; the rate is that of the file's growth."""
    names = list(WRITERS) if plan.slow_peers > 1 else ["toolkit", "tcpdump"]

    def run(name: str) -> Run:
        start = start_writer(name, plan.where, size)
        return load.receiving(
            start, plan.where, plan.seconds, gro=name != "toolkit", size=size, settle=SETTLE, memory=PACKETS * size
        )

    who: dict[str, Callable[[], Run]] = {name: functools.partial(run, name) for name in names}
    if size > 1000:
        who["the disk alone"] = lambda: _disk(plan, size)
    runs = alternate(plan, who, pairs=plan.slow_peers)
    return {
        "title": f"capture {size} B to a file in {target_directory()}",
        "who": summary(runs),
        "ratios": rate_ratios(runs, {name: 3.0 for name in names if name != "toolkit"}),
    }


def _disk(plan: Plan, size: int) -> Run:
    rate, seconds, cpu = disk_alone(plan.where, size)
    return Run(0.0, rate, seconds, cpu, PACKETS, None, 0)


def capture_long(plan: Plan) -> dict[str, Any]:
    """Do capture() with packets of 1500 bytes, where the disk is the limit."""
    return capture(plan, 1500)


def capture_paced(plan: Plan, size: int = 64) -> dict[str, Any]:
    """Offer tcpdump the highest rate that it captures without loss, and the toolkit three times that.

    At full speed the kernel's stack slows the generator down for tcpdump only, so that losses cannot be compared.
    """

    def run(name: str, rate: float | None) -> Run:
        start = start_writer(name, plan.where, size)
        return load.receiving(
            start,
            plan.where,
            plan.seconds,
            rate=rate,
            gro=name != "toolkit",
            size=size,
            settle=SETTLE,
            memory=PACKETS * size,
        )

    def whole() -> float:
        """Return the highest of some rates at which tcpdump loses at most 1 in 1000; the lowest if there is none."""
        most = run("tcpdump", None).rate
        for share in (0.9, 0.75, 0.6, 0.45, 0.3) if plan.slow_peers > 1 else (0.5,):
            plan.note(f"tcpdump at {share:.0%}")
            tried = run("tcpdump", most * share)
            if tried.lost <= tried.counted / 1000:
                break
        return most * share

    try:
        rate = whole()
    except (PeerError, FileNotFoundError):  # alternate() reports that
        rate = STEADY
    who: dict[str, Callable[[], Run]] = {
        "toolkit": lambda: run("toolkit", 3 * rate),
        "tcpdump": lambda: run("tcpdump", rate),
    }
    runs = alternate(plan, who, pairs=plan.slow_peers)
    return {
        "title": f"capture {size} B, tcpdump at what it keeps, the toolkit at 3x that",
        "who": summary(runs),
        "ratios": rate_ratios(runs, {"tcpdump": 2.99}),
    }


def capture_long_paced(plan: Plan) -> dict[str, Any]:
    """Do capture_paced() with packets of 1500 bytes."""
    return capture_paced(plan, 1500)


def tee(plan: Plan) -> dict[str, Any]:
    """Copy all packets while the kernel's stack gets them too; and measure the stack without a tee."""
    where, seconds = plan.where, plan.seconds
    who: dict[str, Callable[[], Run]] = {
        "toolkit": lambda: load.receiving(start_worker(where, "receive", tee=True), where, seconds),
        "toolkit, 64 B of each": lambda: load.receiving(
            start_worker(where, "receive", tee=True, snaplen=64), where, seconds
        ),
        "bare XDP_PASS": lambda: filtering.through(where, seconds, None),
    }
    runs = alternate(plan, who)
    return {
        "title": "copy all, and pass it on",
        "who": summary(runs),
        "ratios": rate_ratios(runs, {"bare XDP_PASS": 0.75}),
    }


_ROWS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "receive": receive,
    "half": half,
    "steady": steady,
    "send": send,
    "forward": forward,
    "ping": ping,
    "per-packet": one_by_one,
    "filter": passing,
    "tee": tee,
    "capture": capture,
    "capture-1500": capture_long,
    "capture-paced": capture_paced,
    "capture-1500-paced": capture_long_paced,
}
NAMES = tuple(_ROWS)


def measure(plan: Plan, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measure the rows of these names."""
    return {name: _ROWS[name](plan) for name in names}
