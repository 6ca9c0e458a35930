# SPDX-License-Identifier: Apache-2.0
"""IPv4-mapped IPv6 addresses end in dots (RFC 5952, section 5), whatever writes them; against libc and ipaddress."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tests.helpers.tables import hextets
from toolkit.decode.text import cell, format_ip
from toolkit.tables.address_text import ip6_text, ip_text

MAPPED = bytes(10) + b"\xff\xff"


def addresses(count: int) -> npt.NDArray[np.uint8]:
    """Of any kind, many of them mapped or one bit away from that. Shape (count, 16)."""
    random = np.random.default_rng(5952)
    raw = random.integers(0, 256, (count, 16), dtype=np.uint8)
    raw *= random.integers(0, 2, (count, 16), dtype=np.uint8)  # zeros, for ::
    raw[::2, :12] = np.frombuffer(MAPPED, dtype=np.uint8)
    near = np.arange(0, count, 8)
    raw[near, random.integers(0, 12, len(near))] ^= 1 << random.integers(0, 8, len(near), dtype=np.uint8)
    return raw


def test_as_libc_has_them() -> None:
    """Many at once, in both columns of a table; and each alone."""
    raw = addresses(40_000)
    wanted = [hextets(row.tobytes()) for row in raw]
    assert hextets(MAPPED + bytes([5, 6, 7, 8])) == "::ffff:5.6.7.8"
    assert sum("." in text for text in wanted) > 10_000
    assert ip6_text(raw).strings() == wanted
    assert format_ip(raw) == wanted
    some = np.arange(len(raw)) % 3 > 0
    mixed = ip_text(np.full(len(raw), 0x01020304, dtype=np.int64), raw, some).strings()
    assert mixed == [text if six else "1.2.3.4" for text, six in zip(wanted, some.tolist(), strict=True)]
    for row, text in zip(raw[:500], wanted, strict=False):
        assert cell({"ip6_src": row[None], "ip_version": np.array([6])}, "ip6_src", 0) == text
