# SPDX-License-Identifier: Apache-2.0
"""A command line that makes no sense: one form, whoever refuses it, with the next step and the usage line."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from toolkit.cli.main import cli

WRONG = [
    (["--nonsense"], "no such option"),
    (["nonsense"], "no such command 'nonsense'"),
    (["receive", "eth0", "udp", "--nonsense"], "--nonsense"),
    (["receive", "eth0", "udp", "--que", "1"], "--que"),
    (["receive", "eth0", "udp", "-c"], "requires an argument"),
    (["receive", "eth0", "udp", "-c", "x"], "'x' is not a valid integer"),
    (["receive", "eth0", "udp", "-c", "0"], "0 is not in the range"),
    (["receive", "eth0", "udp", "--seconds", "nan"], "nan"),
    (["receive", "eth0", "udp", "--sample", "x"], "'x' is not a sample"),
    (["receive", "eth0", "udp", "-s", "7"], "7 is less than"),
    (["receive", "eth0", "udp", "--on-match", "burn"], "'burn' is not one of"),
    (["receive", "eth0", "udp", "--tee", "--spin"], "--tee copies"),
    (["receive", "eth0"], "no filter"),
    (["receive"], "no interface"),
    (["capture", "eth0", "udp"], "missing option '-w'"),
    (["drop", "eth0", "udp", "-q", "0"], "there is no -q"),
    (["send", "eth0", "too", "much"], "'too much'"),
    (["send", "eth0", "--pace", "2", "--rate", "3"], "--pace"),
    (["forward", "eth0", "eth0", "udp"], "both ends"),
    (["demo", "eth0"], "needs a filter"),
    (["help", "nonsense"], "no topic 'nonsense'"),
    (["status", "eth0"], "eth0"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_the_form(words: list[str], says: str) -> None:
    done = CliRunner().invoke(cli, words, prog_name="xsk")
    assert done.exit_code == 2
    assert done.stdout == ""
    said, usage, *more = done.stderr.rstrip("\n").split("\n")
    assert re.fullmatch(r"xsk: [^A-Z].*[^.]\. Next step: .*[^.]\.", said), said
    assert says in said
    assert said.count("Next step: ") == 1
    assert usage.startswith("Usage: xsk")
    assert all(line.startswith(" ") for line in more), "nothing but the rest of the usage line"
    if words[0] in ("receive", "capture", "drop", "send", "forward", "demo", "status"):
        assert usage.startswith(f"Usage: xsk {words[0]} ")
