# SPDX-License-Identifier: Apache-2.0
"""What this thread is allowed to do, and handing that on to a program that it starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from toolkit.abi.libc import PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capget, capset, prctl

__all__ = ["CAP_BPF", "CAP_NET_ADMIN", "effective", "handed_on"]

CAP_NET_ADMIN, CAP_BPF = 12, 39  # linux/capability.h


def effective() -> int:
    """Return the capabilities of the calling thread that count now, a bit for each."""
    return capget()[0]


@contextlib.contextmanager
def handed_on(*capabilities: int) -> Iterator[None]:
    """Let programs that the calling thread starts in the block have these of its capabilities, as far as it has them.

    What a program has from its file (setcap) ends with it; only ambient capabilities go on. Those of root do by
    themselves. Where the kernel is to raise none (securebits), the program goes without.
    """
    before = capget()
    held, permitted, inheritable = before
    wanted = sum(1 << number for number in capabilities if held & permitted & ~inheritable & 1 << number)
    if not wanted or os.geteuid() == 0:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            capset(held, permitted, inheritable | wanted)
            for number in capabilities:
                if wanted >> number & 1:
                    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)
        yield
    finally:
        capset(*before)  # what is not inheritable any more is not ambient either
