# SPDX-License-Identifier: Apache-2.0
"""replace=: a firewall that was attached by netlink drops again at the end, whatever happened meanwhile."""

from __future__ import annotations

import gc
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import toolkit
from tests.helpers import worker_jobs
from tests.helpers.firewalls import by_netlink, drops, own_places, present
from tests.helpers.wire import eventually, run_child, what_runs
from toolkit._base import records
from toolkit.abi import libbpf as abi
from toolkit.errors import ArgumentError, SystemCallError
from toolkit.lab import Lab
from toolkit.program import Program, pins
from toolkit.program.replaced import left, repair
from toolkit.workers import Workers


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pins and records of this test alone."""
    with own_places(tmp_path, monkeypatch):
        yield


@pytest.fixture(autouse=True)
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged since the last call."""
    caplog.set_level(logging.WARNING, "toolkit.replaced")

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "toolkit.replaced"]
        caplog.clear()
        return found

    return lines


def opened(lab: Lab, **options: Any) -> toolkit.Interface:
    return toolkit.open("veth0", filter="udp port 9", ring_size=64, netns=lab.netns, **{"replace": True, **options})


def repaired(lab: Lab) -> list[str]:
    with lab.netns.entered():
        return [outcome for _, outcome in repair()]


@pytest.mark.parametrize("how", ["close", "exception", "forgotten", "tee"])
@pytest.mark.parametrize("mode", [abi.XDP_FLAGS_DRV_MODE, abi.XDP_FLAGS_SKB_MODE])
def test_the_firewall_drops_again(lab: Lab, said: Callable[[], list[str]], how: str, mode: int) -> None:
    number = by_netlink(lab, mode)
    before = present(lab)
    assert drops(lab)
    make = toolkit.tee if how == "tee" else toolkit.open
    opened: Any = make("veth0", filter="udp port 9", replace=True, netns=lab.netns)
    assert opened.info()["replaced"] == {
        "id": number,
        "name": "firewall",
        "mode": "native" if mode == abi.XDP_FLAGS_DRV_MODE else "generic",
        "comes_back": True,
    }
    assert said() == [f"veth0: took off {before}; it is put back at the end"]
    assert not drops(lab)
    if how == "exception":
        with pytest.raises(RuntimeError), opened:
            raise RuntimeError
    elif how == "forgotten":
        del opened
        gc.collect()
    else:
        opened.close()
        opened.close()
    (line,) = said()
    assert line == f"veth0: program {number} (firewall), {before.mode if before else ''}, is back on veth0"
    assert present(lab) == before
    assert drops(lab)


def test_workers_put_it_back_as_well(lab: Lab) -> None:
    by_netlink(lab)
    with Workers(lab.interface, worker_jobs.count, filter="udp", workers=1, replace=True, netns=lab.netns) as workers:
        assert workers.link.replaced is not None
        assert not drops(lab)
        workers.stop()
        workers.results(10)
    assert drops(lab)


def test_nothing_to_replace_is_nothing_to_put_back(lab: Lab, said: Callable[[], list[str]]) -> None:
    with opened(lab) as interface:
        assert interface.info()["replaced"] is None
    assert said() == []
    assert present(lab) is None


def test_an_opening_that_fails_puts_it_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("later")

    by_netlink(lab)
    monkeypatch.setattr(Program, "register", fail)
    with pytest.raises(RuntimeError, match="later"):
        opened(lab)
    assert drops(lab)


HOLDS = """
from toolkit.program import Program
program = Program.build("xdp_pass.c")
link = program.attach("veth0")
print(program.id, link.id, flush=True)
input()
"""


def test_what_a_link_of_another_process_holds_needs_to_be_named(lab: Lab, said: Callable[[], list[str]]) -> None:
    with lab.netns.popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        program, link = map(int, holder.stdout.readline().split())
        with pytest.raises(SystemCallError, match=r'link holds it.*cannot be put back.*replace="link"') as refused:
            opened(lab)
        assert refused.value.errno == 16
        assert f"program {program} " in str(what_runs(lab))
        with opened(lab, replace="link") as interface:
            assert interface.info()["replaced"]["comes_back"] is False
            (line,) = said()
            assert f"took off program {program} (xdp_pass), native, held by link {link}, for good" in line
        assert present(lab) is None
        holder.stdin.close()
        assert holder.wait(20)  # not 0: input() ends with EOFError
    with pytest.raises(ArgumentError, match="replace cannot be 'all'"):
        opened(lab, replace="all")


