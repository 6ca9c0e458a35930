# SPDX-License-Identifier: Apache-2.0
"""One run of a guest: qemu started, the command's output passed on as it comes, and an end to it whatever happens."""

from __future__ import annotations

import fcntl
import os
import re
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from guests import nics

LATE = 124  # the command's time was over, as of timeout(1)
FAILED = 125  # the guest did not come so far, or ended before the command did
_GRACE = 30.0  # seconds that the guest has to end the command itself, and to switch itself off
_CONSOLE_LINES, _MOST_LINES = 25, 80  # of the console: at least, and where the kernel was in trouble
_TROUBLE = re.compile(r"Kernel panic|\bBUG: |\bOops: ")


@dataclass(frozen=True)
class Wanted:
    """What a guest is to be, and what it is to run."""

    command: list[str]
    directory: Path
    pairs: list[nics.Pair] = field(default_factory=list)
    queues: int = 1
    cpus: int = 2
    memory: int = 2048
    timeout: float = 600.0
    boot_timeout: float = 240.0
    environment: dict[str, str] = field(default_factory=dict)
    out: Path | None = None
    far: bool = False
    console: bool = False


class GuestError(Exception):
    """The guest has ended otherwise than the command did; the text says what happened."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def say(sentence: str) -> None:
    """One line about the guest itself, on the standard error output."""
    print(f"guest: {sentence}", file=sys.stderr, flush=True)


class Machine:
    """A guest: run() returns the exit status of its command, or raises GuestError."""

    def __init__(self, store: Path, kernel: str, initramfs: Path, wanted: Wanted) -> None:
        self._store, self._kernel, self._initramfs, self._wanted = store, kernel, initramfs, wanted
        self._phase = "the kernel to start"
        self._report = b""
        self._status: int | None = None
        self._begun: float | None = None  # when the command did

    def run(self) -> int:
        """Start it, wait for its end; nothing of it is left, however this returns."""
        _sweep(self._store)
        job = Path(tempfile.mkdtemp(prefix="run-", dir=self._store))
        in_use = os.open(job, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(in_use, fcntl.LOCK_EX)
            self._console_file = job / "console"
            self._write_job(job)
            return self._run(job)
        finally:
            shutil.rmtree(job, ignore_errors=True)
            os.close(in_use)

    # --- its parts -----------------------------------------------------------------------------------------------

    def _write_job(self, job: Path) -> None:
        wanted = self._wanted
        settings = {
            "kernel": self._kernel,
            "directory": str(wanted.directory),
            "timeout": f"{wanted.timeout:g}",
            "far": str(int(wanted.far)),
            "nics": str(2 * len(wanted.pairs)),
        }
        lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
        lines.append("environment=(" + " ".join(shlex.quote(f"{n}={v}") for n, v in wanted.environment.items()) + ")")
        lines.append("command=(" + shlex.join(wanted.command) + ")")
        (job / "settings").write_text("\n".join(lines) + "\n")
        shutil.copy(Path(__file__).with_name("inside"), job / "inside")
        (job / "out").mkdir()

    def _qemu(self, job: Path, writing: dict[str, int]) -> list[str]:
        tools, wanted = self._store / "tools", self._wanted
        command = ["setpriv", "--pdeathsig", "KILL"]
        if wanted.queues > 1:
            script = nics.joined(wanted.pairs) + '\nexec "$@"'
            command += ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
            command += ["/bin/bash", "-c", script, "guest"]
        command += [f"{tools}/usr/lib64/ld-linux-x86-64.so.2", "--library-path", f"{tools}/usr/lib/x86_64-linux-gnu"]
        command += [f"{tools}/usr/bin/qemu-system-x86_64"]
        for directory in ("share/qemu", "share/seabios", "lib/ipxe/qemu"):
            command += ["-L", f"{tools}/usr/{directory}"]
        command += ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]
        command += ["-smp", str(wanted.cpus), "-m", str(wanted.memory)]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        command += ["-serial", f"file:{self._console_file}"]
        command += ["-kernel", f"{self._store}/kernels/{self._kernel}/vmlinuz", "-initrd", str(self._initramfs)]
        # A kernel that is in trouble ends at once, and its last words are on the console.
        command += ["-append", "console=ttyS0 loglevel=4 panic=-1 oops=panic mitigations=off random.trust_cpu=on"]
        shares = (("root", Path("/"), True), ("parts", self._store, True), ("job", job, True))
        writable = (("out", wanted.out or job / "out", False), ("cache", self._cache(), False))
        for name, path, readonly in (*shares, *writable):
            kind = "readonly=on" if readonly else "readonly=off"
            escaped = str(path).replace(",", ",,")
            command += ["-fsdev", f"local,id={name},path={escaped},security_model=none,multidevs=remap,{kind}"]
            command += ["-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"]
        command += ["-device", "virtio-serial-pci"]
        for number, (name, descriptor) in enumerate(writing.items(), 1):
            command += ["-add-fd", f"fd={descriptor},set={number}"]
            command += ["-chardev", f"file,id={name},path=/dev/fdset/{number},append=on"]
            command += ["-device", f"virtserialport,chardev={name},name={name}"]
        return command + nics.options(wanted.pairs, wanted.queues)

    def _cache(self) -> Path:
        """What guests of this kernel may keep: the programs that they have compiled."""
        kept = self._store / "cache" / self._kernel
        kept.mkdir(mode=0o755, parents=True, exist_ok=True)
        return kept

    # --- its run ---------------------------------------------------------------------------------------------------

    def _run(self, job: Path) -> int:
        reading: dict[str, int] = {}
        writing: dict[str, int] = {}
        for name in ("output", "errors", "report"):
            reading[name], writing[name] = os.pipe()
        said = job / "qemu"
        try:
            with said.open("wb") as errors:
                process = subprocess.Popen(
                    self._qemu(job, writing),
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    pass_fds=tuple(writing.values()),
                    start_new_session=True,  # Ctrl-C is for us: we end it in order
                    cwd="/",
                )
        finally:
            for descriptor in writing.values():
                os.close(descriptor)
        try:
            self._pass_on(process, reading)
        finally:
            process.kill()
            process.wait()
            for descriptor in reading.values():
                os.close(descriptor)
        if self._status is None:
            raise self._ended_early(process.returncode, said)
        return self._status

    def _pass_on(self, process: subprocess.Popen[bytes], reading: dict[str, int]) -> None:
        """Until qemu has closed its ends of the pipes; GuestError where the time is over."""
        sinks: dict[str, BinaryIO] = {"output": sys.stdout.buffer, "errors": sys.stderr.buffer}
        started = time.monotonic()
        shown = 0
        with selectors.DefaultSelector() as selector:
            for name, descriptor in reading.items():
                selector.register(descriptor, selectors.EVENT_READ, name)
            while selector.get_map():
                for key, _ in selector.select(0.5):
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.data == "report":
                        self._reported(data)
                    else:
                        sinks[key.data].write(data)
                        sinks[key.data].flush()
                if self._wanted.console:
                    shown = self._show_console(shown)
                self._in_time(started)

    def _reported(self, data: bytes) -> None:
        *lines, self._report = (self._report + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "waiting":
                self._phase = rest
            elif word == "running":
                self._phase, self._begun = "the command to end", time.monotonic()
                say(f"Linux {self._kernel}, up after {float(rest):.0f} s")
            elif word == "ended":
                self._status, self._phase = int(rest), "the guest to switch itself off"
            elif word == "failed":
                raise GuestError(FAILED, rest)

    def _in_time(self, started: float) -> None:
        now, wanted = time.monotonic(), self._wanted
        if self._begun is None and now - started > wanted.boot_timeout:
            raise GuestError(
                FAILED, f"not ready after {wanted.boot_timeout:g} s. It waited for {self._phase}.{self._console()}"
            )
        if self._begun is not None and now - self._begun > wanted.timeout + _GRACE:
            if self._status is not None:  # all that was wanted has been had
                raise GuestError(self._status, "it did not switch itself off, and was ended")
            limit = f"{wanted.timeout:g} s, nor has the guest ended it {_GRACE:g} s later"
            raise GuestError(LATE, f"the command has not ended after {limit}: the guest hangs.{self._console()}")

    def _ended_early(self, returncode: int, said: Path) -> GuestError:
        words = said.read_text(errors="replace").strip()
        console = self._console()
        if returncode and words:
            return GuestError(FAILED, f"qemu ended with status {returncode}: {words}{console}")
        panic = re.search(r"Kernel panic - not syncing: (.*)", console)
        what = f"the kernel panicked: {panic[1].strip()}" if panic else "the guest ended before the command did"
        return GuestError(FAILED, f"{what}. It waited for {self._phase}.{console}")

    def _console(self) -> str:
        """The last lines of the serial console, from where the kernel's trouble began, to end a sentence with."""
        try:
            lines = self._console_file.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        if not lines:
            return " The serial console is empty."
        trouble = next((n for n, line in enumerate(lines) if _TROUBLE.search(line)), len(lines))
        first = min(trouble, len(lines) - _CONSOLE_LINES)
        shown = lines[max(first, len(lines) - _MOST_LINES, 0) :]
        if trouble < len(lines) - len(shown):
            shown.insert(0, lines[trouble])
        return " The end of its serial console:" + "".join(f"\n  | {line.rstrip()}" for line in shown)

    def _show_console(self, shown: int) -> int:
        with self._console_file.open("rb") as console:
            console.seek(shown)
            data = console.read()
        sys.stderr.buffer.write(data)
        sys.stderr.flush()
        return shown + len(data)


def _sweep(store: Path) -> None:
    """Remove what runs have left that were killed: nobody holds a lock on it."""
    for left in store.glob("run-*"):
        try:
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if time.time() - os.fstat(descriptor).st_mtime > 60:  # between mkdtemp() and its lock
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(descriptor)
