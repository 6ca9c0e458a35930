# SPDX-License-Identifier: Apache-2.0
"""Map: a BPF map: create, read, update, delete. Values of per-CPU maps are NumPy records."""

from __future__ import annotations

import ctypes as ct
import errno
import functools
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from toolkit._base.arguments import cannot_be
from toolkit._base.descriptor import Descriptor
from toolkit.abi import libbpf as abi
from toolkit.errors import ArgumentError, kernel_error
from toolkit.program.image import MapSpec

__all__ = ["Map"]

_PERCPU_ARRAY = 6  # BPF_MAP_TYPE_PERCPU_ARRAY
_MOST_CPUS = 1 << 14  # twice the most that a kernel can be built for (NR_CPUS)
PER_CPU_TYPES = frozenset({5, 6, 10, 21})  # percpu_hash, percpu_array, lru_percpu_hash, percpu_cgroup_storage


@functools.cache
def _possible_cpus() -> int:
    count: int = abi.libbpf().libbpf_num_possible_cpus()
    return count if count > 0 else _values_read()  # libbpf reads /sys, which may be hidden


def _values_read() -> int:
    """Return how many values an entry of a per-CPU map has: one for each possible CPU."""
    fd = abi.libbpf().bpf_map_create(_PERCPU_ARRAY, b"cpus", 4, 8, 1, None)
    if fd < 0:
        raise kernel_error("map_create", fd, "cannot count the CPUs by a map")
    try:
        values = np.ones(_MOST_CPUS, np.uint64)
        result = abi.libbpf().bpf_map_lookup_elem(fd, bytes(4), values.ctypes.data)
        if result < 0:
            raise kernel_error("map_lookup", result, "cannot count the CPUs by a map")
        return int(np.count_nonzero(values == 0))
    finally:
        os.close(fd)


