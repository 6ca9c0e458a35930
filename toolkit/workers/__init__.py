# SPDX-License-Identifier: Apache-2.0
"""Receive with many cores: one process for each queue, and one XDP program with its maps for all of them.

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

The parent compiles and attaches the program. The attachment and the workers end with the parent.
"""

from __future__ import annotations

from toolkit.workers.child import Worker, current
from toolkit.workers.errors import WorkerError
from toolkit.workers.pool import Workers

__all__ = ["Worker", "WorkerError", "Workers", "current"]
