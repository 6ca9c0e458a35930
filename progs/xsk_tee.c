/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel gets every packet, unchanged; user space gets a copy of those that a rule redirects.
 *
 * The copies go through a BPF ring buffer, each in a slot of the same size, so that user space reads many at once as
 * rows of one array (the same layout is in toolkit/abi/tee_slot.py). When the ring is full, the copy is lost, and never
 * the packet itself.
 */
#include <uapi/linux/bpf.h>
#include "xsk_rules.h"

#define XSK_OWN_COUNTER lost /* of the redirected packets, those without a copy because the ring was full */
#include "xsk_counting.h"

#ifndef TEE_SNAPLEN /* most bytes of a packet that are copied */
#define TEE_SNAPLEN 1522
#endif
#ifndef TEE_PAGES /* pages of the ring: a power of two */
#define TEE_PAGES 4096
#endif
#ifndef TEE_QUEUES /* a C expression: whether packets of `queue` are copied */
#define TEE_QUEUES 1
#endif

struct slot {
	u64 time;     /* ns, CLOCK_MONOTONIC */
	u32 queue;    /* the receive queue */
	u32 length;   /* bytes on the wire */
	u32 rule;     /* index of the rule that took it */
	u32 captured; /* bytes that follow */
	u8 packet[(TEE_SNAPLEN + 7) & ~7];
};

BPF_RINGBUF_OUTPUT(copies, TEE_PAGES);
BPF_PERCPU_ARRAY(counters, struct counters, XSK_RULES + 1);

/* Copy the packet's first `size` bytes, 1 to TEE_SNAPLEN. Returns 0, or an error. */
static __always_inline long load(struct xdp_md *ctx, u8 *to, u64 size)
{
#if defined(XSK_FRAGS) || defined(TEE_HELPERS) /* packets of several buffers, or without CAP_PERFMON */
	long (*load_bytes)(struct xdp_md *, u32, void *, u32) = (void *)189; /* bpf_xdp_load_bytes, Linux 5.18 */

	return load_bytes(ctx, 0, to, size);
#else /* up to 100 ns faster, since it copies word by word */
	return bpf_probe_read_kernel(to, size, (void *)(unsigned long)ctx->data);
#endif
}

static __always_inline void copy(struct xdp_md *ctx, struct decision decision, u32 length, struct counters *count)
{
	u64 now = bpf_ktime_get_ns();
	struct slot *slot = copies.ringbuf_reserve(sizeof(*slot));
	u64 size = length;

	if (!slot) {
		count->lost++;
		return;
	}
	slot->time = now;
	slot->queue = ctx->rx_queue_index;
	slot->length = length;
	slot->rule = decision.rule;
	if (decision.snaplen && size > decision.snaplen)
		size = decision.snaplen;
	if (size > TEE_SNAPLEN)
		size = TEE_SNAPLEN;
	asm volatile("" : "+r"(size)); /* otherwise clang removes checks that the verifier needs */
	if (size < 1 || size > TEE_SNAPLEN || load(ctx, slot->packet, size))
		size = 0;
	slot->captured = size;
	copies.ringbuf_submit(slot, 0);
}

int xsk_tee(struct xdp_md *ctx)
{
	struct decision decision = decide(ctx);
	u32 rule = decision.rule, queue = ctx->rx_queue_index;
	struct counters *count = counters.lookup(&rule);
	u32 length = 0;
	int verdict = settle(ctx, decision, count, &length);

	if (verdict != XDP_REDIRECT)
		return verdict;
	if (!(TEE_QUEUES)) {
		count->no_socket++;
		return XDP_PASS;
	}
	count->redirected++;
	copy(ctx, decision, length, count);
	return XDP_PASS;
}
