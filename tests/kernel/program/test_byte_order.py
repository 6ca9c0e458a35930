# SPDX-License-Identifier: Apache-2.0
"""Programs may call htons() and its three sisters, and C's memory functions, without an #include: run by the kernel."""

from __future__ import annotations

import struct

from toolkit.program import Program

XDP_DROP, XDP_PASS = 1, 2

PROGRAM = """
#include <uapi/linux/if_ether.h>

int mine(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	u32 *word = (void *)(eth + 1);
	struct ethhdr copy;

	if ((void *)(word + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	memcpy(&copy, eth, sizeof(copy));
	switch (copy.h_proto) {
	case htons(ETH_P_IPV6):
		return ntohs(copy.h_proto) == ETH_P_IPV6 && *word == htonl(0x01020304) ? XDP_DROP : XDP_ABORTED;
	default:
		return ntohl(*word) == 0x01020304 ? XDP_PASS : XDP_ABORTED;
	}
}
"""


def test_byte_order() -> None:
    with Program.build(PROGRAM) as program:
        for kind, verdict in ((0x86DD, XDP_DROP), (0x0800, XDP_PASS)):
            packet = struct.pack("!12xHI", kind, 0x01020304) + bytes(46)
            assert program.test_run(packet) == (verdict, packet)
