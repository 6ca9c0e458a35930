# SPDX-License-Identifier: Apache-2.0
"""Many queues, many cores: one process for each queue, one XDP program and its maps for all of them.

    def count(eth0):                                    # runs in every worker, on an Interface over its queues
        packets = 0
        while batch := eth0.receive():                  # empty when the workers are to stop
            packets += len(batch)
            current().report(packets)                    # Workers.reports shows it to the parent while the work goes on
        return packets

    if __name__ == "__main__":
        with Workers("eth0", count, filter="udp port 9") as workers:
            time.sleep(10)
            workers.stop()
            print(sum(workers.results()))

The parent compiles and attaches the program; the attachment is its alone and ends with it, and so do the workers.
"""

from __future__ import annotations

from toolkit.workers.child import Worker, current
from toolkit.workers.errors import WorkerError
from toolkit.workers.pool import Workers

__all__ = ["Worker", "WorkerError", "Workers", "current"]
