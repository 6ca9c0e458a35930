# SPDX-License-Identifier: Apache-2.0
"""Write docs/benchmarks.md and its plots from the figures of one run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from benchmarks import table
from toolkit._base.access import Access
from toolkit._base.careful import replace_text

__all__ = ["write"]

DOCS = Path(__file__).resolve().parents[1] / "docs"
_READABLE = Access(0o644)

_HEAD = """# Benchmarks

Written by `sudo scripts/bench --write`; the text around the tables says how the figures are made.

{machine}

![Rates beside the peers](benchmarks.svg)

## How it is measured

- **The network** is a veth pair between two namespaces that nobody else can see. Frames of 64 bytes come from the
  kernel's XDP test run (`toolkit.lab`), on one CPU (nice -20); who is measured is pinned to the other, at real-time
  priority (SCHED_FIFO 1), the toolkit and its peers alike. Only testpmd's main thread, which reads commands, may run
  on both. Other load on the machine still shows: in a spinner's CPU below 100 %, in an offered load that varies.
- **In turn.** Toolkit and peers run one after the other, {pairs} times; each run is a new process on a new network,
  warmed up with 0.4 s of load that is not counted. Figures are medians, with the lowest and highest in brackets. A
  ratio is the median of the ratios of neighbouring runs, so that a bad minute of the machine hits both.
- **Counted twice.** What AF_XDP receives: by the consumer, and from the veth's own counters (sent less dropped). What
  is sent or forwarded: the rate is that of an XDP program that drops at the far end. The toolkit's received and dropped
  must equal what its XDP program redirected, to the packet, or the run fails. AF_PACKET, tcpdump and scapy are counted
  by themselves alone.
- **The ceiling** is what an XDP program sees that drops everything in the driver. What the kernel does to deliver a
  packet (the redirect and the copy into the frame; for AF_PACKET its network stack) is done on the generator's CPU, and
  lowers what that can offer. **Where nothing is lost, the rate is the offered load: the generator's CPU was the limit,
  and who received was not saturated.** A ratio of two such rates compares the deliveries; compare the CPU time too.
- **Offered loads differ.** On a machine with other work, one that spins pushes that work to the generator's CPU, and
  one that sleeps does not: the table says by how much the offered load differed, and "toolkit, spinning" is the fair
  counterpart of testpmd. A ratio with very different loads beside it says nothing about who is faster.
- **The same work**: where packets are dropped or forwarded the toolkit leaves out arrival times
  (`timestamps=False`, as `xsk drop` and `xsk forward` do), which testpmd's program does not write either; "toolkit,
  with arrival times" is the default. The toolkit's rings have 4096 entries in the saturated row (the fastest of those
  tried), 8192 where they are forwarded (the default).
- **Open checksums**: "toolkit" forwards packets byte for byte, as testpmd does. By default a Forwarder on a veth looks
  for checksums that the sender left to its device: the other rows find none, or finish one in each packet.
- **The filter's row** loads a host that wants none of the packets: all of them go through the XDP program into the
  kernel's stack, once past a bare XDP_PASS, once past the toolkit's program with a filter that matches nothing. Driver,
  program and stack all run on the generator's CPU, so no CPU time is charged to anybody, and the rate is what counts.
  The table beside it has the programs alone, in the kernel's test run on one packet; that has some 25 ns of its own.
- **The rows of capturing** run `xsk capture`, tcpdump and dumpcap as commands, each with a buffer of 256 MB, and take
  the rate from the growth of the file. The generator goes as fast as it can; on a veth the kernel's stack, which
  tcpdump and dumpcap need, runs on its CPU, so that it offers them less: the column says how much. So that
  losses compare too, other rows offer tcpdump the most that it keeps whole, and the toolkit three times that.
- **What a capture of 1500 B meets** is memory and disk. Some gigabytes go into the page cache (a fifth of the memory
  may be dirty); each program finds memory that was in use a moment before, for on a virtual machine whose host takes
  free memory back, the first use of a page costs 10 us. For good nobody writes faster than the disk: "the disk alone"
  is a new file, past the page cache, with nobody capturing.
