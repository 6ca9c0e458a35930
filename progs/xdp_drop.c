/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Drops every packet that the filter matches, and counts: the upper bound for every receiver. */
#include <uapi/linux/bpf.h>
#include "xsk_filter.h"

struct counters {
	u64 dropped; /* the filter matched */
	u64 passed;  /* it did not match: on to the kernel */
};

BPF_PERCPU_ARRAY(counters, struct counters, 1);

int xdp_drop(struct xdp_md *ctx)
{
	int zero = 0;
	struct counters *count = counters.lookup(&zero);

	if (!count)
		return XDP_PASS;
	if (!match(ctx)) {
		count->passed++;
		return XDP_PASS;
	}
	count->dropped++;
	return XDP_DROP;
}
