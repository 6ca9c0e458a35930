# SPDX-License-Identifier: Apache-2.0
"""Compiling expressions: what libpcap refuses is said in its words, and nothing hangs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from toolkit.abi import libpcap
from toolkit.errors import FilterError, LibraryError
from toolkit.program import expression


def test_libpcap_s_message_and_the_expression_are_in_the_error() -> None:
    with pytest.raises(FilterError, match=r"syntax error\n  udp prt 53\n"):
        expression.instructions("udp prt 53")
    with pytest.raises(FilterError, match=r"port number 99999.*\n  port 99999\n"):
        expression.instructions("port 99999")


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_filter_is_refused(empty: str) -> None:
    with pytest.raises(FilterError, match="empty"):
        expression.instructions(empty)


def test_a_zero_byte_is_refused() -> None:
    with pytest.raises(FilterError, match="zero byte"):
        expression.instructions("ip\0 or udp")


def test_a_name_is_looked_up_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(*_: object) -> None:
        raise AssertionError("compiled in this process, where a look-up cannot be interrupted")

    monkeypatch.setattr(libpcap, "compile_expression", here)
    assert expression.instructions("udp port domain")  # from /etc/services or the child's own knowledge
    with pytest.raises(FilterError, match="unknown host"):
        expression.instructions("host no-such-host.invalid")


def test_both_ways_give_the_same_instructions() -> None:
    answer = expression._in_child(10.0, expression="tcp port 80", optimise=True)
    assert [tuple(i) for i in answer["instructions"]] == expression.instructions("tcp port 80")


def test_every_word_of_the_language_stays_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def child(*_: object) -> None:
        raise AssertionError("started a child")

    monkeypatch.setattr(expression, "_in_child", child)
    for text in (
        "udp port 53",
        "host 10.0.0.1 or net 10.0.0.0/8",
        "host 2001:db8::1 or net ::/0",
        "ether host 02:00:00:00:00:01",
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "icmp[icmptype] = icmp-echo or portrange 10-20",
        "ip[6:2] & 0x1fff = 0",
    ):
        assert expression.instructions(text)


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache directory that starts empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "afxdp-toolkit"


def test_a_long_list_is_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = " or ".join(f"host 10.0.0.{i}" for i in range(60))
    first = expression.instructions(hosts)
    assert first == libpcap.compile_expression(hosts)
    (entry,) = own_cache.iterdir()

    def child(*_: object) -> None:
        raise AssertionError("compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(expression, "_in_child", child)
        assert expression.instructions(hosts) == first
    entry.write_text('{"instructions": [[1, 2]]}')
    assert expression.instructions(hosts) == first


def test_names_are_not_kept(own_cache: Path) -> None:
    assert expression.instructions("port domain")
    assert not own_cache.exists()


def test_an_optimiser_that_takes_too_long_is_killed_and_done_without(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(expression, "OPTIMISER_TIME", 0.4)
    hosts = " or ".join(f"host 10.0.{i // 250}.{i % 250}" for i in range(600))  # ten seconds to optimise
    start = time.monotonic()
    plain = expression.instructions(hosts)
    assert time.monotonic() - start < 8
    assert plain == libpcap.compile_expression(hosts, optimise=False)
    assert not list(own_cache.iterdir())  # next time it may be given more time


def test_too_long_altogether_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expression, "OPTIMISER_TIME", 0.001)
    monkeypatch.setattr(expression, "NAMES_TIME", 0.001)
    with pytest.raises(FilterError, match="did not finish"):
        expression.instructions("port domain")


def test_without_libpcap_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpcap, "_SONAMES", ("libpcap.so.none",))
    libpcap.libpcap.cache_clear()
    try:
        with pytest.raises(LibraryError, match=r"libpcap0\.8"):
            expression.instructions("udp")
    finally:
        libpcap.libpcap.cache_clear()


def test_a_list_that_neither_libpcap_nor_clang_finishes_is_refused(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(expression, "OPTIMISER_TIME", 0.2)
    monkeypatch.setattr(expression, "MOST_UNOPTIMISED", 10_000)
    hosts = " or ".join(f"host 10.0.{i // 250}.{i % 250}" for i in range(600))
    with pytest.raises(FilterError, match=r"too long: .*1[47]\d\d\d instructions.*`net` and `portrange`"):
        expression.instructions(hosts)
