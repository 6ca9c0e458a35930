# SPDX-License-Identifier: Apache-2.0
"""One file for each subcommand: options, help text, and what it does. Further files begin with the command's name.

SECTIONS has a line for each, so that `xsk --help` need not import them.
"""

from __future__ import annotations

__all__ = ["SECTIONS", "short_help"]

SECTIONS: dict[str, dict[str, str]] = {
    "See it work": {
        "demo": "Show AF_XDP at work, on a private network or a real interface.",
    },
    "Watch traffic, without harm when --tee is given": {
        "receive": "Take packets, or copies (--tee): show their rate, or their bytes.",
        "capture": "Take packets, or copies (--tee), into pcapng, pcap or Parquet.",
        "top": "Take packets, or copies (--tee): show who sends how much.",
    },
    "Take traffic, so that this host does not get it": {
        "drop": "Take packets and discard them: how fast can this host receive?",
        "forward": "Take packets and send them out of another port, or back.",
        "echo": "Take ARP, ping and UDP echo, and answer in this host's place.",
    },
    "Others": {
        "send": "Send packets, as fast as possible or at a rate.",
        "status": "Show XDP programs, links and AF_XDP sockets, and whose they are.",
        "doctor": "Find what keeps AF_XDP from working, and say what to do.",
        "detach": "Clean up after a killed process, or take an XDP program off.",
        "help": "Show the long texts: filters, taking, output, files, JSON ...",
    },
}


def short_help(name: str) -> str:
    """Return the line of a command in the list of commands."""
    return next(names[name] for names in SECTIONS.values() if name in names)