def test_what_this_process_holds_is_to_be_closed(lab: Lab) -> None:
    with Program.build("xdp_pass.c") as other:
        link = other.attach("veth0", netns=lab.netns)
        with pytest.raises(SystemCallError, match=r"this process holds it.*close\(\) the") as refused:
            opened(lab)
        assert refused.value.errno == 16
        assert link.attached
        with opened(lab, replace="link"):
            assert not link.attached


def test_a_program_of_somebody_s_own_meanwhile_stays(lab: Lab, said: Callable[[], list[str]]) -> None:
    first = by_netlink(lab)
    with opened(lab) as interface:
        said()
        interface.detach()
        # Its end put the first one back; an administrator puts another in its place, then ours goes on to its end.
        assert [line for line in said() if "is back" in line]
    assert present(lab) is not None
    with lab.netns.entered():
        index = socket.if_nametoindex("veth0")
        assert abi.libbpf().bpf_xdp_detach(index, abi.XDP_FLAGS_DRV_MODE, None) == 0
    second = by_netlink(lab)
    with opened(lab) as interface:
        abi.libbpf().bpf_link_detach(interface.link.fd)  # xsk detach --force, and then
        third = by_netlink(lab, text=XDP_PASS)
        said()
    (line,) = said()
    assert f"program {second} (firewall), native, is not put back: somebody attached program {third}" in line
    found = present(lab)
    assert found is not None
    assert found.program.id == third
    assert first != second


XDP_PASS = "#include <uapi/linux/bpf.h>\nint theirs(struct xdp_md *ctx) { return XDP_PASS; }\n"


def test_put_back_by_hand_meanwhile(lab: Lab, said: Callable[[], list[str]]) -> None:
    number = by_netlink(lab)
    with opened(lab) as interface:
        abi.libbpf().bpf_link_detach(interface.link.fd)
        fd = abi.libbpf().bpf_prog_get_fd_by_id(number)
        with lab.netns.entered():
            assert abi.libbpf().bpf_xdp_attach(socket.if_nametoindex("veth0"), fd, abi.XDP_FLAGS_DRV_MODE, None) == 0
        os.close(fd)
    assert "is on veth0 already" in said()[-1]
    assert drops(lab)


@pytest.mark.parametrize("first", ["lower", "upper"])
def test_two_replacers_one_upon_the_other(lab: Lab, said: Callable[[], list[str]], first: str) -> None:
    by_netlink(lab)
    lower = opened(lab)
    upper = toolkit.tee("veth0", filter="udp port 9", replace="link", netns=lab.netns)
    said()
    if first == "lower":
        lower.close()
        (line,) = said()
        assert "is not back yet: program" in line
        assert f"program {upper.program.id} " in str(what_runs(lab))
        upper.close()
    else:
        upper.close()
        assert present(lab) is None  # the lower one, which is open, has it still
        lower.close()
    assert "is back on veth0" in said()[-1]
    assert drops(lab)


def test_one_that_replaced_nothing_makes_room_as_well(lab: Lab, said: Callable[[], list[str]]) -> None:
    """It came when the place was free, as when two are started at once; the first then could not put it back."""
    by_netlink(lab)
    first = opened(lab)
    abi.libbpf().bpf_link_detach(first.link.fd)
    with Program.build("xdp_pass.c") as program:
        second = program.attach("veth0", netns=lab.netns)
        first.close()
        assert "is not back yet: program" in said()[-1]
        second.close()
        assert [line.endswith("is back on veth0") for line in said()] == [True]
        second.close()
        assert said() == []
    assert drops(lab)


def test_a_deleted_interface(lab: Lab, said: Callable[[], list[str]]) -> None:
    by_netlink(lab)
    with opened(lab):
        said()
        lab.delete_interface()
    (line,) = said()
    assert "the interface is gone from this network namespace. If it was moved to another one" in line


def test_a_renamed_interface(lab: Lab, said: Callable[[], list[str]]) -> None:
    by_netlink(lab)
    with opened(lab):
        lab.netns.run(["ip", "link", "set", "dev", "veth0", "down"], check=True)
        lab.netns.run(["ip", "link", "set", "dev", "veth0", "name", "inside"], check=True)
    assert "is back on inside" in said()[-1]
    found = present(lab, "inside")
    assert found is not None
    assert found.program.name == "firewall"


def test_a_program_that_does_not_go_on_again_is_kept(
    make_lab: Callable[..., Lab], said: Callable[[], list[str]]
) -> None:
    """The MTU is too large for it now: another time, then."""
    lab = make_lab()
    by_netlink(lab)
    with opened(lab, mode="generic", frags=False):
        set_mtu(lab, 9000)
        said()
    assert "could not be put back on veth0: " in said()[-1]
    assert present(lab) is None
    with lab.netns.entered():
        assert [record.alive for record in left()] == [False]
    set_mtu(lab, 1500)
    assert repaired(lab) == ["is back on veth0"]
    assert drops(lab)


