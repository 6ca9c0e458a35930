# SPDX-License-Identifier: Apache-2.0
"""Loads and stores of the u32 indices that a ring shares with the kernel.

`index[0]` is a load-acquire, `index[0] = value` a store-release. On x86-64 an aligned 32-bit load or store has that
order already, and a memoryview does it in one machine instruction (CPython copies the four bytes with a single mov),
in 23 ns. Elsewhere libatomic does it. The full fence comes from libatomic on every machine.

Calls into libatomic keep the GIL (PyDLL): another thread cannot unmap the ring between the check and the access.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import weakref
from collections.abc import Callable
from typing import NamedTuple, Protocol

from toolkit.abi.shared_library import declare, load

__all__ = ["AtomicIndex", "SharedIndex", "fence", "shared_index"]

# memory orders of C11 and of GCC's __atomic builtins
_ACQUIRE = 2
_RELEASE = 3
_SEQ_CST = 5


class SharedIndex(Protocol):
    """A u32 in memory shared with the kernel; `index[0]` acquires, `index[0] = v` releases."""

    def __getitem__(self, at: int, /) -> int: ...

    def __setitem__(self, at: int, value: int, /) -> None: ...

    def release(self) -> None:
        """Let go of the memory; BufferError while another thread is using it."""


class _Atomics(NamedTuple):
    load: Callable[..., int]  # (address, order) -> u32
    store: Callable[..., None]  # (address, u32, order)
    thread_fence: Callable[..., None]  # (order)


@functools.cache
def _libatomic() -> _Atomics:
    library = load("libatomic.so.1", "libatomic1", hold_gil=True)
    declare(library, "__atomic_load_4", ctypes.c_uint32, (ctypes.c_void_p, ctypes.c_int))
    declare(library, "__atomic_store_4", None, (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int))
    declare(library, "atomic_thread_fence", None, (ctypes.c_int,))
    # Taken out of the library once: an attribute look-up on each access would double its cost.
    names = ("__atomic_load_4", "__atomic_store_4", "atomic_thread_fence")
    return _Atomics(*(getattr(library, name) for name in names))


class AtomicIndex:
    """A shared index through libatomic, for machines whose plain loads and stores are not ordered (aarch64).

    Behaves like a memoryview of format "I" and length 1, `release()` included.
    """

    def __init__(self, memory: memoryview) -> None:
        # Each call below holds a reference to the word while it runs; release() checks whether one is left. The export
        # count of `memory` cannot serve for that: a memoryview passes exports on to its object and does not count them.
        word = ctypes.c_uint32.from_buffer(memory)
        self._word: ctypes.c_uint32 | None = word
        self._in_use = weakref.ref(word)
        self._load, self._store, _ = _libatomic()

    def __getitem__(self, at: int, /) -> int:
        word = self._word if at == 0 else None
        if word is None:
            raise ValueError("operation forbidden: a released index, or not its first word")
        try:
            return self._load(ctypes.byref(word), _ACQUIRE)
        finally:
            word = None  # a traceback keeps this frame alive, and with it the reference that release() checks

    def __setitem__(self, at: int, value: int, /) -> None:
        word = self._word if at == 0 else None
        if word is None:
            raise ValueError("operation forbidden: a released index, or not its first word")
        try:
            self._store(ctypes.byref(word), value, _RELEASE)
        finally:
            word = None  # as above

    def release(self) -> None:
        """Let go of the memory; later accesses raise ValueError. BufferError while another thread is inside a call."""
        self._word = None
        if self._in_use() is not None:
            raise BufferError("a call is still using this index")


def shared_index(memory: memoryview) -> SharedIndex:
    """Make the index for this machine over four bytes of ring memory (format "B")."""
    if platform.machine() in ("x86_64", "AMD64"):
        return memory.cast("I")
    return AtomicIndex(memory)


def fence() -> None:
    """Order every earlier store before every later load (sequentially consistent).

    Needed between publishing a producer index and reading NEED_WAKEUP: even x86-64 may move a load before a store.
    """
    _libatomic().thread_fence(_SEQ_CST)
