# SPDX-License-Identifier: Apache-2.0
"""Errors of the parent for a worker that ended without a result."""

from __future__ import annotations

import pickle
import signal
import sys
import traceback

from toolkit.errors import ToolkitError

__all__ = ["WorkerError", "died", "failed", "portable"]


class WorkerError(ToolkitError):
    """A worker ended without a result. Its queues' packets go on to the kernel; the other workers continue."""


def portable(error: BaseException) -> tuple[BaseException | None, str]:
    """Return an exception for sending to the parent: itself, if it survives pickling, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None, text
    return error, text


def failed(who: str, error: BaseException | None, text: str) -> BaseException:
    """Return the exception for the parent, with the worker's traceback as its cause."""
    if error is None:
        return WorkerError(f"{who} failed. Next step: mend what its traceback names:\n{text}")
    error.__cause__ = WorkerError(f"in {who}:\n{text}")
    return error


def died(who: str, status: int | None, *, ready: bool) -> WorkerError:
    """Return the exception for a worker that was killed, or ended without a message. status: as Process.exitcode."""
    if status is not None and status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        how = f"was killed by {name}"
    else:
        how = f"ended with status {status} and no result"
    text = f"{who} {how}. "
    if ready:
        return WorkerError(
            text
            + "Its queues' packets go on to the kernel from now on; the other workers go on. Next step: see what it "
            "wrote to standard error, and, after SIGKILL, what the kernel did (`dmesg`)."
        )
    return WorkerError(
        text + "It did not get as far as the function. Next step: read its messages on standard error; "
        f"`{sys.executable} -c 'import toolkit'` shows whether that interpreter starts."
    )