def set_mtu(lab: Lab, mtu: int) -> None:
    for end, name in ((lab.far, "veth1"), (lab.netns, "veth0")):
        end.run(["ip", "link", "set", "dev", name, "mtu", str(mtu)], check=True)


def test_repair_is_for_this_namespace_and_for_the_dead(lab: Lab) -> None:
    by_netlink(lab)
    with opened(lab) as interface:
        assert repaired(lab) == []  # its owner lives
        (record,) = records.Records("program").all()
        records.Records("program").write(record._replace(started=record.started - 1))  # now it does not
        assert repair() == []  # of another namespace
        assert repaired(lab)[0].startswith("is not back yet")
        interface.detach()
    assert drops(lab)


def test_a_forked_child_puts_nothing_back(lab: Lab) -> None:
    by_netlink(lab)
    with opened(lab) as interface:
        child = os.fork()
        if child == 0:
            try:
                interface.close()
                interface.link.close()
            finally:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert f"program {interface.program.id} " in str(what_runs(lab))
        with lab.netns.entered():
            assert [record.alive for record in left()] == [True]  # it is the parent's still
    assert drops(lab)


@pytest.mark.parametrize("replace", [False, True])
def test_after_kill_the_next_to_open_puts_it_back(lab: Lab, said: Callable[[], list[str]], replace: bool) -> None:
    number = by_netlink(lab)
    netns = lab.netns.fileno()
    run_child(
        f"""
        import os, signal, toolkit
        from pathlib import Path
        from toolkit._base import records
        from toolkit.program import pins
        records.DIRECTORY, pins.DIRECTORY = {str(records.DIRECTORY)!r}, {str(pins.DIRECTORY)!r}
        class Given:
            def fileno(self):
                return {netns}
        interface = toolkit.open("veth0", filter="udp port 9", ring_size=64, replace=True, netns=Given())
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        status=-9,
        pass_fds=[netns],
    )
    assert eventually(lambda: present(lab) is None)
    if replace:
        with opened(lab):
            assert said()[0] == f"veth0: program {number} (firewall), native, is back on veth0"
    else:
        with pytest.raises(SystemCallError, match=rf"program {number} \(firewall\), native, held by netlink"):
            opened(lab, replace=False)
    assert drops(lab)


def test_without_a_place_to_pin_nothing_is_taken_off(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    by_netlink(lab)
    bpffs = pins.DIRECTORY
    plain, missing = tmp_path / "plain", tmp_path / "missing" / "afxdp-toolkit"
    for place in (plain, missing):
        monkeypatch.setattr(pins, "DIRECTORY", place)
        with pytest.raises(SystemCallError, match=r"BPF file system.*Next step: mount -t bpf bpf "):
            opened(lab)
        assert drops(lab)
    monkeypatch.setattr(pins, "DIRECTORY", bpffs)
    bpffs.mkdir(exist_ok=True)
    bpffs.chmod(0o777)
    with pytest.raises(SystemCallError, match="others may write to"):
        opened(lab)
    assert drops(lab)
    bpffs.chmod(0o700)


def test_a_pin_that_somebody_removed_is_not_missed(lab: Lab, said: Callable[[], list[str]]) -> None:
    """As when the BPF file system is unmounted meanwhile: this process holds the program itself."""
    by_netlink(lab)
    before = present(lab)
    with opened(lab):
        (pin,) = Path(pins.DIRECTORY).iterdir()
        pin.unlink()
    assert "is back on veth0" in said()[-1]
    assert present(lab) == before
    assert drops(lab)


def test_a_program_attached_by_ip(lab: Lab, said: Callable[[], list[str]]) -> None:
    """The ordinary way: iproute2 attaches a pinned program by netlink."""
    pinned = Path(pins.DIRECTORY).parent / "firewall"
    with Program.build(XDP_PASS) as program:
        assert abi.libbpf().bpf_obj_pin(program.fd, os.fsencode(pinned)) == 0
    try:
        command = ["ip", "link", "set", "dev", "veth0", "xdpdrv", "pinned", str(pinned)]
        done = lab.netns.run(command, capture_output=True, text=True)
        if done.returncode:
            version = lab.netns.run(["ip", "-V"], capture_output=True, text=True).stdout
            assert "libbpf" not in version, done.stderr
            pytest.skip(f"this ip is built without libbpf, and so takes no pinned program: {version.strip()}")
        before = present(lab)
        assert before is not None
        with opened(lab):
            assert f"program {before.program.id} " not in str(what_runs(lab))
        assert present(lab) == before
    finally:
        pinned.unlink()
