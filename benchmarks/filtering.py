# SPDX-License-Identifier: Apache-2.0
"""What a filter costs the packets that it does not take: all of them go on to the kernel, as without us.

Measured twice. On the way through the veth's driver into the kernel's stack, at full load, where the packet's whole
cost is the measure: that is what the host's other traffic feels. And the program alone, run over and over on one packet
by the kernel's test run, which has some 25 ns of its own: there the filter's own nanoseconds show.
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

# Asked of UDP packets of the lab, each is answered no at the end of its longest way.
EXPRESSIONS = {
    "one port": "udp port 53",
    "host or port or net": "host 192.0.2.7 or udp port 53 or net 198.51.100.0/24",
    "50 hosts": " or ".join(f"host 192.0.2.{i}" for i in range(1, 51)),
}
_REPEAT = 2_000_000  # runs of the program on one packet: a tenth of a second
_WARM_UP = 0.4  # seconds


def through(where: Cores, seconds: float, expression: str | None) -> Run:
    """Packets/s that reach the kernel's stack past a program: ours with the filter, or for None a bare XDP_PASS."""
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
        # Whoever counts here, the kernel's stack runs on the generator's CPU: there is no consumer to charge.
        return Run(report.rate, passed / report.seconds, report.seconds, 0.0, passed, witnessed, lost)


def program_ns(runs: int) -> dict[str, Any]:
    """ns a run of each program on a UDP packet of 64 bytes, in turn; the test run's own cost is in all of them."""
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
