# SPDX-License-Identifier: Apache-2.0
"""How a thread waits for packets: poll, busy-poll, spin, asyncio, and the delays that let batches grow. Private."""