- **The cost by batch size** is measured on rings that were filled before. "C" is the limit: a loop on libxdp's inline
  calls over rings filled in the same way (`benchmarks/floor.c`), where there are a C compiler and libxdp's headers. It
  checks nothing and keeps no books.
- **CPU time** is that of all threads of the process, in user space and in the kernel, softirqs in its time included.
  testpmd polls its rings all the time, so it uses the whole core whatever it does.
- **Peers**: DPDK's `testpmd` (Debian's dpdk-dev) on its af_xdp driver, native mode, copy mode as for everybody on a
  veth; a Python AF_PACKET socket with `recv_into`; tcpdump writing to /dev/null; scapy's `sniff`.
{settings}
"""

_BEFORE = """## Before and after

Ratios of two versions of the toolkit, measured in turn on one busy machine, with the quarter points of the rounds in
brackets. Below 1 is quicker where it says time, above 1 where it says rate.

**Modules in packages** (November 2026): the time of a packet after the move, divided by that before it; thirteen rounds
of `scripts/bench batches`, rings filled beforehand.

| packets in a batch | 1 | 16 | 64 | 256 | 1024 | 2048 | all sizes |
| --- | --: | --: | --: | --: | --: | --: | --: |
| receive | 0.96 (0.74 to 1.20) | 1.02 (0.76 to 1.07) | 0.95 (0.78 to 1.10) | 1.01 (0.80 to 1.06) | 0.93 (0.85 to 1.11) | 0.95 (0.90 to 1.08) | 0.95 |
| receive, head(64), lengths | 1.04 (0.83 to 1.20) | 0.97 (0.86 to 1.13) | 0.94 (0.74 to 1.24) | 1.00 (0.79 to 1.04) | 1.03 (0.87 to 1.18) | 1.02 (0.82 to 1.04) | 1.02 |
| send | 0.98 (0.83 to 1.10) | 0.95 (0.88 to 0.99) | 0.98 (0.95 to 1.05) | 1.00 (0.97 to 1.09) | 1.02 (0.94 to 1.06) | 0.99 (0.91 to 1.10) | 0.99 |

The CPU time of `import toolkit` without NumPy's was 0.57 of that before.

**Analysis** (November 2026): the rate after each distinct address was written once, columns were made of words and row
groups were written by a thread, divided by that before.

| | 512 in a batch | 2048 in a batch |
| --- | --: | --: |
| decode, all columns | 1.22 (1.20 to 1.22) | 1.18 (1.14 to 1.19) |
| decode, ports and addresses | 1.08 (1.07 to 1.09) | 1.01 (1.00 to 1.01) |
| flow counters | 1.15 (1.10 to 1.56) | 1.04 (1.04 to 1.09) |
| to_arrow() | 1.16 (1.15 to 1.20) | 1.38 (1.37 to 1.40) |
| to_arrow(), all addresses distinct | | 1.14 (1.12 to 1.17) |
| to_arrow(addresses="binary") | 1.38 (1.34 to 1.40) | 1.28 (1.24 to 1.29) |
| Parquet file, zstd | 1.83 (1.54 to 2.13) | 2.12 (1.98 to 2.25) |
| Parquet file, zstd, all addresses distinct | | 1.05 (0.90 to 1.16) |