class Map:
    """One BPF map. Keys are ints (stored in the machine's byte order) or bytes of `key_size`."""

    def __init__(self, spec: MapSpec, fd: int) -> None:
        """Take over `fd`, a map as described by `spec`."""
        self._spec = spec
        self._descriptor = Descriptor(fd, f"the map {spec.name}")

    @classmethod
    def create(cls, spec: MapSpec, max_entries: int | None = None, *, inner: Map | None = None) -> Map:
        """Create the map in the kernel. max_entries: instead of that in the program's source.

        inner: for a map of maps, a map that its entries must be like.
        """
        if max_entries is not None:
            if max_entries < 1:
                raise ArgumentError(
                    f"the map {spec.name} cannot have {max_entries} entries. Next step: give 1 or more."
                )
            spec = MapSpec(**{**spec.__dict__, "max_entries": max_entries})
        tried = f"cannot create the map {spec.name} of {spec.max_entries} entries"
        options = abi.MapCreateOpts(sz=ct.sizeof(abi.MapCreateOpts), map_flags=spec.flags)
        if spec.of_maps:
            if inner is None:
                raise ArgumentError(
                    f"{tried}: it holds maps like one that the source does not declare. Next step: declare it "
                    f'above, and name it: BPF_ARRAY(inner, u32, 16); BPF_ARRAY_OF_MAPS({spec.name}, "inner", 8);'
                )
            options.inner_map_fd = inner.fd
        name = spec.name.encode()[: abi.BPF_OBJ_NAME_LEN - 1]
        fd = abi.libbpf().bpf_map_create(
            spec.type, name, spec.key_size, spec.value_size, spec.max_entries, ct.byref(options)
        )
        if fd < 0:
            raise kernel_error("map_create", fd, tried)
        return cls(spec, fd)

    def another(self) -> Map:
        """Create another, empty map like this one, for an entry of a map of maps. The caller closes it."""
        return Map.create(self._spec)

    @property
    def name(self) -> str:
        """The name in the program's source."""
        return self._spec.name

    @property
    def type(self) -> int:
        """enum bpf_map_type."""
        return self._spec.type

    @property
    def key_size(self) -> int:
        """Bytes of a key."""
        return self._spec.key_size

    @property
    def value_size(self) -> int:
        """Bytes of a value; in a per-CPU map there is one for each possible CPU."""
        return self._spec.value_size

    @property
    def max_entries(self) -> int:
        """The most entries that it can have."""
        return self._spec.max_entries

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of one value: a record if the program declares a struct of integers."""
        return self._spec.dtype

    @property
    def fd(self) -> int:
        """The file descriptor. Raises ClosedError after close."""
        return self._descriptor.fd

    def fileno(self) -> int:
        """The file descriptor."""
        return self.fd

    def _key(self, key: int | bytes) -> ct.Array[ct.c_char]:
        try:
            raw = key if isinstance(key, bytes) else key.to_bytes(self.key_size, sys.byteorder)
        except OverflowError:
            raise cannot_be(
                f"a key of the map {self.name}", key, f"a number from 0 on that fits {self.key_size} bytes"
            ) from None
        if len(raw) != self.key_size:
            raise cannot_be(f"a key of the map {self.name}", raw, f"{self.key_size} bytes")
        return ct.create_string_buffer(raw, self.key_size)

    def _value(self, value: int | bytes) -> ct.Array[ct.c_char]:
        size = self._space()
        raw = value if isinstance(value, bytes) else value.to_bytes(size, sys.byteorder, signed=value < 0)
        if len(raw) != size:
            raise cannot_be(f"a value of the map {self.name}", raw, f"{size} bytes")
        return ct.create_string_buffer(raw, size)

    def _space(self) -> int:
        """Bytes that a system call reads or writes for one key."""
        if self.type in PER_CPU_TYPES:
            return (self.value_size + 7 & ~7) * _possible_cpus()
        return self.value_size

    def read(self, key: int | bytes) -> bytes | None:
        """Return the value's bytes (in a per-CPU map those of all CPUs, one after the other); None without an entry."""
        value = ct.create_string_buffer(self._space())
        result = abi.libbpf().bpf_map_lookup_elem(self.fd, self._key(key), value)
        if result == -2:
            return None
        if result < 0:
            raise kernel_error("map_lookup", result, f"cannot read entry {key!r} of the map {self.name}")
        return value.raw

    def per_cpu(self, key: int | bytes = 0) -> npt.NDArray[Any]:
        """Return one value for each possible CPU: shape (cpus,), of `dtype`. A copy."""
        if self.type not in PER_CPU_TYPES:
            raise ArgumentError(f"the map {self.name} is not a per-CPU map. Next step: read(key).")
        raw = self.read(key)
        if raw is None:
            return np.zeros(_possible_cpus(), self.dtype)
        stride = self.value_size + 7 & ~7
        padded = np.frombuffer(raw, np.uint8).reshape(-1, stride)[:, : self.value_size]
        return np.ascontiguousarray(padded).view(self.dtype).reshape(-1)

    def update(self, key: int | bytes, value: int | bytes | Map) -> None:
        """Write an entry (BPF_ANY). The value is a Map in a map of maps, which keeps it alive."""
        raw = self._value(value.fd if isinstance(value, Map) else value)
        result = abi.libbpf().bpf_map_update_elem(self.fd, self._key(key), raw, abi.BPF_ANY)
        if result < 0:
            raise kernel_error(
                "map_update", result, f"cannot write entry {key!r} of the map {self.name}", cause=self._why(-result)
            )

    def _why(self, number: int) -> str:
        """Return the likely cause of an update that failed with errno `number`; "" if the errno is clear enough."""
        if number == errno.E2BIG:
            return f"the map has room for {self.max_entries} entries"
        if number == errno.EINVAL and self._spec.of_maps:
            return f"an entry must be like the map {self._spec.inner}: its type, sizes and number of entries"
        return ""

    def delete(self, key: int | bytes) -> bool:
        """Remove an entry; False if there was none."""
        result = abi.libbpf().bpf_map_delete_elem(self.fd, self._key(key))
        if result == -2:
            return False
        if result < 0:
            raise kernel_error("map_delete", result, f"cannot delete entry {key!r} of the map {self.name}")
        return True

    def close(self) -> None:
        """Close the file descriptor; the kernel keeps the map while a program uses it."""
        self._descriptor.close()

    def __repr__(self) -> str:
        state = "closed" if self._descriptor.closed else f"fd {self.fd}"
        return (
            f"<Map {self.name}: type {self.type}, {self.max_entries} entries, "
            f"{self.key_size} B -> {self.value_size} B, {state}>"
        )
