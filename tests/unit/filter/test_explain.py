# SPDX-License-Identifier: Apache-2.0
"""What libpcap refuses: a caret under the word it stumbled over, and why, where it is something we cannot have."""

from __future__ import annotations

import warnings

import pytest

from tests.helpers import filter_corpus as corpus
from toolkit.errors import FilterError
from toolkit.filter import expression
from toolkit.filter.explain import WIDTH, explain

# Expression, and under it the caret's line.
CARETS = """
udp prt 53
    ^~~
udp and and tcp
        ^~~
udp port 53 extra
            ^~~~~
(udp or tcp))
            ^
ip = 3
   ^
udp @ tcp
    ^
host and
     ^~~
tcp[foo] = 1
    ^~~
net 10/8
      ^
hello world
^~~~~
vxlam
^~~~~
udp or ether[len-1] = 0
             ^~~~~
(udp
    ^ (it ends too early)
udp and
       ^ (it ends too early)
host
    ^ (it ends too early)
ip[0:2] >
         ^ (it ends too early)
udp or port 99999
            ^~~~~
tcp and vlan 5000 or udp
             ^~~~
tcp and host 300.1.1.1 or udp
             ^~~~~~~~~
ip proto no-such-protocol
         ^~~~~~~~~~~~~~~~
net 10.0.0.1/8 or host 10.0.0.1
    ^~~~~~~~~~
tcp or ip[0:3] = 1
             ^
""".strip("\n").splitlines()


@pytest.mark.parametrize(("text", "caret"), list(zip(CARETS[::2], CARETS[1::2], strict=True)))
def test_the_caret_is_under_the_word_that_libpcap_stumbled_over(text: str, caret: str) -> None:
    with pytest.raises(FilterError) as refused:
        expression.instructions(text)
    first, second, third, last = str(refused.value).splitlines()
    assert first.startswith("libpcap refuses the filter: ")
    assert second == f"  {text}"
    assert third == f"  {caret}"
    assert last.startswith("Next step: ")


@pytest.mark.parametrize(
    ("text", "word", "needs"),
    [
        ("type mgt subtype beacon", "type", "DLT_IEEE802_11"),
        ("udp or dir tods", "dir", "DLT_IEEE802_11"),
        ("wlan ra 02:00:00:00:00:01", "ra", "DLT_IEEE802_11"),
        ("udp and ifname eth0", "ifname", "DLT_PFLOG"),
        ("on eth0", "on", "DLT_PFLOG"),
        ("udp or rset x", "rset", "DLT_PFLOG"),
        ("reason match", "reason", "DLT_PFLOG"),
        ("action pass", "action", "DLT_PFLOG"),
        ("vpi 3", "vpi", "DLT_SUNATM"),
        ("lane", "lane", "DLT_SUNATM"),
        ("fisu", "fisu", "DLT_MTP2"),
        ("radio[0] = 1", "radio", "DLT_IEEE802_11_RADIO"),
        ("udp and ip broadcast", "broadcast", "knows no netmask"),
        ("gateway 10.0.0.1", "gateway", "ether host MAC"),
        ("ether", "ether", "no condition"),
    ],
)
def test_what_we_cannot_have_is_named_with_the_reason(text: str, word: str, needs: str) -> None:
    with pytest.raises(FilterError, match=f"(?s)Likely cause: .*{needs}|Next step: .*{needs}") as refused:
        expression.instructions(text)
    _, shown, caret, _ = str(refused.value).splitlines()
    assert shown[caret.index("^") :][: caret.count("^") + caret.count("~")] == word


@pytest.mark.parametrize("text", ["all and not tcp port 22", "udp or all", "ALL"])
def test_all_is_no_word_of_the_language(text: str) -> None:
    with pytest.raises(FilterError, match='Next step: `filter="all"` stands alone'):
        expression.instructions(text)


def test_without_a_place_there_is_no_caret() -> None:
    with pytest.raises(FilterError, match=r"^libpcap refuses the filter 'tcp and udp': expression rejects all packets"):
        expression.instructions("tcp and udp")
    # Nobody to ask, and a libpcap that cannot be asked so.
    for answers in (None, ["syntax error"] * 3):
        text = explain("udp prt", "syntax error", lambda texts, answers=answers: answers)
        assert text.startswith("libpcap refuses the filter 'udp prt': syntax error. Next step")


def test_a_long_or_odd_expression_is_shown_in_one_line() -> None:
    hosts = " or\n".join(f"host 10.0.0.{i}" for i in range(40))
    with pytest.raises(FilterError) as refused:
        expression.instructions(f"{hosts} or\thots 1.2.3.4 or {hosts}")
    _, shown, caret, _ = str(refused.value).splitlines()
    assert len(shown) < WIDTH + 10
    assert shown[caret.index("^") :].startswith("hots 1.2.3.4 or ")


def test_words_that_ask_for_what_is_beside_a_packet_are_warned_of() -> None:
    for text in ("inbound", "udp and not outbound", "ifindex 1 or udp"):
        if corpus.libpcap_version() >= (1, 11):
            with pytest.raises(FilterError, match=r"is inbound.*Next step: leave the word out"):
                expression.instructions(text)
            continue
        with pytest.warns(expression.FilterWarning, match="never matches.*leave the word out"):
            expression.instructions(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expression.instructions("ether[4294967295] = 0")  # out of bounds because it says so
