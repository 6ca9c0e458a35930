# SPDX-License-Identifier: Apache-2.0
"""One process a queue: every packet in one worker, results merged, and workers that die take nobody along."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import worker_jobs

import toolkit
from toolkit.errors import ArgumentError, ClosedError, SystemCallError
from toolkit.lab import Lab
from toolkit.program import attached, xdp_links
from toolkit.workers import WorkerError, Workers, current

from support import child_environment, eventually, run_child  # isort: skip

MANY_CPUS = len(os.sched_getaffinity(0)) > 1
two_cpus = pytest.mark.skipif(not MANY_CPUS, reason="a veth fills two queues from two CPUs only")


@pytest.fixture
def wide(make_lab: Callable[..., Lab]) -> Lab:
    """A cable with two queues."""
    return make_lab(queues=2)


@pytest.fixture
def start(wide: Lab) -> Iterator[Callable[..., Workers]]:
    """Start workers on the wide cable: all packets, two workers, unless told otherwise. Closed with the test."""
    made: list[Workers] = []

    def begin(work: Callable[..., Any] = worker_jobs.count, **options: Any) -> Workers:
        if "program" not in options:
            options.setdefault("filter", "udp")
        made.append(Workers(wide.interface, work, **{"workers": 2, "netns": wide.netns, "ring_size": 2048, **options}))
        return made[-1]

    yield begin
    for one in made:
        one.close()


def send(lab: Lab, *, queue: int, count: int, rate: float = 50_000) -> int:
    """Send `count` frames to a queue of the near end; how many really went out."""
    with lab.generator(count=count, rate=rate, cpu=queue) as generator:
        report = generator.wait(20)
    assert report.lost == 0
    return int(report.sent)


def gone(pid: int | None) -> bool:
    """Whether a process has ended (a zombie has, too)."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def is_attached(lab: Lab) -> bool:
    with lab.netns.entered():
        import socket

        return attached(socket.if_nametoindex(lab.interface)) is not None


# --- the good day ---------------------------------------------------------------------------------------------------


