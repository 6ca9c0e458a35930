# SPDX-License-Identifier: Apache-2.0
"""libxdp 1.2 and later: the `xsk_*` calls and their structures, as in xdp/xsk.h.

The structures are the same in every version from 1.2.0 on. Return codes are not: 1.5.0 to 1.5.2 return +errno where the
others return -errno, so callers test for non-zero and use the absolute value.
"""

from __future__ import annotations

import ctypes as ct
import functools
from typing import Any

from toolkit.abi.shared_library import declare, load
from toolkit.errors import LibraryError

__all__ = [
    "XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD",
    "XSK_RING_CONS__DEFAULT_NUM_DESCS",
    "XSK_RING_PROD__DEFAULT_NUM_DESCS",
    "XskRing",
    "XskSocketConfig",
    "XskSocketOpts",
    "XskUmemConfig",
    "XskUmemOpts",
    "has_opts",
    "libxdp",
]

XSK_RING_CONS__DEFAULT_NUM_DESCS = 2048
XSK_RING_PROD__DEFAULT_NUM_DESCS = 2048
XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD = 1 << 0


class XskRing(ct.Structure):
    """struct xsk_ring_prod and struct xsk_ring_cons: 48 bytes, filled in by libxdp."""

    _fields_ = [
        ("cached_prod", ct.c_uint32),
        ("cached_cons", ct.c_uint32),
        ("mask", ct.c_uint32),
        ("size", ct.c_uint32),
        ("producer", ct.c_void_p),
        ("consumer", ct.c_void_p),
        ("ring", ct.c_void_p),
        ("flags", ct.c_void_p),
    ]


class XskUmemConfig(ct.Structure):
    """struct xsk_umem_config: 20 bytes."""

    _fields_ = [
        ("fill_size", ct.c_uint32),
        ("comp_size", ct.c_uint32),
        ("frame_size", ct.c_uint32),
        ("frame_headroom", ct.c_uint32),
        ("flags", ct.c_uint32),
    ]


class XskUmemOpts(ct.Structure):
    """struct xsk_umem_opts of libxdp 1.5: 48 bytes."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("fd", ct.c_int),
        ("size", ct.c_uint64),
        ("fill_size", ct.c_uint32),
        ("comp_size", ct.c_uint32),
        ("frame_size", ct.c_uint32),
        ("frame_headroom", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("tx_metadata_len", ct.c_uint32),
    ]


class XskSocketConfig(ct.Structure):
    """struct xsk_socket_config: 20 bytes."""

    _fields_ = [
        ("rx_size", ct.c_uint32),
        ("tx_size", ct.c_uint32),
        ("libxdp_flags", ct.c_uint32),
        ("xdp_flags", ct.c_uint32),
        ("bind_flags", ct.c_uint16),
    ]


class XskSocketOpts(ct.Structure):
    """struct xsk_socket_opts of libxdp 1.5."""

    _fields_ = [
        ("sz", ct.c_size_t),
        ("rx", ct.c_void_p),
        ("tx", ct.c_void_p),
        ("fill", ct.c_void_p),
        ("comp", ct.c_void_p),
        ("rx_size", ct.c_uint32),
        ("tx_size", ct.c_uint32),
        ("libxdp_flags", ct.c_uint32),
        ("xdp_flags", ct.c_uint32),
        ("bind_flags", ct.c_uint16),
    ]


def has_opts(library: ct.CDLL) -> bool:
    """Whether this libxdp has the `_opts` calls (1.5.0)."""
    return hasattr(library, "xsk_umem__create_opts") and hasattr(library, "xsk_socket__create_opts")


@functools.cache
def libxdp() -> ct.CDLL:
    """Return the library, loaded at first use. It prints nothing: errors are return codes. LibraryError."""
    library = load("libxdp.so.1", "libxdp1")
    if not hasattr(library, "xsk_ring_cons__peek"):
        raise LibraryError(
            "libxdp is older than 1.2.0: it does not export the xsk_* ring calls. "
            "Next step: install libxdp1 of Debian 12, Ubuntu 24.04 or later."
        )
    handle, ring, u32, u64 = ct.c_void_p, ct.POINTER(XskRing), ct.c_uint32, ct.c_uint64
    out = ct.POINTER(ct.c_void_p)
    signatures: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("libxdp_set_print", ct.c_void_p, (ct.c_void_p,)),
        ("xsk_umem__create", ct.c_int, (out, ct.c_void_p, u64, ring, ring, ct.POINTER(XskUmemConfig))),
        ("xsk_umem__fd", ct.c_int, (handle,)),
        ("xsk_umem__delete", ct.c_int, (handle,)),
        ("xsk_socket__create", ct.c_int, (out, ct.c_char_p, u32, handle, ring, ring, ct.POINTER(XskSocketConfig))),
        (
            "xsk_socket__create_shared",
            ct.c_int,
            (out, ct.c_char_p, u32, handle, ring, ring, ring, ring, ct.POINTER(XskSocketConfig)),
        ),
        ("xsk_socket__fd", ct.c_int, (handle,)),
        ("xsk_socket__update_xskmap", ct.c_int, (handle, ct.c_int)),
        ("xsk_socket__delete", None, (handle,)),
    ]
    if has_opts(library):
        signatures += [
            ("xsk_umem__create_opts", handle, (ct.c_void_p, ring, ring, ct.POINTER(XskUmemOpts))),
            ("xsk_socket__create_opts", handle, (ct.c_char_p, u32, handle, ct.POINTER(XskSocketOpts))),
        ]
    for name, restype, argtypes in signatures:
        declare(library, name, restype, argtypes, since="libxdp 1.2.0")
    library.libxdp_set_print(None)
    return library
