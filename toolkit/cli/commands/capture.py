# SPDX-License-Identifier: Apache-2.0
"""`xsk capture`: packets into a file, a progress line each second, and at the end what the file lacks."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from toolkit._base.access import access_of
from toolkit._base.careful import Folder, own_descriptor
from toolkit._base.netns import entered
from toolkit.capture import Capture
from toolkit.capture.compression import compressor, suffix_of
from toolkit.capture.destination import format_of
from toolkit.capture.files import check_files
from toolkit.capture.options import Queueing
from toolkit.capture.rotation import Rotation
from toolkit.capture.statistics import CaptureStatistics
from toolkit.capture.table_writer import check_one_file, check_tables
from toolkit.cli import options as opt
from toolkit.cli.binding import Binding
from toolkit.cli.command import command
from toolkit.cli.spelling import message_of
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine, Reading
from toolkit.cli.view.losses import loss_lines, losses
from toolkit.cli.view.summary import Source, introduce, outcome_lines, passed_line, program_counts
from toolkit.errors import SystemCallError, ToolkitError
from toolkit.tables.arrow import pyarrow

if TYPE_CHECKING:
    from toolkit.capture.compression import Compression
    from toolkit.capture.destination import FileFormat

__all__ = ["FileTarget", "capture", "run"]

_TIMEOUT = 0.1  # seconds that a wait lasts, and a packet in a pipe or the end after a signal is late, at most

_UNITS = {"": 1_000_000, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}  # as tcpdump -C has them


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return a size in bytes. Given in million bytes, or with k, m or g in powers of 1024."""
    if value is None:
        return None
    unit = value[-1:].lower() if value[-1:].isalpha() else ""
    try:
        size = int(float(value[: len(value) - len(unit)]) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise click.BadParameter(
            f"{value!r} is not a size. Next step: give 10 (million bytes), 64k, 10m or 1g.", ctx, param
        )
    return size


def _mode(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Return permission bits, given in octal. Capture refuses those that make no sense."""
    if value is None:
        return None
    try:
        return int(value, 8)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a mode. Next step: give 600, 640 or 644.", ctx, param) from None


@dataclass(frozen=True)
class FileTarget:
    """The file to write, as asked for on the command line."""

    file: str
    rotate_size: int | None = None  # bytes
    rotate_seconds: float | None = None
    files: int | None = None
    pcap: bool = False
    compress: Compression | None = None
    force: bool = False
    mode: int | None = None
    group: str | None = None
    buffer: int | None = None  # bytes

    @property
    def path(self) -> Path | None:
        """The file, None for standard output."""
        return None if self.file == "-" else Path(self.file)

    @property
    def format(self) -> FileFormat:
        """The format that the file gets."""
        return "pcap" if self.pcap else format_of(self.file)

    @property
    def queueing(self) -> Queueing:
        """What may wait for the disk."""
        return Queueing(limit=self.buffer)

    def check(self) -> None:
        """Raise an error if it cannot be written, before anything is taken from an interface."""
        if self.path is None and sys.__stdout__ is None:  # its number now belongs to another descriptor of ours
            raise ToolkitError("standard output is closed. Next step: name a file, or a pipe: `| tcpdump -r -`.")
        if self.path is None and os.isatty(1):
            raise ToolkitError("standard output is a terminal: packets are no text. Next step: `| tcpdump -r -`.")
        self.queueing.check()
        access_of(self.mode, self.group)
        rotation = Rotation(self.rotate_size, self.rotate_seconds, self.files)
        if self.format == "parquet":
            check_tables(self.file, rotation, self.compress, force=self.force)
            pyarrow("Parquet")
        else:
            check_one_file(self.file, self.format)
            check_files(self.path, rotation, force=self.force)
            compressor(self.compress or (suffix_of(self.path) if self.path is not None else None))

    @contextlib.contextmanager
    def reader(self, stop: Stop) -> Iterator[None]:
        """Wait for a reader, if the file is a FIFO: without one it cannot be opened."""
        if self.path is None or own_descriptor(self.file) is not None or not self.path.is_fifo():
            yield
            return
        with Folder.of(self.path) as folder:
            while True:
                try:
                    fd = folder.stream(self.path.name)
                    break
                except SystemCallError as refused:
                    if refused.errno != errno.ENXIO or stop:
                        raise
                    time.sleep(min(stop.timeout, _TIMEOUT))
        try:
            yield  # kept open: otherwise the reader would see an end of file
        finally:
            if fd is not None:
                os.close(fd)

    def open(self, source: Source, binding: Binding) -> Capture:
        """Begin the capture."""
        with entered(binding.netns):  # where the interface is: it is asked for its speed
            return Capture(
                source,
                self.file,
                format=self.format,
                compress=self.compress,
                force=self.force,
                mode=self.mode,
                group=self.group,
                snaplen=None if self.format == "parquet" else binding.snaplen,
                rotate_bytes=self.rotate_size,
                rotate_seconds=self.rotate_seconds,
                rotate_files=self.files,
                queueing=self.queueing,
            )


@command(
    cloup.option_group("What to take", opt.FILTER, opt.TEE, *opt.SAMPLING, opt.YES),
    cloup.option_group(
        "The file",
        cloup.option(
            "-w", "--write", "file", metavar="FILE", required=True, help="Write to this file; - for standard output."
        ),
        cloup.option(
            "-C",
            "--rotate-size",
            metavar="SIZE",
            callback=_size,
            help="Next file after this many million bytes (or 64k, 10m, 1g).",
        ),
        cloup.option(
            "-G",
            "--rotate-seconds",
            metavar="S",
            type=opt.Number(min=0, min_open=True),
            help="Next file after this many seconds.",
        ),
        cloup.option(
            "-W",
            "--files",
            metavar="N",
            type=click.IntRange(min=1),
            help="With -C, write N files in turn, over and over. With -G, stop after N files.",
        ),
        cloup.option("--pcap", is_flag=True, help="Write classic pcap, with nanoseconds. It cannot say what was lost."),
        cloup.option(
            "--compress",
            type=click.Choice(["gzip", "zstd"]),
            help="Compress the file.  [as its suffix says: .gz, .zst]",
        ),
        cloup.option("--overwrite", "force", is_flag=True, help="Replace files that exist."),
        cloup.option(
            "--file-mode",
            metavar="BITS",
            callback=_mode,
            help="Permissions of the files, as for chmod.  [600; 640 with --file-group]",
        ),
        cloup.option(
            "--file-group",
            metavar="NAME",
            help="The group of the files. It may read them, unless --file-mode says otherwise.",
        ),
        cloup.option(
            "--buffer",
            metavar="SIZE",
            callback=_size,
            help="How much may wait in memory for the disk, in million bytes (or 512m, 1g).  "
            "[a 64th of the memory, from 64m to 256m; a quarter of what is free, if that is less]",
        ),
    ),
    cloup.option_group("What to show", opt.NO_NAMES, opt.INTERVAL, opt.JSON),
    cloup.option_group("When to stop", opt.COUNT, opt.SECONDS),
    opt.where(),
    opt.how_to_receive(),
    filtered=True,
    examples=(
        ("xsk capture eth0 udp port 53 --tee -w dns.pcapng", "copies into a file"),
        ("xsk capture eth0 all --tee -w - | tcpdump -r - -n", "to another program"),
        ("xsk capture eth0 all --tee -w all.pcapng.zst --seconds 60", ""),
        ("xsk capture eth0 icmp --tee -w ping.pcap -c 100 -s 128", ""),
        ("xsk capture eth0 all --tee --sample 1/1000 -w flows.parquet", ""),
        ("xsk capture eth0 udp port 9 -w taken.pcapng", "this host misses these"),
        ("xsk capture eth0 udp --tee -w ring.pcapng -C 100 -W 10", ""),
        ("xsk capture eth0 udp --tee -w 'udp-%Y%m%d-%H%M.pcapng' -G 60", ""),
    ),
    matters=("-w", "--tee", "-c", "--seconds", "-s", "-C", "-G", "-W", "--overwrite", "--json", "--yes"),
)
def capture(interface: str, **options: Any) -> int:
    """TAKE packets that match EXPRESSION, so that this host does not get them, and write them to a file.

    With --tee the file gets copies, and this host gets every packet.

    EXPRESSION is tcpdump's, or 'all' (`xsk help filters`). Before it takes what this host needs, it asks
    (`xsk help taking`). Packets that do not match go on to the kernel.

    The suffix of FILE says its format: .pcapng, .pcap or .parquet, and .gz or .zst behind one of the first two for
    compression. packets/, with a slash at its end, is a directory with a Parquet dataset. `xsk help files` says what is
    in the files, who can read them, how they rotate, and what happens when the disk is too slow.

    With -w -, standard output gets the packets and nothing else; the object of --json goes to standard error. If FILE
    is a FIFO, nothing is taken from INTERFACE until a process reads the FIFO.
    """
    names = ("file", "rotate_size", "rotate_seconds", "files", "pcap", "compress", "force", "buffer")
    target = FileTarget(
        **{name: options.pop(name) for name in names}, mode=options.pop("file_mode"), group=options.pop("file_group")
    )
    return run(interface, options.pop("expression"), opt.binding_from(options), target, **options)


def run(
    interface: str,
    expression: str | None,
    binding: Binding,
    target: FileTarget,
    *,
    count: int | None,
    seconds: float | None,
    interval: float,
    as_json: bool,
) -> int:
    """Capture until a signal, `seconds` or `count`; the exit code. All that people read goes to stderr."""
    target.check()
    with Stop(seconds) as stop, contextlib.ExitStack() as opened:
        with target.reader(stop):  # before anything is taken from the interface
            source = binding.watch(interface, expression)
            opened.callback(source.close)
            capture = target.open(source, binding)
        if not as_json:
            introduce(source)
        began = stop.restart()  # compiling, and waiting for a reader, is not capturing
        line = LiveLine(lambda: _reading(capture), interval=interval, quiet=as_json, stream=sys.stderr)
        failure = _loop(capture, stop, line, count)
        elapsed = time.monotonic() - began
        try:
            capture.finish(None if count is None else max(count - capture.statistics().received, 0))
        except ToolkitError as refused:
            failure = failure or refused
        failure = failure or source.loss()
        report = _report(source, capture, target, elapsed, failure)
        if failure is not None and capture.statistics().write_dropped:
            # The number of packets that are not in the file is known; the number of their bytes is not.
            report["written_bytes"] = report["wire_bytes"] = None
    if as_json:
        with contextlib.redirect_stdout(sys.stderr if target.path is None else sys.stdout):
            output.print_json({**report, "error": None if failure is None else message_of(failure)})
    else:
        _conclude(report, capture.statistics())
    if failure is not None:
        output.say(f"xsk: {message_of(failure)}")
    return 0 if failure is None else 1


def _loop(capture: Capture, stop: Stop, line: LiveLine, count: int | None) -> ToolkitError | None:
    left = count
    try:
        while not stop and not capture.finished and left != 0:
            came = capture.step(min(stop.timeout, _TIMEOUT), left)
            left = None if left is None else left - came
            try:
                line.tick()
            except OSError:  # stderr was closed, or its disk is full: no reason to lose packets
                line.next = float("inf")
    except ToolkitError as failure:  # the device is gone, or the disk is full
        return failure
    return None


def _reading(capture: Capture) -> Reading:
    now = capture.statistics()
    others = {"missed by the NIC": now.missed or 0, "not written": now.write_dropped}
    drops = {"dropped": now.dropped} | {name: value for name, value in others.items() if value}
    size = output.octets(now.file_bytes)
    note = f"file {size}" if now.files == 1 else f"{now.files} files {size}"
    return Reading(now.written, now.wire_bytes, drops, note)


def _report(
    source: Source, capture: Capture, target: FileTarget, seconds: float, failure: ToolkitError | None
) -> dict[str, Any]:
    now = capture.statistics()
    return {
        **source.info(),
        "mode": source.link.mode,
        "file": target.file,
        "format": target.format,
        "received": now.received,
        **losses(source, source.statistics()),
        "dropped": now.dropped,
        **program_counts(source),
        "redirected": now.accepted,
        "written": now.written,
        "written_bytes": now.bytes,
        "wire_bytes": now.wire_bytes,
        "write_dropped": now.write_dropped,
        "unwanted": now.unwanted,
        "untimed": now.untimed,
        "whole": not now.lost and now.missed == 0 and failure is None,
        "files": now.files,
        "file_bytes": now.file_bytes,
        "seconds": round(seconds, 3),
    }


def _conclude(report: dict[str, Any], now: CaptureStatistics) -> None:
    seconds = max(report["seconds"], 1e-9)
    place = "standard output" if report["file"] == "-" else report["file"]
    files = f" in {now.files} files" if now.files > 1 else ""
    kept = f" (kept: {now.bytes:,})" if now.bytes != now.wire_bytes else ""
    octets = "" if report["written_bytes"] is None else f", {now.wire_bytes:,} bytes{kept}"
    lines = [
        f"{now.written:,} packets{octets} in {report['seconds']:.1f} s "
        f"({output.count(now.written / seconds)} packets/s) to {place}: {output.octets(now.file_bytes)}{files}",
        *passed_line(report),
        *outcome_lines(report),
        output.equation("redirected", now.accepted, {"received": now.received, "dropped": now.dropped}),
    ]
    written = {"written": now.written, "not written": now.write_dropped, "not wanted any more": now.unwanted}
    lines.append(output.equation("received", now.received, written))
    if now.untimed:
        lines.append(f"{now.untimed:,} packets came without a time of arrival: they carry that of their receipt")
    if now.lost:
        lines.append(f"the capture LACKS {now.lost:,} packets that the filter took")
    lines += loss_lines(report)
    output.say(*lines)
