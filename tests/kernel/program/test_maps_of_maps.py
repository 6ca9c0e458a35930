# SPDX-License-Identifier: Apache-2.0
"""BPF_ARRAY_OF_MAPS and BPF_HASH_OF_MAPS: made with the inner map that the source names, read and changed by both."""

from __future__ import annotations

import pytest

from toolkit.errors import CompileError, SystemCallError
from toolkit.program import Program
from toolkit.program.run import run_many

SOURCE = """
BPF_ARRAY(unrelated, u32, 4);
BPF_ARRAY(%(inner)s, u64, 4);
BPF_ARRAY_OF_MAPS(by_number, "%(inner)s", 8);
BPF_HASH(per_port, u32, u64, 16);
BPF_HASH_OF_MAPS(by_name, u64, "per_port", 8);

int count(struct xdp_md *ctx)
{
    int first = 0;
    u64 name = 7;
    u32 port = 53;
    u64 *value;
    void *inner = by_number.lookup(&first);
    if (inner && (value = bpf_map_lookup_elem(inner, &first)))
        __sync_fetch_and_add(value, 1);
    inner = by_name.lookup(&name);
    if (inner && (value = bpf_map_lookup_elem(inner, &port)))
        __sync_fetch_and_add(value, 1);
    return XDP_PASS;
}
"""
PACKETS = [bytes(60)] * 5


def number(raw: bytes | None) -> int:
    """A value of the program's, as an int."""
    assert raw is not None
    return int.from_bytes(raw, "little")


@pytest.mark.parametrize("cache", [False, True])
def test_both_kinds(cache: bool) -> None:
    """The program finds an entry, counts in it, and user space reads what it counted; also out of the cache."""
    for _ in range(1 + cache):
        with Program.build(SOURCE % {"inner": "counts"}, cache=cache) as program:
            run_many(program.fd, PACKETS)  # no entry yet: nothing to count in
            maps = program.maps
            assert number(maps["counts"].read(0)) == 0
            maps["by_number"].update(0, maps["counts"])
            maps["per_port"].update(53, 100)
            maps["by_name"].update(7, maps["per_port"])
            run_many(program.fd, PACKETS)
            assert number(maps["counts"].read(0)) == 5
            assert number(maps["per_port"].read(53)) == 105
            maps["by_number"].update(0, fresh := maps["counts"].another())
            run_many(program.fd, PACKETS)
            assert (number(fresh.read(0)), number(maps["counts"].read(0))) == (5, 5)
            fresh.close()
            assert maps["by_number"].delete(0)
            run_many(program.fd, PACKETS)


def test_sizes_given_at_build() -> None:
    """A size of the inner map that is given instead of the source's holds for what the outer one takes, too."""
    with Program.build(SOURCE % {"inner": "counts"}, map_entries={"counts": 9, "by_number": 3}) as program:
        assert program.maps["counts"].max_entries == 9
        program.maps["by_number"].update(2, program.maps["counts"])
        with pytest.raises(SystemCallError, match="cannot write entry 3 of the map by_number"):
            program.maps["by_number"].update(3, program.maps["counts"])


def test_another_kind_of_map_is_refused() -> None:
    """By the kernel, in a sentence that says what the entries must be like."""
    with (
        Program.build(SOURCE % {"inner": "counts"}) as program,
        pytest.raises(SystemCallError, match=r"map by_number.*must be like the map counts") as refused,
    ):
        program.maps["by_number"].update(0, program.maps["unrelated"])
    assert refused.value.errno == 22


def test_an_inner_map_that_is_not_declared() -> None:
    """The error names the map and what it lacks."""
    with pytest.raises(CompileError, match=r"map outer.*does not declare the map.*Next step"):
        Program.build('BPF_ARRAY_OF_MAPS(outer, "nowhere", 8);\nint count(struct xdp_md *ctx) { return 2; }\n')
