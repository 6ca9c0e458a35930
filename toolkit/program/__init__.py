# SPDX-License-Identifier: Apache-2.0
"""Build XDP programs from C source: compiled by BCC, loaded through libbpf, attached by a bpf_link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit._base.lazy import lazily
from toolkit.program.link import Link, Replace
from toolkit.program.maps import Map
from toolkit.program.program import Program
from toolkit.program.query import Attached, ProgramInfo, XdpLink, attached, xdp_links
from toolkit.program.rules import Action, Rule, RuleCounters

if TYPE_CHECKING:
    from toolkit._base.cache import CacheWarning
    from toolkit.program.bcc import import_bcc
    from toolkit.program.matching import forget, matches
    from toolkit.program.sources import directory, headers, source_text

__all__ = [
    "Action",
    "Attached",
    "CacheWarning",
    "Link",
    "Map",
    "Program",
    "ProgramInfo",
    "Replace",
    "Rule",
    "RuleCounters",
    "XdpLink",
    "attached",
    "directory",
    "forget",
    "headers",
    "import_bcc",
    "matches",
    "source_text",
    "xdp_links",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "bcc": "import_bcc",
        "build": "CacheWarning",
        "matching": "forget matches",
        "sources": "directory headers source_text",
    },
)
