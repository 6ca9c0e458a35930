# SPDX-License-Identifier: Apache-2.0
"""The text of a verifier error: what the kernel's verifier logged last, the likely cause, the next step."""

from __future__ import annotations

import errno
import re

from toolkit.errors import SystemCallError, VerifierError, kernel_error

__all__ = ["LESS", "LIMITS", "verifier_error"]

_TRACE = re.compile(r"\d+: |;|from \d+ to \d+|func#")

# The verifier's messages for a program that is not wrong, but too large.
_BEYOND = re.compile(
    r"BPF program is too large.*|The sequence of .* jumps is too complex.*|jump out of range.*|combined stack size.*"
)
LESS = (
    "Next step: `net` and `portrange` instead of lists of hosts and ports, fewer `protochain`, rules of the same "
    "action joined with `or` (a program holds some 250 short ones), or a program for packets of one buffer (an MTU "
    "under 3,500)."
)
LIMITS = f". Likely cause: the program, most often its filter, is more than the verifier follows. {LESS}"

_UNKNOWN = (
    ". Next step: read the end of `.log`: before its last line are the instructions that led there, with your source."
)


def verifier_error(number: int, tried: str, log: str) -> SystemCallError:
    """Return the error for a program that the verifier refused with errno `number` and this `log`."""
    if (number == errno.EACCES and "prohibited" in log and "!root" in log) or "pointer -= pointer prohibited" in log:
        return kernel_error(
            "prog_load",
            number,
            tried,
            cause="the verifier allows this pointer arithmetic only with CAP_PERFMON",
            remedy="run as root (sudo), or grant CAP_PERFMON beside CAP_BPF and CAP_NET_ADMIN",
        )
    if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return kernel_error("prog_load", number, tried)
    beyond = _BEYOND.search(log)
    said, limits = (beyond[0], LIMITS) if beyond else (_last_words(log), _UNKNOWN)
    return VerifierError(number, f"{tried}: the verifier refuses it. {said} (`.log` has all of it){limits}", log)


def _last_words(log: str) -> str:
    """Return the lines of the log that give the reason: those after the last traced instruction, without statistics."""
    reasons: list[str] = []
    for line in log.splitlines():
        if _TRACE.match(line):
            reasons.clear()
        elif line and not line.startswith(("processed ", "verification time", "stack depth ")):
            reasons.append(line)
    return "; ".join(reasons[-3:])
