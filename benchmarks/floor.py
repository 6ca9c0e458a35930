# SPDX-License-Identifier: Apache-2.0
"""The floor: a loop in C on libxdp's inline calls over the same filled rings, where there is a compiler for it."""

from __future__ import annotations

import ctypes as ct
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import toolkit
from toolkit.abi.libxdp import XskRing

__all__ = ["Floor", "MissingFloorError"]

_SOURCE = Path(__file__).with_name("floor.c")
_COMPILERS = ("cc", "gcc", "clang")
_HEAD = 64  # bytes of each packet that are copied, as in floor.c
_MOST = 2048  # packets of the largest batch


class MissingFloorError(Exception):
    """Why there is no floor: no compiler, or no headers of libxdp."""


class Floor:
    """The compiled loop."""

    def __init__(self) -> None:
        """Compile it. MissingFloorError where that cannot be."""
        compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
        if compiler is None:
            raise MissingFloorError(f"no C compiler ({', '.join(_COMPILERS)})")
        with tempfile.TemporaryDirectory() as directory:
            made = Path(directory) / "floor.so"
            command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(_SOURCE)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                if "xdp/xsk.h" in done.stderr or "bpf/" in done.stderr:
                    raise MissingFloorError("no headers of libxdp (Debian: libxdp-dev)")
                raise MissingFloorError(f"{compiler} refuses floor.c: {done.stderr.strip()[-200:]}")
            self._library = ct.CDLL(str(made))
        self._call = self._library.floor_receive
        ring, u8, i64 = ct.POINTER(XskRing), ct.c_void_p, ct.c_void_p
        self._call.restype = ct.c_uint64
        self._call.argtypes = [
            *(ring, ring, u8, ct.c_uint64, ct.c_uint32, ct.c_uint32, u8, i64),
            ct.POINTER(ct.c_uint64),
        ]
        self._heads = np.zeros((_MOST, _HEAD), dtype=np.uint8)
        self._lengths = np.zeros(_MOST, dtype=np.int64)

    def receive(self, interface: toolkit.Interface, size: int, batches: int, *, read: bool) -> tuple[int, float]:
        """Empty the rings in batches of `size`, and leave them full; return packets and seconds.

        read: also copy 64 bytes and the length of each packet. The interface must have one socket and no traffic.
        """
        (socket,) = interface.sockets
        rx, _, fill, _ = socket._core._structs
        umem, packets = socket.umem, ct.c_uint64()
        heads, lengths = (self._heads.ctypes.data, self._lengths.ctypes.data) if read else (None, None)
        ns = self._call(rx, fill, umem.address, umem.frame_size, size, batches, heads, lengths, ct.byref(packets))
        return packets.value, ns * 1e-9
