# SPDX-License-Identifier: Apache-2.0
"""The figures as tables: on the terminal by rich, in docs/benchmarks.md as Markdown, from the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Table", "markdown", "show", "tables"]


_ENDLESS = 100_000  # columns


class Table(NamedTuple):
    """Cells, as text."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def tables(figures: dict[str, Any]) -> list[Table]:
    """Return all tables for the figures that were measured."""
    found = []
    if figures.get("rows"):
        found += [_rates(figures["rows"]), _comparison(figures["rows"])]
        if "filter" in figures["rows"]:
            found.append(_filters(figures["rows"]["filter"]["program_ns"]))
        if "ping" in figures["rows"]:
            found.append(_ping(figures["rows"]["ping"]))
    if "startup" in figures:
        found.append(_startup(figures["startup"]))
    if "batch_ns_per_packet" in figures:
        found.append(_batches(figures["batch_ns_per_packet"], figures.get("no_floor", "")))
    if "decode_pps" in figures:
        found.append(_decoding(figures["decode_pps"]))
    for job, profile in figures.get("profiles", {}).items():
        found += _profile(job, profile)
    return [table for table in found if table.rows]


def show(figures: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(highlight=False, markup=False, soft_wrap=True)
    machine = figures["machine"]
    console.print(
        f"Linux {machine['kernel']}, Python {machine['python']}, {machine['cpus']} CPUs ({machine['cpu']}), "
        f"load before {machine['load']:.1f}, after {figures['load_after']:.1f}"
    )
    for one in tables(figures):
        rich = RichTable(title=one.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(one.columns):
            rich.add_column(column, justify="left" if number < _left(one) else "right")
        for row in one.rows:
            rich.add_row(*row)
        if not console.is_terminal:  # a pipe or a file has room for all of it
            console.width = console.measure(rich, options=console.options.update(width=_ENDLESS)).maximum
        console.print()
        console.print(rich)


def markdown(table: Table) -> str:
    """Return a table as Markdown, without its title."""
    marks = ["---" if number < _left(table) else "--:" for number in range(len(table.columns))]
    lines = [table.columns, tuple(marks), *table.rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _left(table: Table) -> int:
    return 2 if table.columns[:2] == ("work", "by") or table.columns[:2] == ("work", "against") else 1


def _span(values: dict[str, float], form: str, scale: float = 1.0) -> str:
    """Return "median (minimum to maximum)"."""
    median, low, high = (form.format(values[key] * scale) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def _rates(rows: dict[str, Any]) -> Table:
    """Return the table of rates, by work, program and load."""
    cells = []
    for row in rows.values():
        ceiling = _span(row["ceiling_pps"], "{:.2f}", 1e-6) if "ceiling_pps" in row else ""
        title = row["title"]
        for who, found in row["who"].items():
            if "pps" not in found:
                continue
            offered = found["offered_pps"]
            cells.append(
                (
                    title,
                    who,
                    _span(found["pps"], "{:.3f}", 1e-6),
                    "{:.2f}".format(offered["median"] * 1e-6) if offered["median"] else "",
                    ceiling,
                    _span(found["cpu"], "{:.1f}", 100) if found["cpu"]["max"] else "",
                    "{:.0f}".format(found["cpu_ns_per_packet"]["median"]) if found["cpu"]["max"] else "",
                    f"{found['lost']:,}" if offered["median"] else "",
                )
            )
            title = ceiling = ""
    columns = ("work", "by", "Mpps", "offered, Mpps", "ceiling, Mpps", "CPU, %", "CPU ns a packet", "lost")
    return Table("Rates: medians (and spread)", columns, cells)


def _comparison(rows: dict[str, Any]) -> Table:
    """Return the table of ratios and the wanted values."""
    cells = []
    for row in rows.values():
        for peer, ratio in row.get("ratios", {}).items():
            offered = ratio.get("offered")
            unequal = f", offered {offered:.2f}x" if offered and abs(offered - 1) > 0.05 else ""
            cells.append((row["title"], peer, _span(ratio, "{:.2f}x") + unequal, f">= {ratio['wanted']:g}x"))
        if "wanted_cpu" in row:
            ours = row["who"]["toolkit"]
            text = f"{_span(ours['cpu'], '{:.1f}', 100)} % of a core, {ours['lost']:,} lost"
            cells.append((row["title"], "itself", text, f"< {row['wanted_cpu'] * 100:.0f} %, nothing lost"))
        if "wanted_pps" in row:
            text = _span(row["who"]["per packet"]["pps"], "{:.2f}", 1e-6) + " Mpps"
            cells.append((row["title"], "itself", text, f">= {row['wanted_pps'] * 1e-6:.1f} Mpps"))
        for key, kind in (("ratio", "ping -A, median"), ("flood_ratio", "ping -f, mean")):
            if row.get(key):
                lost = row["who"]["toolkit, spinning"]["lost"]
                text = f"{_span(row[key], '{:.2f}x')}, {lost:,} lost"
                cells.append((f"{kind} round trip", "testpmd", text, f"<= {row['wanted_ratio']:g}x, nothing lost"))
    return Table(
        "The toolkit against its peers: medians of pairs (and spread)", ("work", "against", "is", "wanted"), cells
    )


def _ping(row: dict[str, Any]) -> Table:
    cells = [
        (
            who,
            _span(one["adaptive_us"], "{:.1f}"),
            _span(one["flood_us"], "{:.1f}"),
            f"{one['answers']:,}",
            str(one["lost"]),
        )
        for who, one in row["who"].items()
    ]
    columns = ("answered by", "ping -A, median us", "ping -f, mean us", "answers", "lost")
    return Table("Round trips", columns, cells)


def _filters(costs: dict[str, dict[str, float]]) -> Table:
    bare = costs["bare XDP_PASS"]["median"]
    cells = [
        (name, _span(one, "{:.0f}"), f"{one['median'] - bare:+.0f}" if one["median"] != bare else "")
        for name, one in costs.items()
    ]
    columns = ("program", "ns a packet, in a test run", "more than bare")
    return Table("A filter that matches nothing: the program alone", columns, cells)


def _startup(figures: dict[str, Any]) -> Table:
    cells = [
        ("import toolkit, ms", _span(figures["import_ms"], "{:.0f}"), "< 150"),
        ("open a veth, cached program, ms", _span(figures["open_cached_ms"], "{:.1f}"), "< 30"),
        ("open a veth, fresh compile, ms", _span(figures["open_fresh_ms"], "{:.0f}"), "< 600"),
        ("peak memory, one queue, MB", f"{figures['memory_mb']:.1f}", "< 60"),
        ("LLVM in the process", "yes" if figures["llvm_mapped"] else "no", "no"),
    ]
    return Table("Start and memory", ("figure", "is", "wanted"), cells)


def _batches(costs: dict[str, dict[Any, float]], no_floor: str) -> Table:
    without = f" (not measured in C: {no_floor})" if no_floor else ""
    sizes = list(next(iter(costs.values())))
    cells = [(str(size), *(f"{by[size]:,.0f}" for by in costs.values())) for size in sizes]
    return Table(f"Cost of a packet by batch size, ns{without}", ("packets in a batch", *costs), cells)


def _decoding(rates: dict[str, dict[str, float]]) -> Table:
    sizes = list(next(iter(rates.values())))
    cells = [(name, *(f"{by[size] / 1e6:.2f}" for size in sizes)) for name, by in rates.items()]
    columns = ("packets in a batch:", *sizes)
    return Table("Headers into columns, one core: M packets/s (all columns: wanted 2)", columns, cells)


def _profile(job: str, profile: dict[str, Any]) -> list[Table]:
    found = []
    shares = [(who, profile[who]["shares"]) for who in ("toolkit", "testpmd") if profile.get(who)]
    if shares:
        names = list(dict.fromkeys(name for _, one in shares for name, share in one.items() if share >= 0.005))
        cells = [(name, *(f"{one.get(name, 0):.1%}" for _, one in shares)) for name in names]
        columns = ("part", *(who for who, _ in shares))
        found.append(Table(f"{job}: where the CPU time goes (perf)", columns, cells))
        symbols = profile["toolkit"].get("symbols", [])[:12] if profile.get("toolkit") else []
        cells = [(name, f"{share:.1%}") for name, share in symbols]
        found.append(Table(f"{job}: the toolkit's busiest symbols (perf)", ("symbol", "share"), cells))
    cells = [(name, f"{share:.1%}") for name, share in list(profile["functions"].items())[:12]]
    found.append(Table(f"{job}: by function of the toolkit, with what it calls in C", ("function", "share"), cells))
    return found
