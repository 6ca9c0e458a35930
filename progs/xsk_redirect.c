/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Packets that a rule takes go to the AF_XDP socket of their queue, or whatever else the rule says (xsk_rules.h);
 * everything else goes on to the kernel.
 *
 * Each redirected packet gets metadata in front of it (struct xsk_meta; the same layout is in toolkit/abi/xsk_meta.py).
 * In copy mode and zero-copy these bytes are just below the packet's address in the UMEM.
 */
#include <uapi/linux/bpf.h>
#include "xsk_rules.h"

#define XSK_OWN_COUNTER untimed /* redirected without a struct xsk_meta: not wanted, or no room for it */
#include "xsk_counting.h"

#ifndef QUEUES
#define QUEUES 256
#endif

#define XSK_META_MAGIC 0x58445021 /* "XDP!": without it the bytes in front of a packet are left over from another one */

/* A multiple of 4 bytes and 32 at most, which is what older kernels allow. */
struct xsk_meta {
	u64 time;   /* ns, CLOCK_MONOTONIC */
	u32 magic;  /* XSK_META_MAGIC */
	u32 queue;  /* the receive queue */
	u32 length; /* bytes on the wire, before it was cut */
	u32 rule;   /* index of the rule that took it */
};

BPF_XSKMAP(xsks_map, QUEUES);
BPF_PERCPU_ARRAY(counters, struct counters, XSK_RULES + 1);

#ifndef XSK_UNTIMED /* timestamps=False: the metadata cost a tenth of the rate */
/* Put a struct xsk_meta in front of the packet; false if there is no room. */
static __always_inline bool describe(struct xdp_md *ctx, u32 rule, u32 length)
{
	struct xsk_meta *meta;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)))
		return false;
	/* The helper has moved data_meta: for the verifier, earlier pointers are invalid. */
	meta = (struct xsk_meta *)(unsigned long)ctx->data_meta;
	if ((u8 *)(meta + 1) > (u8 *)(unsigned long)ctx->data)
		return false;
	meta->time = bpf_ktime_get_ns();
	meta->magic = XSK_META_MAGIC;
	meta->queue = ctx->rx_queue_index;
	meta->length = length;
	meta->rule = rule;
	return true;
}
#endif

int xsk_redirect(struct xdp_md *ctx)
{
	struct decision decision = decide(ctx);
	u32 rule = decision.rule;
	struct counters *count = counters.lookup(&rule);
	u32 length = 0;
	int verdict = settle(ctx, decision, count, &length);

	if (verdict != XDP_REDIRECT)
		return verdict;
	/* First, to find out whether there is a socket: packets that go on to the kernel must not be changed. */
	if (xsks_map.redirect_map(ctx->rx_queue_index, XDP_PASS) != XDP_REDIRECT) {
		count->no_socket++;
		return XDP_PASS;
	}
	count->redirected++;
#ifndef XSK_UNTIMED
	if (!describe(ctx, decision.rule, length))
#endif
		count->untimed++;
	if (decision.snaplen && length > decision.snaplen)
		bpf_xdp_adjust_tail(ctx, (int)decision.snaplen - (int)length);
	return XDP_REDIRECT;
}
