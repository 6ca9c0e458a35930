# SPDX-License-Identifier: Apache-2.0
"""`xsk send -r FILE`: recorded packets out of an interface again."""

from __future__ import annotations

import contextlib
import io
import select
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.cli.binding import Binding
from toolkit.cli.commands.send_account import FRAMES, conclude, summary
from toolkit.cli.spelling import message_of
from toolkit.cli.stop import Stop
from toolkit.cli.view import output
from toolkit.cli.view.live import LiveLine, Reading
from toolkit.errors import RecordedError, SystemCallError
from toolkit.recorded.recorded import Recorded, read
from toolkit.recorded.replay import Ended, Replay, Replayed
from toolkit.umem.umem import UMEM
from toolkit.xsk.socket import Socket

__all__ = ["Pace", "run"]

_ROOM = 18  # bytes of an Ethernet header with a VLAN tag
_LATE = 0.01  # seconds behind the recording that are worth mentioning
_BATCH = 1024  # packets read at a time: as a matrix they stay in the cache


@dataclass(frozen=True)
class Pace:
    """How fast: `speed` times as recorded, or `rate` packets/s, or both None for as fast as it goes."""

    speed: float | None = 1.0
    rate: float | None = None
    max_gap: float | None = None  # seconds

    def __str__(self) -> str:
        """As text."""
        if self.rate is not None:
            return f"{output.count(self.rate)} packets/s"
        if self.speed is None:
            return "as fast as it goes"
        text = "as recorded" if self.speed == 1 else f"{self.speed:g} times as fast as recorded"
        return text if self.max_gap is None else f"{text}, no gap longer than {self.max_gap:g} s"


def run(
    interface: str,
    binding: Binding,
    file: str,
    pace: Pace,
    *,
    loop: int,
    finish_checksums: bool,
    queue: int,
    count: int | None,
    seconds: float | None,
    interval: float,
    extra: bool,
    as_json: bool,
) -> int:
    """Send the recording `loop` times (0: for ever), until `count`, `seconds` or a signal; the exit code."""
    device = binding.describe(interface)
    with Stop(seconds) as stop, contextlib.ExitStack() as parts:
        try:  # first: what cannot be read needs no socket
            recorded = parts.enter_context(read(_source(file, stop), batch_size=_BATCH, between=_ending_on(stop)))
        except Ended:
            output.say(f"xsk: stopped before there was a packet in {file}.")
            return 1
        frame_size = 2048 if device.mtu + _ROOM <= 2048 else 4096
        umem = parts.enter_context(UMEM(FRAMES, frame_size, comp_size=FRAMES))
        sock = parts.enter_context(binding.sender(interface, queue, umem))
        if not as_json:
            _introduce(sock, file, pace)
        began = stop.restart()  # to bind is not to send
        player = Replay(
            sock,
            speed=pace.speed,
            rate=pace.rate,
            max_gap=pace.max_gap,
            limit=count,
            finish=finish_checksums,
            stop=lambda: stop,
        )
        line = LiveLine(
            lambda: Reading(*player.statistics()[:2]),
            interval=interval,
            statistics=sock.statistics if extra else None,
            quiet=as_json,
        )
        player.tick = line.tick
        failure = _play(player, recorded, file, loop, sock)
        if stop and file == "-":
            failure = ""  # the recording seems cut off, because we stopped to read it
        result = player.statistics()
        report = _report(sock, file, result, began) | {"error": failure or None}
    return output.finish(report, lambda found: _conclude(found, result), as_json=as_json)


def _introduce(sock: Socket, file: str, pace: Pace) -> None:
    how = "zero-copy" if sock.zero_copy else "copy mode"
    output.say(f"{sock.interface}: queue {sock.queue}, {how}; {file}, {pace}")


def _ending_on(stop: Stop) -> Callable[[], None]:
    """Return a function that ends reading when it is time, because no packet may come for long."""

    def check() -> None:
        if stop:
            raise Ended

    return check


def _source(file: str, stop: Stop) -> Any:
    """Return what to read. Standard input ends when `stop` says so, although no byte comes."""
    return _Input(stop) if file == "-" else file


class _Input:
    """Standard input, at its end when it ends or when the command is to stop."""

    name = "standard input"

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._raw = io.FileIO(sys.stdin.fileno(), closefd=False)
        self._poll = select.poll()
        self._poll.register(self._raw, select.POLLIN)

    def readinto(self, target: memoryview) -> int:
        while not self._stop:
            if self._poll.poll(self._stop.timeout * 1000):
                count = self._raw.readinto(target)
                if count is not None:  # else another process that reads it was faster
                    return count
        return 0


def _play(player: Replay, recorded: Recorded, file: str, loop: int, sock: Socket) -> str:
    """Send it as often as asked for. Return why that ended early, or None."""
    try:
        player.round(recorded)
        rounds = 1
        while not player.done and rounds != loop and player.statistics().packets:
            player.round(file)
            rounds += 1
    except SystemCallError as refused:
        return message_of(refused)
    except RecordedError as damaged:
        return message_of(damaged)
    return ""


def _report(sock: Socket, file: str, result: Replayed, began: float) -> dict[str, Any]:
    return {
        "file": file,
        **summary(sock, result.packets, result.octets, began),
        "too_long": result.too_long,
        "too_short": result.too_short,
        "cut": result.cut,
        "checksums_finished": result.finished,
        "behind": round(result.behind, 6),
    }


def _conclude(report: dict[str, Any], result: Replayed) -> None:
    conclude(report)
    if result.too_long:
        output.say(
            f"{result.too_long:,} packets were left out: longer than the interface's MTU or 4096 bytes. Those were put "
            "together by the host that recorded them (GRO, TSO), or its MTU was larger."
        )
    if result.too_short:
        output.say(f"{result.too_short:,} packets were left out: they have no whole Ethernet header.")
    if result.cut:
        output.say(f"{result.cut:,} packets were sent as short as they had been recorded (snaplen).")
    if result.finished:
        output.say(
            f"{result.finished:,} packets had been recorded before a device finished their checksum; here it was."
        )
    if result.behind > _LATE:
        output.say(f"Up to {result.behind:.3f} s behind the recording's times.")
