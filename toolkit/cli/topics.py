# SPDX-License-Identifier: Apache-2.0
"""The long texts of `xsk help TOPIC`: what is the same for several commands, said once."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import NamedTuple

__all__ = ["TOPICS", "Topic"]


class Topic(NamedTuple):
    """A title, as the list of topics shows it, and the text.

    The text has paragraphs; rows of two columns, indented, with two spaces or more between the columns; and command
    lines, indented, which stay as they are.
    """

    title: str
    text: str

    def wrapped(self, width: int) -> str:
        """Return the text in lines of `width` columns at most."""
        pieces: list[tuple[str, str]] = []  # (what the first line begins with, its words)
        column = -1  # where the second column of a row begins
        for line in self.text.splitlines():
            indent = len(line) - len(line.lstrip())
            if row := _ROW.match(line):
                column = len(row[1])
                pieces.append((row[1], row[2]))
            elif indent and indent == column:  # a row goes on
                pieces[-1] = (pieces[-1][0], f"{pieces[-1][1]} {line.strip()}")
            elif line and not indent and pieces and pieces[-1][1] and not pieces[-1][0]:  # a paragraph goes on
                pieces[-1] = ("", f"{pieces[-1][1]} {line}")
            else:
                column = -1
                pieces.append((line[:indent], line[indent:]))
        return "\n".join(_filled(*piece, width) for piece in pieces)


_ROW = re.compile(r"( +\S+(?: \S+)*  +)(\S.*)")


def _filled(begin: str, words: str, width: int) -> str:
    if begin and not begin.strip():  # a command line
        return begin + words
    return textwrap.fill(
        words,
        width,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _topic(title: str, text: str) -> Topic:
    return Topic(title, inspect.cleandoc(text))


TOPICS: dict[str, Topic] = {
    "filters": _topic(
        "Which packets a command takes",
        """
        A filter is a tcpdump expression (`man pcap-filter`). It stands behind the interface, or after -f:

          xsk receive eth0 udp port 9
          xsk receive eth0 'tcp[tcpflags] & tcp-syn != 0'
          xsk receive -i eth0 -f 'udp port 9'

        Quote it where the shell would use some of its characters. `all` takes everything; there is no other way to ask
        for that.

        A filter sees packets that arrive, not those that this host sends. It does not see VLAN tags that the NIC has
        taken off (`ethtool -K eth0 rxvlan off` keeps them on), nor ports in the later fragments of a datagram, which
        have none.

        --on-match says what becomes of packets that match: `redirect` brings them here, `drop` drops them in the
        driver, `count` counts them and lets them go on to the kernel. --sample 1/100 acts on one packet of a hundred,
        chosen at random; the others go on to the kernel. -s 64 cuts packets to 64 bytes; lengths and rates are still
        those on the wire.

        docs/filters.md has the details.
        """,
    ),
    "taking": _topic(
        "What this host does not get, and what a command asks before",
        """
        AF_XDP takes packets: what a filter matches does not reach this host's kernel, and so none of its programs.
        Packets that do not match go on to the kernel, unchanged. Each command that takes says so in its first line.

        With --tee, `receive`, `capture` and `top` get copies, and the kernel gets every packet. This costs some speed.
        Copies for which there is no room are lost, and counted.

        Before a filter takes packets that this host needs, the command asks. Where there is no terminal to ask on, it
        ends with an error and does nothing; --yes is the answer for scripts. This host needs:

          sessions    the SSH session that you are typing in, and other TCP connections
          services    packets to a listening TCP socket, or to a bound UDP socket
          neighbours  ARP and neighbour discovery
          names       the answers of name servers
          addresses   the lease of its own address (DHCP)

        The question names what the filter would take, and proposes a filter that leaves all of it alone, if there is
        one. With --tee nothing is asked, unless packets are to be dropped (--on-match drop).

        When a command ends, even by kill -9, its program is off the interface. --replace takes the place of a program
        that is attached already, and puts it back at the end. Two things can outlive kill -9: the program that
        --replace took off stays off, and interrupts that --busy-poll deferred stay deferred. `xsk detach eth0` puts
        both right.
        """,
    ),
    "output": _topic(
        "What goes where, and what the figures mean",
        """
        Standard output gets data: packets (-x), a line each --interval, tables, JSON. Standard error gets everything
        else: what was opened, notes, questions, errors, and the account at the end. So this counts lines of packets
        only:

          xsk receive eth0 icmp --tee -x -c 3 | wc -l

        There are two exceptions. The data of `capture` are packets, so its lines go to standard error; with -w -,
        standard output gets the packets and nothing else. All the text of `demo` is on standard output.

        Times are UTC: a line begins with 10:45:59Z, a packet has 2026-11-30T10:45:59.123456789Z. Only the names of
        rotated files have local time in them, as with tcpdump.

        Bytes and bits are those on the wire, without the checksum of Ethernet (FCS), whatever -s leaves of a packet.

        The account at the end must be right to the packet:

          redirected = received + dropped

        Three parties count: the XDP program counts redirected, this command received, the kernel dropped (with --tee,
        the program). Figures that are zero are left out; --json has all of them.

        Packets for which the NIC had no room are in none of these, because no program saw them. They have lines of
        their own: `missed by the NIC` (rx_missed_errors and rx_fifo_errors of the interface, since the command opened
        it), and other counters of losses that have moved, by the names that the kernel and the driver give them
        (`ethtool -S`). In zero-copy mode only the NIC can count packets that find no frame. Where the fill ring was
        empty and the NIC counts none, the account says so.

        These are the kernel's counters (XDP_STATISTICS):

          rx_dropped                no frame was free, or the packet was longer than a frame
          rx_ring_full              the RX ring was full: this command was too slow
          rx_fill_ring_empty_descs  how often the fill ring was empty
          rx_invalid_descs          invalid entries in the fill ring
          tx_invalid_descs          invalid entries in the TX ring
          tx_ring_empty_descs       how often the TX ring was empty
        """,
    ),
    "json": _topic(
        "What --json prints, for programs",
        """
        --json prints one object on one line of standard output, at the end, in place of the text for people (of
        `capture -w -` on standard error). An error is on standard error, and in the object.

        With -x each packet is an object on a line of its own, before that one:

          {"time": "2026-11-30T10:45:59.123456789Z", "queue": 0, "summary": ...,
           "wire_length": 98, "hex": "..."}

        Figures that are zero are there as well. `receive`, `drop` and `top` have all of these keys. Other commands have
        those that apply; `forward` has one set for each direction.

          whole         true if every packet that matched arrived, and nothing ended the command early; false also if
                        the NIC lost packets before the filter saw them, or may have lost some that it does not count
                        (zero-copy, `xsk help output`)
          error         null, or the sentence that says what ended the command early
          redirected    packets that the XDP program sent here (= received + dropped)
          received      packets that arrived here; received_bytes are their bytes on the wire
          taken         packets received until the end was asked for; with -c 10 exactly 10
          dropped       packets that the kernel dropped; drop_reasons says why
          missed        packets that the NIC lost before any program saw them, whatever the filter; null if not known
          nic_counters  other losses that the kernel and the driver count, as far as their counters moved
          to_kernel     packets that the kernel got
          mode          native or generic: how the program ran
          zero_copy     whether the driver wrote the packets here itself
          seconds       how long it lasted
        """,
    ),
    "exit-codes": _topic(
        "Exit codes and signals",
        """
          0  the command did what it was asked for, or was ended by Ctrl-C
          1  it could not: the kernel refused, the interface went away, a file, a value or a filter was refused.
             Standard error says what, why, and what to do. Of `doctor`: there is a problem.
          2  the command line makes no sense by itself

        SIGINT and SIGTERM end a command in order: it empties the rings, writes its files to the end and prints its
        account. So do SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU, unless they were ignored when the command began:
        `nohup xsk capture ... &` goes on when the terminal is gone.

        A second signal ends the command at once, if it comes a second or more after the first. Earlier ones are
        ignored, because `timeout` and closing terminals send several.
        """,
    ),
    "files": _topic(
        "What `xsk capture` writes, and who can read it",
        """
        The name of the file says its format:

          x.pcapng                  pcapng
          x.pcap (or --pcap)        classic pcap, with nanoseconds
          x.pcapng.gz, x.pcap.zst   the same, compressed
          x.parquet                 a table, which can be read once it is closed
          packets/                  a directory with a Parquet dataset, in files by date and hour, which DuckDB, Polars
                                    and Spark read as one table

        Parquet needs the package pyarrow. Before Python 3.14, .zst needs the package zstandard. `scripts/setup
        --tables` installs both.

        The time of a packet is that of its arrival, in nanoseconds. A packet that has none gets the time at which this
        command received it; such packets are counted. A pcapng file says whether it is whole: each second, and at its
        end, it notes what was received and dropped until then. With several queues, packets are in order of time
        within each queue only: `reordercap` sorts a file, --queue 0 takes one queue.

        Packets that the disk cannot write yet wait in memory (--buffer). When that is full, packets are dropped here,
        and counted.

        Only their owner can read the files (mode 0600, whatever the umask); --file-mode and --file-group let others
        read them. A file is never written through a symbolic link, nor into a block device or another user's FIFO. A
        file that exists is replaced with --overwrite only. So a capture in /tmp cannot damage files elsewhere. Others
        may still remove or rename the capture itself.

        -C, -G and -W are tcpdump's:

          -C 100        FILE, FILE1, FILE2, ..., each of 100 million bytes
          -C 100 -W 10  FILE0 to FILE9, then FILE0 again
          -G 60         a new file each 60 seconds. FILE holds a time, as in 'eth0-%H%M%S.pcapng' (strftime, local
                        time), and the file changes when the name does

        A name that comes back is written over: %H%M comes back every day, %s never. When summer time ends, an hour of
        local time comes back too.

        docs/capture.md has the details.
        """,
    ),
    "interfaces": _topic(
        "Queues, modes, zero-copy, waiting, network namespaces",
        """
        INTERFACE is the first word, or stands after -i. --netns NAME looks for it in another network namespace: a name
        of `ip netns`, a path, or a pid.

        All receive queues are opened. --queue 2 opens that one only, and may be repeated. What arrives on other queues
        goes on to the kernel.

        The XDP program runs in the driver (native mode) if the driver can do that, else after the driver (generic
        mode, slower). The first line says which. --native and --generic insist on one of them.

        A NIC lets in packets to its own address, to the broadcast address, and to groups that this host is in.
        --promisc makes it let in all others as well, until the command ends. A bridge needs them, so `forward` does so
        by itself.

        Zero-copy is used if the driver has it and runs an XDP program natively; without a program, `send` is in copy
        mode. --zero-copy insists on it, --copy does without.

        --poll, the default, sleeps until packets come. --busy-poll makes the driver poll for packets, --spin polls the
        rings without a pause. Both take a whole core, and answer sooner.

        Where an XDP program is attached already, the command ends with an error. --replace takes the place of that
        program, and puts it back at the end; after kill -9, the next command that moves packets puts it back, or
        `xsk detach`. A program that a link of another process holds cannot be put back, so --replace refuses it;
        --replace-link takes it off for good.
        """,
    ),
    "permissions": _topic(
        "What it needs root for, or which capabilities",
        """
        Root, or these capabilities:

          CAP_NET_RAW    the AF_XDP socket
          CAP_NET_ADMIN  the XDP program on the interface, the XSKMAP
          CAP_BPF        the program and its maps
          CAP_PERFMON    the program: its arithmetic on packet pointers
          CAP_IPC_LOCK   packet memory beyond `ulimit -l`

        --netns needs CAP_SYS_ADMIN as well. `xsk doctor` says which of them are missing here. The capabilities of a
        user namespace (a rootless container) do not count for BPF.
        """,
    ),
    "letters": _topic(
        "What -c, -s, -w ... mean: tcpdump's letters",
        """
        A letter means the same in every command. But for the last three, it means what it means to tcpdump:

          -i INTERFACE  the interface
          -c N          stop after N packets
          -s BYTES      cut packets to this length (snaplen)
          -x            bytes in hex
          -n            no names for addresses; there are none here
          -w FILE       write to a file
          -r FILE       read from a file
          -C, -G, -W    rotate files (`xsk help files`)
          -f            the filter, as an option
          -a            all interfaces, of `status`
          -h            one screen of help; --help shows all options

        xdpsock has letters of its own. Here these options have long names only: --queue (xdpsock's -q), --interval
        (-n), --batch-size (-b), --poll (-p), --busy-poll (-B), --zero-copy (-z), --copy (-c), --native (-N), --generic
        (-S), --no-need-wakeup (-m), --size (-s), --extra (-x).
        """,
    ),
}
