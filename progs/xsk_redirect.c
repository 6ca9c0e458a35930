/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Packets that the filter matches go to the AF_XDP socket of their queue; everything else goes on to the kernel.
 *
 * In front of each redirected packet stands when and where it arrived (struct xsk_meta; the same layout is in
 * toolkit/abi/xsk_meta.py). A copy-mode or zero-copy socket delivers those bytes just below the packet's address.
 */
#include <uapi/linux/bpf.h>
#include "xsk_filter.h"

#ifndef QUEUES
#define QUEUES 256
#endif

#define XSK_META_MAGIC 0x58445021 /* "XDP!": without it the bytes before a packet are left-overs */

struct xsk_meta {
	u64 time;  /* ns, CLOCK_MONOTONIC */
	u32 magic; /* XSK_META_MAGIC */
	u32 queue; /* the receive queue */
};

/* Every packet is counted once as redirected, passed or no_socket; untimed ones are redirected ones too. */
struct counters {
	u64 redirected; /* handed to a socket */
	u64 passed;     /* the filter did not match: on to the kernel */
	u64 no_socket;  /* the filter matched, but no socket is registered for the queue: on to the kernel */
	u64 untimed;    /* redirected without a struct xsk_meta: the driver leaves no room for one */
};

BPF_XSKMAP(xsks_map, QUEUES);
BPF_PERCPU_ARRAY(counters, struct counters, 1);

int xsk_redirect(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(unsigned long)ctx->data;
	u8 *data_end = (u8 *)(unsigned long)ctx->data_end;
	int queue = ctx->rx_queue_index;
	int zero = 0;
	struct counters *count = counters.lookup(&zero);
	struct xsk_meta *meta;
	bool timed = false;

	if (!count)
		return XDP_PASS;
	if (!match(data, data_end)) {
		count->passed++;
		return XDP_PASS;
	}
	/* Asked before anything is put in front of the packet: the kernel gets what it did not lose untouched. */
	if (!xsks_map.lookup(&queue)) {
		count->no_socket++;
		return XDP_PASS;
	}
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)) == 0) {
		/* The helper moved data_meta: pointers read before it are void to the verifier. */
		meta = (struct xsk_meta *)(unsigned long)ctx->data_meta;
		data = (u8 *)(unsigned long)ctx->data;
		if ((u8 *)(meta + 1) <= data) {
			meta->time = bpf_ktime_get_ns();
			meta->magic = XSK_META_MAGIC;
			meta->queue = queue;
			timed = true;
		}
	}
	/* XDP_PASS is for a socket that went away since the lookup. */
	if (xsks_map.redirect_map(queue, XDP_PASS) != XDP_REDIRECT) {
		count->no_socket++;
		return XDP_PASS;
	}
	count->redirected++;
	if (!timed)
		count->untimed++;
	return XDP_REDIRECT;
}