`import toolkit` without NumPy's part took 0.59 to 0.63 of the CPU time before, and a process that receives on one queue
53 MB at most instead of 56.
"""  # noqa: E501 (rows of a table)

_BATCHES = """
![Cost of a packet by batch size](benchmarks-batches.svg)
"""


def write(figures: dict[str, Any]) -> None:
    """Write the page and its plots to docs/."""
    DOCS.mkdir(exist_ok=True)
    machine = figures["machine"]
    who = (
        f"{figures['began']}: Linux {machine['kernel']}, Python {machine['python']}, {machine['cpus']} CPUs "
        f"({machine['cpu']}), load average {machine['load']:.2f} before and {figures['load_after']:.2f} after."
    )
    if figures.get("quick"):
        who += (
            "\n\n**A quick run**: few and short, to see that all works. Run it without `--quick` for figures to quote."
        )
    text = [_HEAD.format(machine=who, pairs=_pairs(figures), settings=_settings(figures))]
    for one in table.tables(figures):
        text.append(f"## {one.title}\n\n{table.markdown(one)}\n")
        if one.title.startswith("Cost of a packet"):
            text.append(_BATCHES)
    text.append(_BEFORE)
    replace_text(DOCS / "benchmarks.md", "\n".join(part.strip("\n") + "\n" for part in text), _READABLE)
    _plot_rates(figures)
    if "batch_ns_per_packet" in figures:
        _plot_batches(figures["batch_ns_per_packet"])


def _pairs(figures: dict[str, Any]) -> int:
    runs = [one["pps"]["runs"] for row in figures["rows"].values() for one in row["who"].values() if "pps" in one]
    return max(runs, default=0)


def _settings(figures: dict[str, Any]) -> str:
    chosen = figures.get("testpmd_settings") or {}
    if not chosen:
        return "- testpmd ran with `busy_budget=0` and its defaults. A full run tries more, and takes the fastest."
    lines = [
        "- testpmd was given the settings with the best median of the tries before (Mpps of each, in order). As it",
        "  comes it takes part in every pair as well, and ratios are against whichever of the two was faster there.",
    ]
    for mode, tried in figures["testpmd_tried_pps"].items():
        found = ", ".join(
            f"`{name}` " + " ".join(f"{rate / 1e6:.2f}" for rate in rates) for name, rates in tried["pps"].items()
        )
        best = " ".join([chosen[mode][0], *chosen[mode][1]]).strip() or "defaults" if mode in chosen else "as it comes"
        failed = sum(len(reasons) for reasons in tried["failed"].values())
        lines.append(f"  {mode}: {found}; taken: **{best}**" + (f"; {failed} tries failed." if failed else "."))
    return "\n".join(lines)


def _plot_rates(figures: dict[str, Any]) -> None:
    """Plot bars by work and program, with their spread, and the ceiling as a line."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = json.dumps(figures["machine"])
    from matplotlib import pyplot

    rows = [row for row in figures["rows"].values() if any("pps" in one for one in row["who"].values())]
    if not rows:
        return
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(8, 1.1 * len(rows) + 1.5), sharex=True, squeeze=False)
    for axis, row in zip(axes[:, 0], rows, strict=True):
        who = [name for name, one in row["who"].items() if "pps" in one]
        for at, name in enumerate(who):
            rate = {key: row["who"][name]["pps"][key] / 1e6 for key in ("median", "min", "max")}
            ours = name == "toolkit" or "toolkit" not in who
            axis.barh(at, rate["median"], color="#2a6fb0" if ours else "#b8bec6")
            axis.plot([rate["min"], rate["max"]], [at, at], color="#222222", linewidth=1)
        axis.set_yticks(range(len(who)), who, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(row["title"], fontsize=9, loc="left")
        if "ceiling_pps" in row:
            axis.axvline(row["ceiling_pps"]["median"] / 1e6, color="#c03a2b", linestyle="--", linewidth=1)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[-1, 0].set_xlabel("Mpps; dashed: an XDP program that drops in the driver under the same load", fontsize=8)
    figure.tight_layout()
    _save(figure, "benchmarks.svg")
    pyplot.close(figure)


def _save(figure: Any, name: str) -> None:
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    replace_text(DOCS / name, drawn.getvalue(), _READABLE)


def _plot_batches(costs: dict[str, dict[Any, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 3.6))
    for kind, by in costs.items():
        axis.plot([int(size) for size in by], list(by.values()), marker="o", markersize=3, label=kind)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("packets in a batch")
    axis.set_ylabel("ns a packet")
    axis.grid(which="both", alpha=0.25)
    axis.legend(fontsize=8)
    figure.tight_layout()
    _save(figure, "benchmarks-batches.svg")
    pyplot.close(figure)
