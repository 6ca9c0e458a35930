# SPDX-License-Identifier: Apache-2.0
"""libbpf 1.0 and later: maps, programs, links, test runs. Names and numbers as in linux/bpf.h and bpf/bpf.h.

libbpf 1.x returns -errno from calls that return an int or an fd.
"""

from __future__ import annotations

import ctypes as ct
import functools

from toolkit.abi.shared_library import declare, load
from toolkit.errors import LibraryError

__all__ = [
    "BPF_ANY",
    "BPF_F_TEST_XDP_LIVE_FRAMES",
    "BPF_F_XDP_HAS_FRAGS",
    "BPF_LINK_TYPE_XDP",
    "BPF_MAP_TYPE_ARRAY",
    "BPF_MAP_TYPE_PERCPU_ARRAY",
    "BPF_MAP_TYPE_XSKMAP",
    "BPF_NOEXIST",
    "BPF_OBJ_NAME_LEN",
    "BPF_PROG_TYPE_XDP",
    "BPF_PSEUDO_MAP_FD",
    "BPF_XDP",
    "XDP_FLAGS_DRV_MODE",
    "XDP_FLAGS_HW_MODE",
    "XDP_FLAGS_SKB_MODE",
    "XDP_FLAGS_UPDATE_IF_NOEXIST",
    "LinkCreateOpts",
    "LinkInfo",
    "MapCreateOpts",
    "MapInfo",
    "ProgInfo",
    "ProgLoadOpts",
    "TestRunOpts",
    "XdpAttachOpts",
    "XdpMd",
    "XdpQueryOpts",
    "libbpf",
]

BPF_ANY = 0
BPF_NOEXIST = 1
BPF_OBJ_NAME_LEN = 16
BPF_MAP_TYPE_ARRAY = 2
BPF_MAP_TYPE_PERCPU_ARRAY = 6
BPF_MAP_TYPE_XSKMAP = 17
BPF_PROG_TYPE_XDP = 6
BPF_XDP = 37  # enum bpf_attach_type
BPF_LINK_TYPE_XDP = 6
BPF_PSEUDO_MAP_FD = 1
BPF_F_XDP_HAS_FRAGS = 1 << 5
BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1

# linux/if_link.h
XDP_FLAGS_UPDATE_IF_NOEXIST = 1 << 0
XDP_FLAGS_SKB_MODE = 1 << 1
XDP_FLAGS_DRV_MODE = 1 << 2
XDP_FLAGS_HW_MODE = 1 << 3

_PRINT_FUNCTION = ct.CFUNCTYPE(ct.c_int, ct.c_int, ct.c_char_p, ct.c_void_p)


class MapCreateOpts(ct.Structure):
    """struct bpf_map_create_opts, as far as libbpf 1.0 has it."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("map_extra", ct.c_uint64),
        ("numa_node", ct.c_uint32),
        ("map_ifindex", ct.c_uint32),
    ]


class ProgLoadOpts(ct.Structure):
    """struct bpf_prog_load_opts, as far as libbpf 1.0 has it."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("attempts", ct.c_int),
        ("expected_attach_type", ct.c_int),
        ("prog_btf_fd", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("prog_ifindex", ct.c_uint32),
        ("kern_version", ct.c_uint32),
        ("attach_btf_id", ct.c_uint32),
        ("attach_prog_fd", ct.c_uint32),
        ("attach_btf_obj_fd", ct.c_uint32),
        ("fd_array", ct.c_void_p),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log_buf", ct.c_void_p),
    ]


