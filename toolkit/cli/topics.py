# SPDX-License-Identifier: Apache-2.0
"""The long texts of `xsk help TOPIC`: what is the same for several commands, said once."""

from __future__ import annotations

import inspect
from typing import NamedTuple

__all__ = ["TOPICS", "Topic"]


class Topic(NamedTuple):
    """A title, as the list of topics shows it, and the text."""

    title: str
    text: str


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

        Put it in quotes where it has characters that the shell would use. 'all' takes everything, and has to be asked
        for by that name.

        A filter sees packets that arrive, not those that this host sends. VLAN tags that the NIC strips are invisible
        to it (`ethtool -K eth0 rxvlan off`), and later fragments of a datagram carry no ports.

        --on-match says what becomes of packets that match: `redirect` brings them here, `drop` drops them in the
        driver, `count` counts them and lets them go on. --sample 1/100 does so with one of a hundred, at random; the
        others go on to the kernel. -s 64 cuts packets to 64 bytes; figures are still those on the wire.

        docs/filters.md has all of it.
        """,
    ),
    "taking": _topic(
        "What this host does not get, and what a command asks before",
        """
        AF_XDP takes packets: what a filter matches does not reach this host's kernel, and so none of its programs.
        Packets that do not match go on as if nothing were there. Each command that takes says so in its first line.

        With --tee, `receive`, `capture` and `top` get copies, and the kernel gets the packets as well. That costs some
        speed, and copies that find no room are lost, and counted.

        Before a filter takes what this host needs, the command asks; without a terminal it ends with an error, and
        nothing is done unless --yes is given. This host needs packets to a listening TCP or bound UDP socket, or of a
        connection, first of all those of the SSH session that you are typing in; ARP and neighbour discovery; answers
        of name servers; the lease of its address. The question names them, and proposes a filter that leaves all of
        them alone, where there is one. With --tee nothing is asked, unless packets are dropped (--on-match drop).

        When a command ends, even by kill -9, its program is off the interface. --replace takes the place of a program
        that is attached already, and puts it back at the end. After kill -9 two things may remain: the program that
        --replace took off is still off, and interrupts that --busy-poll deferred are still deferred. `xsk detach eth0`
        puts both right.
        """,
    ),
    "output": _topic(
        "What goes where, and what the figures mean",
        """
        Standard output gets data: packets (-x), a line each --interval, tables, JSON. Standard error gets all else:
        what was opened, notes, questions, errors, and the account at the end. `capture` prints its lines to standard
        error, because packets are its data. So this counts lines of packets only:

          xsk receive eth0 icmp --tee -x -c 3 | wc -l

        `demo` is there to be read: all of its text is on standard output.

        `capture -w -` writes packets to standard output, and all that people read to standard error.

        Times are UTC: 10:45:59Z at the beginning of a line, 2026-11-30T10:45:59.123456789Z of a packet. Only the names
        of rotated files have local time in them, as tcpdump's have.

        Bytes and bits are those on the wire, without the checksum of Ethernet (FCS), whatever -s leaves of a packet.

        The account at the end must come out even, to the packet:

          redirected = received + dropped

        The XDP program counts redirected, this command counts received, the kernel counts dropped (with --tee: the
        program). Figures that are zero are left out; --json has all of them.

        What the NIC had no room for is in none of these, because no program saw it. It has lines of its own: `missed by
        the NIC` (rx_missed_errors and rx_fifo_errors of the interface, since the command opened it), and whatever other
        counters of losses have moved, by the kernel's and the driver's names (`ethtool -S`). In zero-copy mode only the
        NIC can count what finds no frame; where the fill ring was empty and the NIC counts none, the account says so.

        What the kernel counts (XDP_STATISTICS):

          rx_dropped                no free frame, or the packet is longer than a frame
          rx_ring_full              this program did not keep up
          rx_fill_ring_empty_descs  times the fill ring was empty
          rx_invalid_descs          bad fill ring entries
          tx_invalid_descs          bad TX ring entries
          tx_ring_empty_descs       times the TX ring was empty
        """,
    ),
    "json": _topic(
        "What --json prints, for programs",
        """
        --json prints one object on one line of standard output, at the end, in place of all text for people; with
        `capture -w -` on standard error. Errors are on standard error, and in the object. With -x each packet is an
        object of its own before that:

          {"time": "2026-11-30T10:45:59.123456789Z", "queue": 0, "summary": ..., "wire_length": 98, "hex": "..."}

        Figures that are zero are there as well. `receive`, `drop` and `top` have all of these keys, other commands
        those that apply (`forward` has one set for each direction):

          whole         true if every packet that matched did arrive, and nothing ended it early; false if the NIC lost
                        packets before the filter saw them, or may have, uncounted (zero-copy, `xsk help output`)
          error         null, or the sentence that says what ended the command early
          redirected    packets that the XDP program sent here (= received + dropped)
          received      packets that arrived here; received_bytes on the wire
          taken         the same, until the end was asked for (with -c: just that many)
          dropped       packets that the kernel dropped; drop_reasons says why
          missed        packets that the NIC lost before any program saw them, whatever the filter; null: not known
          nic_counters  what else the kernel and the driver count of losses, as far as it moved
          to_kernel     packets that the kernel got
          mode          native or generic: how the program ran
          zero_copy     whether the driver wrote the packets here itself
          seconds       how long it lasted
        """,
    ),
    "exit-codes": _topic(
        "Exit codes and signals",
        """
          0  it did what it was asked for; also after Ctrl-C
          1  something kept it from its work: the kernel refused, the interface went away, a file or value or filter
             was refused. Standard error says what, why, and what to do. `doctor`: there is a problem.
          2  a command line that makes no sense by itself

        SIGINT and SIGTERM end a command in order, so do SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU unless they were ignored
        when it began: `nohup xsk capture ... &` goes on when the terminal is gone. Further signals within a second of
        the first are ignored, because `timeout` and closing terminals send several; a later one ends it at once.
        """,
    ),
    "files": _topic(
        "What `xsk capture` writes, and who can read it",
        """
        -w x.pcapng is pcapng; x.pcap (or --pcap) classic pcap with nanoseconds; x.parquet a table. .gz or .zst behind
        that compresses. packets/, with a slash behind it, is a directory: a Parquet dataset in files by date and hour,
        which DuckDB, Polars and Spark read as one table. A single x.parquet can be read only once it is closed. Parquet
        needs the package pyarrow, and .zst before Python 3.14 the package zstandard (scripts/setup --tables).

        Times are those of arrival, in nanoseconds; a packet without one carries that of its receipt, and these are
        counted. A pcapng file says itself whether it is whole: each second, and at its end, what was received and
        dropped until then. Packets of several queues are in order of time within each queue only: `reordercap` sorts a
        file, --queue 0 takes one queue.

        Packets that the disk cannot write yet wait in memory (--buffer). When that is full, packets are dropped here,
        and counted.

        Only their owner can read the files (0600, whatever the umask), unless --mode or --group says more. A file is
        never written through a symbolic link, nor into a block device or another user's FIFO. A file that exists is
        replaced with --force only. So a capture in /tmp cannot damage files elsewhere, but others may remove or rename
        the capture itself.

        -C, -G and -W are tcpdump's. With -C: FILE, FILE1, FILE2, ...; with -C and -W 10: FILE0 to FILE9, then FILE0
        again. With -G, FILE holds a time, as in 'eth0-%H%M%S.pcapng' (strftime, local time), and a new file begins when
        the name changes. When a name comes back, that file is written over: %H%M comes back every day, an hour of local
        time when summer time ends, %s never.

        docs/capture.md has all of it.
        """,
    ),
    "interfaces": _topic(
        "Queues, modes, zero-copy, waiting, network namespaces",
        """
        INTERFACE is the first word, or stands after -i. --netns NAME looks for it in another network namespace: a name
        of `ip netns`, a path, or a pid.

        All receive queues are opened; --queue 2 opens one, and may be repeated. What arrives on other queues goes on to
        the kernel.

        The XDP program runs in the driver (native mode) where the driver can do that, else behind it (generic mode,
        slower); the first line says which came about. --native and --generic insist on one.

        A NIC lets in packets to its own address, to all, and to groups that this host is in. --promisc has it let in
        all others too, as a bridge needs them: `forward` does so by itself. That ends with the command, in any way.

        Zero-copy is used where the driver has it; --zero-copy insists on it, --copy does without.

        --poll, the default, sleeps until packets come. --busy-poll has the driver poll for packets, --spin polls the
        rings without a pause: both take a core, and answer sooner.

        Where an XDP program is attached already, nothing is done. --replace takes its place and puts it back at the
        end; after kill -9, the next command that moves packets does, or `xsk detach`. A program that a link of another
        process holds cannot be put back, so --replace refuses; --replace-link takes it off for good.
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

        --netns also needs CAP_SYS_ADMIN. `xsk doctor` says which of them are missing here. In a user namespace (a
        rootless container) capabilities do not count for BPF.
        """,
    ),
    "letters": _topic(
        "What -c, -s, -w ... mean: tcpdump's letters",
        """
        A letter means the same in every command, and, but for -f, what it means to tcpdump:

          -i INTERFACE  the interface     -c N      stop after N packets     -w FILE  write to a file
          -n            no names          -s BYTES  cut packets (snaplen)    -r FILE  read from a file
          -x            bytes in hex      -C -G -W  rotate files             -f       the filter, as an option
          -h            one screen of help; --help shows all options

        What xdpsock calls by letters has long names only: --queue (-q), --interval (-n), --batch-size (-b), --poll
        (-p), --busy-poll (-B), --zero-copy (-z), --copy (-c), --native (-N), --generic (-S), --no-need-wakeup (-m),
        --size (-s), --extra (-x).
        """,
    ),
}