@two_cpus
def test_every_packet_is_received_by_the_worker_of_its_queue(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(cpus=[0, 1])
    assert [send(wide, queue=0, count=3000), send(wide, queue=1, count=5000)] == [3000, 5000]
    workers.stop()
    first, second = workers.results(timeout=10)
    assert (first["queues"], second["queues"]) == ({0: 3000}, {1: 5000})
    assert first["pid"] != second["pid"] != os.getpid()
    assert (first["cpus"], second["cpus"]) == ([0], [1])
    assert workers.counters()["redirected"] == 8000
    assert workers.told[:, 0].tolist() == [3000, 5000]


@two_cpus
def test_a_flood_on_both_queues_reconciles_to_the_packet(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.fast)
    with wide.generator(seconds=0.5, cpu=0) as first, wide.generator(seconds=0.5, cpu=1) as second:
        sent = first.wait(10).sent + second.wait(10).sent
    workers.stop()
    results = workers.results(timeout=10)
    redirected = workers.counters()["redirected"]
    assert sum(received + dropped for received, dropped, _ in results) == redirected
    assert 0 < redirected <= sent
    assert all(received > 0 for received, _, _ in results)


def test_stop_under_fire_reconciles(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start()
    with wide.generator(cpu=0):
        time.sleep(0.2)
        workers.stop()
        results = workers.results(timeout=10)
    assert sum(one["received"] + one["dropped"] for one in results) == workers.counters()["redirected"] > 0
    assert all(one["stopping"] for one in results)


def test_work_that_looks_at_the_flag_has_received_everything(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.slowly_until_told)
    send(wide, queue=0, count=1000, rate=1_000_000)
    workers.stop()
    results = workers.results(timeout=10)
    assert sum(results) == workers.counters()["redirected"] == 1000


def test_payloads_arrive_whole_and_once(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.payloads)
    sent = [f"datagram {number}".encode() for number in range(500)]
    assert wide.udp(sent, rate=20_000) == 500
    time.sleep(0.1)
    workers.stop()
    seen = [packet[42 : 42 + len(b"datagram 0") + 2].rstrip(b"\0") for one in workers.results(10) for packet in one]
    assert sorted(seen) == sorted(sent)


def test_packets_of_several_frames_arrive_whole(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(mtu=9000)
    sent = [bytes([i]) * length for i, length in enumerate((10, 3900, 8972))]
    with Workers(lab.interface, worker_jobs.payloads, filter="udp", netns=lab.netns, ring_size=256) as workers:
        lab.udp(sent)
        assert eventually(lambda: workers.counters()["redirected"] == 3)
        workers.stop()
        (seen,) = workers.results(10)
    assert [packet[42:] for packet in seen] == sent


def test_one_worker_serves_several_queues(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(queues=4)
    with Workers(lab.interface, worker_jobs.count, filter="udp", workers=2, netns=lab.netns, ring_size=1024) as workers:
        assert workers.queues == ((0, 2), (1, 3))
        assert workers.info()["queues"] == [0, 1, 2, 3]
        assert workers.info()["frames"] == 4 * 1280
        lab.udp(count=100)
        time.sleep(0.1)
        workers.stop()
        assert sum(one["received"] for one in workers.results(10)) == 100


def test_a_program_of_ones_own_is_used_and_stays_open(
    wide: Lab, start: Callable[..., Workers], program: toolkit.Program
) -> None:
    workers = start(program=program)
    wide.udp(count=50)
    time.sleep(0.1)
    workers.stop()
    assert sum(one["received"] for one in workers.results(10)) == 50
    workers.close()
    assert not program.closed
    assert program.counters["redirected"] == 50
    assert not is_attached(wide)


def test_futures_go_with_concurrent_futures(start: Callable[..., Workers]) -> None:
    workers = start()
    with pytest.raises(TimeoutError, match="2 of 2 workers have not ended"):
        workers.results(timeout=0.05)
    workers.stop()
    numbers = {future.result()["number"] for future in concurrent.futures.as_completed(workers.futures, timeout=10)}
    assert numbers == {0, 1}
    assert workers.alive == 0


def test_nothing_is_left_after_close(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start()
    pids = workers.pids
    assert is_attached(wide)
    assert "2 of 2 at work, native" in repr(workers)
    workers.close()
    workers.close()
    assert not is_attached(wide)
    assert all(gone(pid) for pid in pids)
    assert "closed" in repr(workers)
    with pytest.raises(ClosedError):
        workers.stop()
    with toolkit.open(wide.interface, filter="udp", netns=wide.netns):  # the queues are free
        pass


def test_this_process_is_no_worker() -> None:
    assert current() is None


# --- bad days -------------------------------------------------------------------------------------------------------


@two_cpus
def test_a_killed_worker_takes_nobody_along(
    wide: Lab, start: Callable[..., Workers], caplog: pytest.LogCaptureFixture
) -> None:
    workers = start()
    assert send(wide, queue=0, count=100) == 100
    eventually(lambda: workers.told[0, 0] == 100)
    victim = workers.pids[0]
    assert victim is not None
    with caplog.at_level(logging.WARNING, logger="toolkit.workers"):
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"worker 0 of veth0 \(queues 0; pid \d+\) was killed by SIGKILL"):
            workers.futures[0].result(timeout=5)
    assert "was killed by SIGKILL" in caplog.text
    assert workers.alive == 1
    before = workers.counters()
    # Its XSKMAP entry went with its socket: the kernel gets what it would have got; the other worker is not disturbed.
    assert send(wide, queue=0, count=200) == 200
    assert send(wide, queue=1, count=300) == 300
    workers.stop()
    after = workers.counters()
    assert after["no_socket"] - before["no_socket"] == 200
    assert after["redirected"] - before["redirected"] == 300
    assert workers.futures[1].result(timeout=5)["queues"] == {1: 300}
    assert workers.told[0, 0] == 100  # what it had told is not lost
    with pytest.raises(WorkerError, match="SIGKILL"):
        workers.results(timeout=5)


@two_cpus
def test_an_exception_in_a_worker_is_its_own(
    wide: Lab, start: Callable[..., Workers], caplog: pytest.LogCaptureFixture
) -> None:
    workers = start(worker_jobs.raise_in_first)
    send(wide, queue=0, count=1)
    with pytest.raises(ZeroDivisionError, match="on purpose") as raised:
        workers.futures[0].result(timeout=5)
    assert "raise_in_first" in str(raised.value.__cause__)  # the worker's own traceback
    assert "on purpose" in caplog.text
    eventually(lambda: gone(workers.pids[0]))
    before = workers.counters()
    send(wide, queue=0, count=70)
    send(wide, queue=1, count=90)
    workers.stop()
    assert workers.counters()["no_socket"] - before["no_socket"] == 70
    assert workers.futures[1].result(timeout=5)["queues"] == {1: 90}


def test_a_result_that_cannot_travel_is_an_error_not_a_hang(start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.unpicklable)
    workers.stop()
    with pytest.raises(Exception, match=r"pickle|local object"):
        workers.results(timeout=5)


def test_a_worker_that_leaves_without_a_word(start: Callable[..., Workers]) -> None:
    workers = start(worker_jobs.exit_at_once)
    with pytest.raises(WorkerError, match="ended with status 7 and no result"):
        workers.results(timeout=5)


def test_sigterm_ends_one_worker_with_its_result_under_fire(wide: Lab, start: Callable[..., Workers]) -> None:
    workers = start()
    with wide.generator(rate=100_000, cpu=0):
        assert eventually(lambda: workers.told[0, 0] > 1000)
        assert workers.pids[0] is not None
        os.kill(workers.pids[0], signal.SIGTERM)
        result = workers.futures[0].result(timeout=3)
        # Its queue was taken out of the map first, and the kernel gets the packets: nothing is in flight.
        assert result["received"] + result["dropped"] == workers.counters()["redirected"]
        assert result["stopping"] is True
    assert workers.alive == 1
    assert workers.counters()["no_socket"] > 0


def test_close_kills_what_does_not_return(
    wide: Lab, start: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.workers.pool._CLOSE_PATIENCE", 0.3)
    workers = start(worker_jobs.never_return)
    pids = workers.pids
    workers.close()
    assert all(gone(pid) for pid in pids)
    assert not is_attached(wide)


def test_forgotten_workers_end(start: Callable[..., Workers], wide: Lab) -> None:
    workers = Workers(wide.interface, worker_jobs.count, filter="udp", workers=2, netns=wide.netns, ring_size=1024)
    pids = workers.pids
    del workers
    gc.collect()
    assert eventually(lambda: all(gone(pid) for pid in pids))
    assert not is_attached(wide)


def test_what_a_worker_refuses_at_the_start_is_raised_and_undone(wide: Lab, start: Callable[..., Workers]) -> None:
    with pytest.raises(SystemCallError, match="zero-copy"):
        start(zero_copy=True)
    assert not is_attached(wide)
    gc.collect()
    before = sum(isinstance(one, Workers) for one in gc.get_objects())
    with pytest.raises(TypeError, match="no_such_option"):
        start(no_such_option=1)
    gc.collect()
    assert sum(isinstance(one, Workers) for one in gc.get_objects()) == before  # the error keeps nothing alive
    # One queue is taken: the worker that could bind goes as well.
    with (
        toolkit.Socket(wide.interface, 1, netns=wide.netns),
        pytest.raises(SystemCallError, match="queue 1 of veth0"),
    ):
        start()
    assert not is_attached(wide)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 3}, "3 workers for 2 queue"),
        ({"workers": 0}, "0 workers"),
        ({"filter": None}, "say what to take"),
        ({"cpus": [0]}, "a CPU for each of 2 workers"),
        ({"cpus": [0, 4095]}, "4095"),
        ({"work": lambda interface: None}, "top level of a module"),
    ],
)
def test_arguments_are_checked_before_anything_starts(
    wide: Lab, start: Callable[..., Workers], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        start(**options)
    assert not is_attached(wide)


SCRIPT = """
    import os, signal, sys, time
    import worker_jobs
    from toolkit.lab import Lab
    from toolkit.workers import Workers
    if __name__ == "__main__":
        with Lab(queues=2) as lab:
            with Workers(lab.interface, worker_jobs.{work}, filter="udp", workers=2, netns=lab.netns) as workers:
                print(workers.link.id, *workers.pids, flush=True)
                try:
                    {body}
                except KeyboardInterrupt:
                    workers.stop()
                    print("results", len(workers.results(10)), flush=True)
"""


@pytest.mark.parametrize("body", ["time.sleep(60)", "workers.results()"])
def test_ctrl_c_reaches_all_processes_and_ends_them_cleanly(body: str, tmp_path: Any) -> None:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).format(work="count", body=body))
    process = subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    _, *pids = map(int, process.stdout.readline().split())
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to the workers as well
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "results 2" in out
    assert "Traceback" not in err
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("work", ["count", "never_return"])
def test_a_killed_parent_leaves_no_worker_and_no_program(work: str, tmp_path: Any) -> None:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).format(work=work, body="time.sleep(60)"))
    process = subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env=child_environment(), start_new_session=True
    )
    assert process.stdout is not None
    link, *pids = map(int, process.stdout.readline().split())
    assert link in {one.id for one in xdp_links()}
    process.kill()
    process.communicate()
    assert eventually(lambda: all(gone(pid) for pid in pids))
    assert eventually(lambda: link not in {one.id for one in xdp_links()})


