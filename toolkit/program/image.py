# SPDX-License-Identifier: Apache-2.0
"""Image: a compiled program as data: instructions, maps, and which instruction loads which map."""

from __future__ import annotations

import base64
import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Image", "MapSpec", "images", "map_specs"]

INSTRUCTION = np.dtype([("opcode", "u1"), ("registers", "u1"), ("offset", "=i2"), ("imm", "=i4")])
"""struct bpf_insn."""

MAPS_OF_MAPS = frozenset({12, 13})  # BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS

_INTEGERS = {"unsigned long long": "=u8", "unsigned int": "=u4", "unsigned short": "=u2", "unsigned char": "u1"}


@dataclasses.dataclass(frozen=True)
class MapSpec:
    """A map as the program's source declares it. Sizes in bytes; `fields` names the members of a struct value.

    `inner`: in a map of maps, the name of the one that its entries must be like; "" in any other.
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    fields: tuple[tuple[str, str], ...] = ()
    inner: str = ""

    @property
    def of_maps(self) -> bool:
        """Whether its values are other maps."""
        return self.type in MAPS_OF_MAPS

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of one value: a record if the members are known integers, else raw bytes."""
        if self.fields:
            record = np.dtype(list(self.fields), align=True)
            if record.itemsize == self.value_size:
                return record
        return np.dtype((np.void, self.value_size))


def _fields(layout: str) -> tuple[tuple[str, str], ...]:
    """Return the members of a struct value, from BCC's description; empty unless all are integers."""
    import json

    try:
        described = json.loads(layout)
    except ValueError:
        return ()
    if not isinstance(described, list) or len(described) < 2 or not isinstance(described[1], list):
        return ()
    try:
        return tuple((member[0], _INTEGERS[member[1]]) for member in described[1] if len(member) == 2)
    except (KeyError, TypeError, IndexError):
        return ()


@dataclasses.dataclass(frozen=True)
class Image:
    """One compiled XDP program, independent of any process.

    `relocations` pairs (instruction, index of a map). `maps` are all of the source, used by this function or not.
    """

    function: str
    license: str
    instructions: bytes
    maps: tuple[MapSpec, ...]
    relocations: tuple[tuple[int, int], ...]

    def relocated(self, fds: list[int]) -> npt.NDArray[Any]:
        """Return the instructions with the maps' file descriptors inserted, as an array of struct bpf_insn."""
        code: npt.NDArray[Any] = np.frombuffer(self.instructions, INSTRUCTION).copy()
        for instruction, index in self.relocations:
            code["imm"][instruction] = fds[index]
        return code


def map_specs(described: list[dict[str, Any]]) -> tuple[MapSpec, ...]:
    """Return the maps described in a report of bcc_process.py."""
    return tuple(
        MapSpec(
            str(m["name"]),
            _u32(m["type"]),
            _u32(m["key_size"]),
            _u32(m["value_size"]),
            _u32(m["max_entries"]),
            _u32(m["flags"]),
            _fields(m["value_layout"]),
            "" if m.get("inner") is None else str(described[_u32(m["inner"])]["name"]),
        )
        for m in described
    )


def _u32(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 1 << 32:
        raise ValueError("the report has a number that the kernel has no room for")
    return number


def images(report: dict[str, Any]) -> dict[str, Image]:
    """Return a source's functions from a report of bcc_process.py. Any exception if it is not such a report."""
    maps = map_specs(report["maps"])
    found = {}
    for name, function in report["functions"].items():
        code = base64.b64decode(function["instructions"], validate=True)
        relocations = tuple((int(i), int(m)) for i, m in function["relocations"])
        count, rest = divmod(len(code), INSTRUCTION.itemsize)
        if rest or not count or any(not (0 <= i < count and 0 <= m < len(maps)) for i, m in relocations):
            raise ValueError("the report contradicts itself")
        found[str(name)] = Image(str(name), str(report["license"]), code, maps, relocations)
    return found
