# SPDX-License-Identifier: Apache-2.0
"""What a worker that ended without a result becomes in the parent."""

from __future__ import annotations

import pickle
import signal
import sys
import traceback

from toolkit.errors import ToolkitError

__all__ = ["WorkerError", "died", "failed", "portable"]


class WorkerError(ToolkitError):
    """A worker ended without a result. Its queues' packets go on to the kernel; the other workers are not disturbed."""


def portable(error: BaseException) -> tuple[BaseException | None, str]:
    """What a worker sends of its exception: itself, if it can be pickled and back, and its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None, text
    return error, text


def failed(who: str, error: BaseException | None, text: str) -> BaseException:
    """The exception for the parent, with the worker's own traceback as its cause."""
    cause = WorkerError(f"in {who}:\n{text}")
    if error is None:
        return WorkerError(f"{who} failed:\n{text}")
    error.__cause__ = cause
    return error


def died(who: str, status: int | None, *, ready: bool) -> WorkerError:
    """The exception for a worker that was killed, or left without a word. `status` as in Process.exitcode."""
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
        return WorkerError(text + "Its queues' packets go on to the kernel from now on; the other workers go on.")
    return WorkerError(
        text + f"Likely cause: its own messages on standard error say. Next step: `{sys.executable} -c 'import "
        "toolkit'` tells whether that interpreter can be started anew."
    )