def test_workers_that_were_never_closed_do_not_hang_the_exit() -> None:
    run_child(
        """
        import worker_jobs
        from toolkit.lab import Lab
        from toolkit.workers import Workers
        if __name__ == "__main__":
            lab = Lab(queues=2)
            workers = Workers(lab.interface, worker_jobs.count, filter="udp", workers=2, netns=lab.netns)
        """,
        timeout=30,
    )


def test_a_fork_of_the_parent_leaves_the_workers_alone() -> None:
    out = run_child(
        """
        import os, sys, time
        import worker_jobs
        from toolkit.lab import Lab
        from toolkit.workers import Workers
        if __name__ == "__main__":
            with Lab(queues=2) as lab:
                with Workers(lab.interface, worker_jobs.count, filter="udp", workers=2, netns=lab.netns) as workers:
                    child = os.fork()
                    if child == 0:
                        try:
                            workers.stop()
                        except ValueError as dead:
                            print("in the child:", dead, flush=True)
                        workers.close()
                        sys.exit(0)  # with all its exit handlers
                    assert os.waitpid(child, 0)[1] == 0
                    lab.udp(count=20)
                    time.sleep(0.1)
                    print("alive", workers.alive, flush=True)
                    workers.stop()
                    print("received", sum(one["received"] for one in workers.results(10)))
        """,
        timeout=30,
    )
    assert "in the child: the workers of veth0 are dead" in out
    assert "alive 2" in out
    assert "received 20" in out


