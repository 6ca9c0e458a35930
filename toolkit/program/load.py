# SPDX-License-Identifier: Apache-2.0
"""Load an Image into the kernel through libbpf."""

from __future__ import annotations

import ctypes as ct
import errno
from collections.abc import Mapping
from typing import Any

from toolkit.abi import libbpf as abi
from toolkit.errors import ArgumentError, VerifierError, kernel_error
from toolkit.program.image import Image
from toolkit.program.maps import Map

__all__ = ["create_maps", "load_program"]

MOST = 1 << 16  # instructions; in a longer program a jump that clang has truncated to 16 bits may lead to a wrong place
LOG_STATS = 4  # BPF_LOG_STATS: the verdict and its numbers, without the steps
LOG_SIZES = (1 << 20, 1 << 26)  # bytes; kernels before 6.4 fail with ENOSPC when the log does not fit


def create_maps(image: Image, entries: Mapping[str, int]) -> dict[str, Map]:
    """Create the image's maps in the kernel, maps of maps last; return them by name. None is left when one fails."""
    unknown = sorted(set(entries) - {spec.name for spec in image.maps})
    if unknown:
        names = ", ".join(spec.name for spec in image.maps) or "none"
        raise ArgumentError(
            f"the program has no map {', '.join(unknown)} (its maps: {names}). Next step: name one of these."
        )
    made: dict[str, Map] = {}
    try:
        for spec in sorted(image.maps, key=lambda one: one.of_maps):
            made[spec.name] = Map.create(spec, entries.get(spec.name), inner=made.get(spec.inner))
    except BaseException:
        for one in made.values():
            one.close()
        raise
    return made


def _load(image: Image, code: Any, flags: int, log: ct.Array[ct.c_char] | None, level: int = 1) -> int:
    options = abi.ProgLoadOpts(sz=ct.sizeof(abi.ProgLoadOpts), prog_flags=flags)
    if log is not None:
        options.log_level = level
        options.log_buf = ct.addressof(log)
        options.log_size = len(log)
    name = image.function.encode()[: abi.BPF_OBJ_NAME_LEN - 1]
    fd: int = abi.libbpf().bpf_prog_load(
        abi.BPF_PROG_TYPE_XDP, name, image.license.encode(), code.ctypes.data, len(code), ct.byref(options)
    )
    return fd


def load_program(image: Image, maps: Mapping[str, Map], *, frags: bool, source: str) -> int:
    """Load the image with its maps; return the program's descriptor. VerifierError with the verifier's log."""
    code = image.relocated([maps[spec.name].fd for spec in image.maps])
    flags = abi.BPF_F_XDP_HAS_FRAGS if frags else 0
    tried = f"cannot load the XDP program {image.function} of {source}"
    if len(code) > MOST:
        from toolkit.program.verifier_error import LIMITS

        raise VerifierError(errno.E2BIG, f"{tried}: {len(code)} instructions are more than jumps reach{LIMITS}", "")
    fd = _load(image, code, flags, None)
    if fd >= 0:
        return fd
    if fd == -errno.EPERM:
        raise kernel_error("prog_load", fd, tried)
    # Only now with a log, which makes the verifier several times slower.
    text = ""
    # For a program that is too large, the verifier's million steps are of no use, and writing them takes ten seconds.
    level = LOG_STATS if fd == -errno.E2BIG else 1
    for size in LOG_SIZES:
        buffer = ct.create_string_buffer(size)
        again = _load(image, code, flags, buffer, level)
        if again >= 0:  # the cause is gone, such as memory pressure
            return again
        fd, text = again, buffer.value.decode(errors="replace")
        if again != -errno.ENOSPC:
            break
    if not text.strip():
        raise kernel_error("prog_load", fd, tried)
    from toolkit.program.verifier_error import verifier_error

    raise verifier_error(-fd, tried, text)
