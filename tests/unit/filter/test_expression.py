# SPDX-License-Identifier: Apache-2.0
"""Compiling expressions: what libpcap refuses is said in its words, and nothing hangs."""

from __future__ import annotations

import ctypes
import errno
import signal
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from tests.helpers.filter_corpus import EXPRESSIONS, libpcap_version
from toolkit.abi import libpcap
from toolkit.abi.libpcap import Instruction
from toolkit.errors import FilterError, LibraryError
from toolkit.filter import expression
from toolkit.filter.classic import reads_unwritten, targets

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h


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
    # Had the child been waited for, this would be the optimised program.
    assert expression.instructions(hosts) == libpcap.compile_expression(hosts, optimise=False)
    assert not list(own_cache.iterdir())  # next time it may be given more time


def test_names_that_are_not_answered_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expression, "NAMES_TIME", 0.001)
    with pytest.raises(FilterError, match=r"did not finish.*DNS.*use addresses"):
        expression.instructions("port domain")


def test_without_names_only_work_is_limited(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    """A child that a busy machine does not let run is waited for; one that works for ever is not."""
    hosts = " or ".join(f"host 10.0.{i // 250}.{i % 250}" for i in range(300))
    monkeypatch.setattr(expression, "NAMES_TIME", 0.001)
    monkeypatch.setattr(expression, "OPTIMISER_TIME", 0.1)
    assert expression.instructions(hosts) == libpcap.compile_expression(hosts, optimise=False)
    monkeypatch.setattr(expression, "PLAIN_TIME", 0.02)
    with pytest.raises(FilterError, match=r"did not finish.*processor time.*`net` and `portrange`"):
        expression.instructions(hosts)


def test_the_limit_counts_work_and_not_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped for longer than its limit, as on a machine that gives it no processor, it answers all the same."""
    hosts = " or ".join(f"host 10.0.0.{i}" for i in range(80))
    run = subprocess.Popen.communicate

    def late(child: subprocess.Popen[bytes], request: bytes = b"", timeout: float | None = None) -> tuple[bytes, bytes]:
        child.send_signal(signal.SIGSTOP)
        threading.Timer(1.5, child.send_signal, (signal.SIGCONT,)).start()
        return run(child, request, timeout)

    monkeypatch.setattr(subprocess.Popen, "communicate", late)
    answer = expression._in_child(None, expression=hosts, optimise=False, processor_time=1.0)
    assert [tuple(one) for one in answer["instructions"]] == libpcap.compile_expression(hosts, optimise=False)


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


# --- verdicts that libpcap leaves to chance ---------------------------------------------------------------------------


@pytest.mark.parametrize("chance", ["geneve or ip", "not (geneve or vlan)", "geneve 5 or geneve 6", "geneve or mpls"])
def test_a_verdict_that_is_chance_is_refused(chance: str) -> None:
    with pytest.raises(FilterError, match=r"left to chance.*tunnel last"):
        expression.instructions(chance)


@pytest.mark.parametrize(
    "certain", ["ip or geneve", "vlan or geneve", "geneve and vlan", "not geneve", "geneve and tcp"]
)
def test_a_tunnel_that_comes_last_is_not(certain: str) -> None:
    assert expression.instructions(certain)


def test_where_the_optimiser_forgets_to_write_the_program_before_it_is_taken() -> None:
    """The libpcap of Debian 12 takes a store away that one of the branches needs; that of Debian 13 does not."""
    text = (
        "((((len - 0) & udp[ip[0] & 15:1]) < (65535 - len)) and (((ip6[ip[0] & 15:4] * 4294967295) - "
        "(ether[ip[2:2]:4] + len)) <= 65535)) or (len > (len / len))"
    )
    plain, optimised = libpcap.compile_expression(text, False), libpcap.compile_expression(text, True)
    assert not reads_unwritten(plain)
    assert expression.instructions(text) == (plain if reads_unwritten(optimised) else optimised)
    if libpcap_version() <= (1, 10, 3):
        assert reads_unwritten(optimised)


def test_an_optimiser_that_forgets_so_is_not_believed_in_any_version(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = libpcap.compile_expression("udp[8:4] = ip[12:4]", optimise=False)
    stores = [at for at, (code, *_) in enumerate(plain) if code & 0x07 == 0x02]  # BPF_ST
    assert stores
    forgetful = list(plain)
    for at in stores:
        forgetful[at] = (0x00, 0, 0, 0)  # ld #0, in the place of a store
    assert reads_unwritten(forgetful)
    monkeypatch.setattr(libpcap, "compile_expression", lambda *_: forgetful)
    assert expression.instructions("udp[8:4] = ip[12:4]") == plain


def _kernel_takes(program: list[Instruction]) -> bool:
    """Whether Linux takes the program as a socket's filter."""
    packed = b"".join(struct.pack("=HBBI", *insn) for insn in program)
    code = ctypes.create_string_buffer(packed, len(packed))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(code))
            )
        except OSError as refused:
            if refused.errno != errno.EINVAL:
                raise
            return False
    return True


def _backwards(program: list[Instruction]) -> bool:
    return any(target <= at for at, insn in enumerate(program) for target in targets(at, insn))


def test_the_kernel_s_own_check_finds_the_same() -> None:
    """Linux refuses what reads unwritten memory; of libpcap's programs, nothing else but what jumps backwards."""
    chance = [
        "geneve or ip",
        "not (geneve or vlan)",
        "geneve or mpls",
        "geneve or ether[0] = 1",
        "geneve 1 or geneve 2",
    ]
    seen = {True: 0, False: 0}
    for text in [*chance, *EXPRESSIONS]:
        for optimise in (True, False):
            program = libpcap.compile_expression(text, optimise)
            if len(program) <= 4096 and not _backwards(program):
                assert _kernel_takes(program) is not reads_unwritten(program), text
                seen[reads_unwritten(program)] += 1
    assert seen[True] == 2 * len(chance)
    assert seen[False] > 250


LD_M0, ST_M0, RET, JEQ = (0x60, 0, 0, 0), (0x02, 0, 0, 0), (0x06, 0, 0, 1), 0x15


@pytest.mark.parametrize(
    ("program", "unwritten"),
    [
        ([LD_M0, RET], True),
        ([ST_M0, LD_M0, RET], False),
        ([ST_M0, (0x61, 0, 0, 1), RET], True),  # X from another cell
        ([(0x03, 0, 0, 2), (0x60, 0, 0, 2), RET], False),  # stored from X
        ([(JEQ, 0, 1, 7), ST_M0, LD_M0, RET], True),  # one of two ways goes around the store
        ([(JEQ, 1, 0, 7), ST_M0, ST_M0, LD_M0, RET], False),
        ([RET, LD_M0], False),  # never reached
        ([(0x05, 0, 0, 1), LD_M0, RET], False),  # jumped over
        ([(0x05, 0, 0, 1), RET, ST_M0, LD_M0, (0x05, 0, 0, 0xFFFFFFFC)], False),  # a loop
    ],
)
def test_paths_are_followed(program: list[Instruction], unwritten: bool) -> None:
    assert reads_unwritten(program) is unwritten
