# SPDX-License-Identifier: Apache-2.0
"""scripts/guest: its options, and the signals that end it."""

from __future__ import annotations

import argparse
import compileall
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from guests import nics
from guests.machine import FAILED, GuestError, Machine, Wanted, say

CHECKOUT = Path(__file__).resolve().parents[2]
_EPILOG = f"""
The command runs as root, in the checkout (or --directory), with .venv/bin first in PATH. The NICs are eth0 and eth1 for
the first pair, eth2 and eth3 for the second, and so on; they are down, unless --far is given.

exit status: that of the command; 124: its time was over; {FAILED}: the guest did not start, panicked or hung, and the
end of its serial console says where; 75: the packages cannot be had; 2: wrong arguments.

examples:
  scripts/guest --kernel 6.1 --nic igb -- xsk doctor eth0
  scripts/guest --nic virtio --nic igb --far --out results -- bash -c 'ping -c 3 10.0.0.2 >$GUEST_OUT/ping'
"""


def options() -> argparse.ArgumentParser:
    """Those of scripts/guest."""
    parser = argparse.ArgumentParser(
        prog="scripts/guest",
        usage="scripts/guest [OPTIONS] -- COMMAND [ARGUMENT ...]",
        description="Run a command in a machine that qemu emulates, with a kernel of Debian's, over this checkout.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _machine_options(parser.add_argument_group("the machine").add_argument)
    _command_options(parser.add_argument_group("the command").add_argument)
    add = parser.add_argument_group("its parts").add_argument
    add("--update", action="store_true", help="ask the mirror for newer kernels now, not once a week")
    add("--prepare", action="store_true", help="download and unpack what is missing, print the version; no command")
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    return parser


def _machine_options(add: Callable[..., object]) -> None:
    kernel = "newest (the default), 6.1, 6.12.94, or '<=6.18': the newest that is not newer"
    add("--kernel", default="newest", metavar="VERSION", help=kernel)
    kinds = f"two NICs on a cable: {', '.join(nics.KINDS)}, or of two kinds: igb+virtio; may be repeated"
    add("--nic", action="append", default=[], type=_pair, metavar="KIND", dest="pairs", help=kinds)
    add("--pairs", type=_number(1, nics.PAIRS), default=1, dest="times", metavar="N", help="N pairs of each --nic")
    add("--queues", type=_number(1, 8), default=1, metavar="N", help="queues of each virtio NIC (default 1)")
    far = (
        "the second NIC of each pair in a namespace (far, far2, ...), all up: 10.0.0.1/24 and 10.0.0.2/24, 10.0.2.1 ..."
    )
    add("--far", action="store_true", help=far)
    add("--cpus", type=_number(1, 16), default=2, metavar="N", help="default 2; igb has as many queues")
    add("--memory", type=_number(512, 65536), default=2048, metavar="MIB", help="default 2048")
    limit = "until the command begins (default 240)"
    add("--boot-timeout", type=_number(1, 3600), default=240, metavar="SECONDS", help=limit)
    add("--console", action="store_true", help="show the serial console as well, on the standard error output")


def _command_options(add: Callable[..., object]) -> None:
    out = "a directory here (made if need be) that the guest has as $GUEST_OUT: what is written there stays"
    add("--out", type=Path, metavar="DIRECTORY", help=out)
    add("--directory", type=Path, default=CHECKOUT, help="where the command runs; by default the checkout")
    env = "a variable for the command; nothing else of your environment is passed on"
    add("--env", action="append", default=[], metavar="NAME=VALUE", type=_assignment, help=env)
    add("--timeout", type=_number(1, 86400), default=600, metavar="SECONDS", help="default 600")


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"a number from {least} to {most}, not {text!r}")
        return int(text)

    return parse


def _pair(text: str) -> nics.Pair:
    try:
        return nics.Pair.parse(text)
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise argparse.ArgumentTypeError(f"NAME=VALUE, not {text!r}")
    return name, value


def parts(where: Path, kernel: str, update: bool) -> tuple[str, Path]:
    """The version that is meant, and its initramfs, made if need be; SystemExit after an error message."""
    command = [str(Path(__file__).with_name("parts")), str(where), kernel, *(["update"] if update else [])]
    # A session of its own, so that a signal to us ends what it has started as well: apt would go on, and keep the lock.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as made:
        try:
            output, _ = made.communicate()
        except BaseException:
            os.killpg(made.pid, signal.SIGKILL)
            raise
    if made.returncode:
        sys.exit(made.returncode)
    version, initramfs = output.splitlines()
    return version, Path(initramfs)


def compile_sources() -> None:
    """Write the bytecode here, where it is quick: imports are most of what a short command does in a guest."""
    for name in ("toolkit", "tests", "benchmarks"):
        compileall.compile_dir(CHECKOUT / name, quiet=2)


def _stopped(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the guest; the exit status."""
    parser = options()
    given = parser.parse_args()
    if not given.command and not given.prepare:
        parser.error("no command: scripts/guest [OPTIONS] -- COMMAND")
    if given.command and given.prepare:
        parser.error("--prepare runs no command")
    if not re.fullmatch(r"newest|(<=)?[0-9][0-9A-Za-z.+~-]*", given.kernel):
        parser.error(f"--kernel: newest, a version such as 6.1, or '<=6.18', not {given.kernel!r}")
    pairs = [pair for pair in given.pairs for _ in range(given.times)]
    if len(pairs) > nics.PAIRS:
        parser.error(f"at most {nics.PAIRS} pairs, not {len(pairs)}")
    if given.queues > 1 and any("virtio" not in (pair.near, pair.far) for pair in pairs):
        parser.error("--queues is for virtio; an igb NIC has as many queues as the guest has --cpus")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stopped)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
    where = Path(os.environ["GUEST_ROOT"])  # scripts/guest says where, and has checked whose it is
    kernel, initramfs = parts(where, given.kernel, given.update)
    if given.prepare:
        print(kernel)
        return 0
    compile_sources()
    wanted = Wanted(
        command=given.command,
        directory=given.directory.resolve(),
        pairs=pairs,
        queues=given.queues,
        cpus=given.cpus,
        memory=given.memory,
        timeout=given.timeout,
        boot_timeout=given.boot_timeout,
        environment=dict(given.env),
        out=given.out and given.out.resolve(),
        far=given.far,
        console=given.console,
    )
    try:
        return Machine(where, kernel, initramfs, wanted).run()
    except GuestError as ended:
        say(str(ended))
        return ended.status
    except BrokenPipeError:  # who reads the output wants no more of it (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
