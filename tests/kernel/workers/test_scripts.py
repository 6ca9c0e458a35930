# SPDX-License-Identifier: Apache-2.0
"""Scripts with Workers: interrupted, killed, forked, ended without closing, and where their work is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from tests.helpers.wire import child_environment, eventually, run_child
from tests.helpers.workers import gone
from toolkit.program import xdp_links

SCRIPT = """
    import os, signal, sys, time
    from tests.helpers import worker_jobs
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


@pytest.mark.timing("a process gets 0.2 s to come to where it waits")
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
        from tests.helpers import worker_jobs
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
        from tests.helpers import worker_jobs
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
                    while workers.counters()["redirected"] < 20:
                        time.sleep(0.01)
                    print("alive", workers.alive, flush=True)
                    workers.stop()
                    print("received", sum(one["received"] for one in workers.results(10)))
        """,
        timeout=30,
    )
    assert "in the child: the pool of workers of veth0 is dead" in out
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


def test_a_script_without_the_main_guard_is_reported(tmp_path: Any) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text(textwrap.dedent(MAIN) + "\nbegin()\n")
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=child_environment(), timeout=60, check=False
    )
    assert done.returncode == 1
    assert 'if __name__ == "__main__"' in done.stderr.strip().splitlines()[-1]


def test_work_of_an_interactive_session_is_refused_with_the_reason() -> None:
    run_child(
        """
        import pytest
        from toolkit.workers import Workers
        def work(interface): pass
        with pytest.raises(ValueError, match="interactive session or notebook"):
            Workers("veth0", work, filter="udp")
        """
    )
