# SPDX-License-Identifier: Apache-2.0
"""The cost of a filter for packets that it does not match, which all go on to the kernel.

Measured in two ways. Through the veth's driver into the kernel's stack, at full load: the whole cost of a packet, which
the host's other traffic pays. And the program alone, on one packet, by the kernel's test run, which costs some 25 ns
itself: that shows the filter's own nanoseconds.
"""

from __future__ import annotations

import ctypes as ct
import time
from typing import Any

from benchmarks.figures import spread
from benchmarks.isolation import Cores
from benchmarks.load import Run
from toolkit.abi import libbpf as abi
from toolkit.errors import kernel_error
from toolkit.lab import Lab
from toolkit.packets.frames import udp_frame
from toolkit.program import Program

__all__ = ["EXPRESSIONS", "program_ns", "through"]

# For UDP packets of the lab, each is false after its longest path.
EXPRESSIONS = {
    "one port": "udp port 53",
    "host or port or net": "host 192.0.2.7 or udp port 53 or net 198.51.100.0/24",
    "50 hosts": " or ".join(f"host 192.0.2.{i}" for i in range(1, 51)),
}
_REPEAT = 2_000_000  # runs of the program on one packet: a tenth of a second
_WARM_UP = 0.4  # seconds


def through(where: Cores, seconds: float, expression: str | None) -> Run:
    """Measure packets/s that reach the kernel's stack through our program with a filter; None: through XDP_PASS."""
    program = Program.build("xdp_pass.c") if expression is None else Program.build(filter=expression)
    with Lab() as lab, program, program.attach(lab.interface, mode="native", netns=lab.netns):
        with lab.generator(seconds=_WARM_UP, size=64, cpu=where.generator) as generator:
            generator.wait(10)
        lost = lab.counters()["rx_dropped"]
        with lab.generator(seconds=seconds, size=64, cpu=where.generator) as generator:
            report = generator.wait(seconds + 10)
        time.sleep(0.15)
        lost = lab.counters()["rx_dropped"] - lost
        passed = report.sent - lost
        witnessed = program.counters()["passed"] if expression is not None else None
        # The kernel's stack runs on the generator's CPU, so there is no consumer whose CPU time could be measured.
        return Run(report.rate, passed / report.seconds, report.seconds, 0.0, passed, witnessed, lost)


def program_ns(runs: int) -> dict[str, Any]:
    """Return ns a run of each program on a UDP packet of 64 bytes, in turn, including the test run's own cost."""
    packet = udp_frame(size=64)
    programs = {"bare XDP_PASS": Program.build("xdp_pass.c")}
    programs |= {name: Program.build(filter=expression) for name, expression in EXPRESSIONS.items()}
    found: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(runs):
        for name, program in programs.items():
            found[name].append(_duration(program, packet))
    for program in programs.values():
        program.close()
    return {name: spread(values) for name, values in found.items()}


def _duration(program: Program, packet: bytes) -> float:
    room = ct.create_string_buffer(packet, len(packet))
    options = abi.TestRunOpts(
        sz=ct.sizeof(abi.TestRunOpts), data_in=ct.addressof(room), data_size_in=len(packet), repeat=_REPEAT
    )
    result = abi.libbpf().bpf_prog_test_run_opts(program.fd, ct.byref(options))
    if result < 0:
        raise kernel_error("test_run", result, f"cannot run the program {program.name}")
    return float(options.duration)