MAIN = """
    import os
    from toolkit.lab import Lab
    from toolkit.workers import Workers
    def work(interface):
        while interface.receive():
            pass
        return __name__, os.getpid()
    def begin():
        with Lab(queues=2) as lab, Workers(lab.interface, work, filter="udp", workers=2, netns=lab.netns) as workers:
            workers.stop()
            results = workers.results(10)
            assert len({pid for _, pid in results} | {os.getpid()}) == 3
            print(results[0][0])
"""


def test_work_defined_in_a_script_is_found_there(tmp_path: Any) -> None:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(MAIN) + '\nif __name__ == "__main__":\n    begin()\n')
    for arguments, options in (([str(path)], {}), (["-m", "script"], {"cwd": tmp_path})):
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            env=child_environment(),
            timeout=60,
            check=False,
            **options,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "__toolkit_main__"


def test_a_script_without_the_main_guard_is_told_so(tmp_path: Any) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text(textwrap.dedent(MAIN) + "\nbegin()\n")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=child_environment(), timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__"' in done.stderr.strip().splitlines()[-1]


def test_work_of_an_interactive_session_is_refused_in_words() -> None:
    run_child(
        """
        import pytest
        from toolkit.workers import Workers
        def work(interface): pass
        with pytest.raises(ValueError, match="interactive session or notebook"):
            Workers("veth0", work, filter="udp")
        """
    )


# --- xsk receive --workers ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def receiving(lab: Lab, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `xsk receive --workers 2` until its workers are at work: a second after it is attached."""
    process: subprocess.Popen[str] = lab.netns.popen(
        [sys.executable, "-m", "toolkit.cli", "receive", "veth0", "--filter", "udp", "--workers", "2", *arguments],
        env=child_environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Attached comes first; each worker then enters its socket in the map, and the last datagrams of one round
        # are redirected once all have.
        assert eventually(lambda: is_attached(lab), timeout=20)
        assert eventually(lambda: len(children(process.pid)) == 2, timeout=20)
        time.sleep(1.5)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        own = [int(word) for word in file.read().split()]
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            own += [int(word) for word in file.read().split()]
    return sorted(set(own))


@two_cpus
def test_the_command_merges_and_reconciles(wide: Lab) -> None:
    with receiving(wide, "--json") as process:
        sent = send(wide, queue=0, count=4000) + send(wide, queue=1, count=6000)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["received"] == report["redirected"] == sent == 10_000
    assert report["received_bytes"] == 64 * sent
    assert report["workers"] == [[0], [1]]
    assert (report["dropped"], report["failed_workers"]) == (0, [])


@two_cpus
def test_the_command_shows_rates_and_goes_on_without_a_killed_worker(wide: Lab) -> None:
    with receiving(wide) as process:
        send(wide, queue=0, count=500)
        time.sleep(0.3)
        victim = children(process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        # Reaped, not just a zombie: that is when its last thread, and with it its socket, is gone.
        assert eventually(lambda: not os.path.exists(f"/proc/{victim}"))
        send(wide, queue=0, count=100)
        send(wide, queue=1, count=100)
        time.sleep(1.2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "was killed by SIGKILL" in err
    assert "Traceback" not in err
    assert "workers: " in out
    assert "100 for want of a worker" in out
    assert "redirected 600 = received 600 + dropped 0 + with failed workers 0" in out


def test_the_command_stops_after_count_and_refuses_hex(wide: Lab) -> None:
    with receiving(wide, "--count", "50", "--json") as process:
        wide.udp(count=200, rate=1000)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert 50 <= json.loads(out)["received"] <= 200
    done = wide.netns.run(
        [sys.executable, "-m", "toolkit.cli", "receive", "veth0", "-f", "udp", "--workers", "2", "-x"],
        env=child_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 2
    assert "--workers" in done.stderr


def test_the_command_says_that_the_interface_vanished(wide: Lab) -> None:
    with receiving(wide) as process:
        wide.delete_interface()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "deleted" in err
    assert "Traceback" not in err