class LinkCreateOpts(ct.Structure):
    """struct bpf_link_create_opts up to its union, which XDP links do not use."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("flags", ct.c_uint32),
        ("iter_info", ct.c_void_p),
        ("iter_info_len", ct.c_uint32),
        ("target_btf_id", ct.c_uint32),
    ]


class TestRunOpts(ct.Structure):
    """struct bpf_test_run_opts."""

    __test__ = False  # pytest takes classes with such names for tests

    _fields_ = [
        ("sz", ct.c_size_t),
        ("data_in", ct.c_void_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),  # ns for one run
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    ]


class XdpMd(ct.Structure):
    """struct xdp_md: the context of a test run."""

    _fields_ = [
        ("data", ct.c_uint32),
        ("data_end", ct.c_uint32),
        ("data_meta", ct.c_uint32),
        ("ingress_ifindex", ct.c_uint32),
        ("rx_queue_index", ct.c_uint32),
        ("egress_ifindex", ct.c_uint32),
    ]


class XdpQueryOpts(ct.Structure):
    """struct bpf_xdp_query_opts, as far as libbpf 1.0 has it.

    attach_mode: 0 none, 1 native, 2 generic, 3 hardware, 4 several.
    """

    _fields_ = [
        ("sz", ct.c_size_t),
        ("prog_id", ct.c_uint32),
        ("drv_prog_id", ct.c_uint32),
        ("hw_prog_id", ct.c_uint32),
        ("skb_prog_id", ct.c_uint32),
        ("attach_mode", ct.c_uint8),
    ]


class XdpAttachOpts(ct.Structure):
    """struct bpf_xdp_attach_opts."""

    _fields_ = [("sz", ct.c_size_t), ("old_prog_fd", ct.c_int)]


class ProgInfo(ct.Structure):
    """struct bpf_prog_info, its first fields: the kernel fills in as many bytes as the caller wants."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("tag", ct.c_uint8 * 8),
        ("jited_prog_len", ct.c_uint32),
        ("xlated_prog_len", ct.c_uint32),
        ("jited_prog_insns", ct.c_uint64),
        ("xlated_prog_insns", ct.c_uint64),
        ("load_time", ct.c_uint64),  # ns since boot
        ("created_by_uid", ct.c_uint32),
        ("nr_map_ids", ct.c_uint32),
        ("map_ids", ct.c_uint64),
        ("name", ct.c_char * BPF_OBJ_NAME_LEN),
    ]


class MapInfo(ct.Structure):
    """struct bpf_map_info, its first fields."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("name", ct.c_char * BPF_OBJ_NAME_LEN),
    ]


class LinkInfo(ct.Structure):
    """struct bpf_link_info for a link of type XDP (its union starts at byte 16)."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("prog_id", ct.c_uint32),
        ("_pad", ct.c_uint32),
        ("ifindex", ct.c_uint32),
        ("_union", ct.c_uint8 * 28),
    ]


@functools.cache
def libbpf() -> ct.CDLL:
    """Return the library, loaded at first use. It prints nothing: errors are return codes. LibraryError."""
    library = load("libbpf.so.1", "libbpf1")
    declare(library, "libbpf_major_version", ct.c_uint32, (), since="libbpf 0.6")
    if library.libbpf_major_version() < 1:
        raise LibraryError("libbpf is older than 1.0. Next step: install libbpf1 (Debian 12 has it).")
    p, i, u32, u64, fd = ct.c_void_p, ct.c_int, ct.c_uint32, ct.c_uint64, ct.c_int
    for name, restype, argtypes in (
        ("libbpf_set_print", p, (p,)),
        ("libbpf_num_possible_cpus", i, ()),
        ("libbpf_version_string", ct.c_char_p, ()),
        ("bpf_map_create", fd, (i, ct.c_char_p, u32, u32, u32, ct.POINTER(MapCreateOpts))),
        ("bpf_map_update_elem", i, (fd, p, p, u64)),
        ("bpf_map_lookup_elem", i, (fd, p, p)),
        ("bpf_map_delete_elem", i, (fd, p)),
        ("bpf_prog_load", fd, (i, ct.c_char_p, ct.c_char_p, p, ct.c_size_t, ct.POINTER(ProgLoadOpts))),
        ("bpf_link_create", fd, (fd, i, i, ct.POINTER(LinkCreateOpts))),
        ("bpf_link_detach", i, (fd,)),
        ("bpf_prog_test_run_opts", i, (fd, ct.POINTER(TestRunOpts))),
        ("bpf_xdp_query", i, (i, i, ct.POINTER(XdpQueryOpts))),
        ("bpf_xdp_attach", i, (i, fd, u32, ct.POINTER(XdpAttachOpts))),
        ("bpf_xdp_detach", i, (i, u32, ct.POINTER(XdpAttachOpts))),
        ("bpf_obj_pin", i, (fd, ct.c_char_p)),
        ("bpf_obj_get", fd, (ct.c_char_p,)),
        ("bpf_obj_get_info_by_fd", i, (fd, p, ct.POINTER(u32))),
        ("bpf_prog_get_next_id", i, (u32, ct.POINTER(u32))),
        ("bpf_prog_get_fd_by_id", fd, (u32,)),
        ("bpf_map_get_next_id", i, (u32, ct.POINTER(u32))),
        ("bpf_map_get_fd_by_id", fd, (u32,)),
        ("bpf_link_get_next_id", i, (u32, ct.POINTER(u32))),
        ("bpf_link_get_fd_by_id", fd, (u32,)),
    ):
        declare(library, name, restype, argtypes, since="libbpf 1.0")
    library.libbpf_set_print(None)
    return library
