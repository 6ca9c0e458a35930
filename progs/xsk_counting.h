/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What becomes of a packet, counted: as xsk_redirect.c and xsk_tee.c do it, so that whoever reads one reads the other.
 *
 * XSK_OWN_COUNTER is the name of the one counter that is the program's own.
 */
#ifndef XSK_COUNTING_H
#define XSK_COUNTING_H

#include "xsk_rules.h"

/*
 * One for each rule, and one more for packets that no rule takes. Each packet is counted once as redirected, no_socket,
 * dropped, counted, sampled_out or passed; for a rule these add up to what it matched. The program's own counter is of
 * packets that are redirected too.
 */
struct counters {
	u64 redirected;      /* handed to a socket, or to be copied */
	u64 passed;          /* on to the kernel: no rule takes it, or one that says so */
	u64 no_socket;       /* to be redirected, but nobody takes packets of this queue: on to the kernel */
	u64 XSK_OWN_COUNTER; /* see there */
	u64 dropped;         /* by a rule that drops */
	u64 counted;         /* by a rule that counts: on to the kernel */
	u64 sampled_out;     /* a rule takes it, but it is none of its sample: on to the kernel */
	u64 matched;         /* the rule took it */
	u64 bytes;           /* of the matched ones, on the wire */
};

static __always_inline u32 wire_length(struct xdp_md *ctx)
{
#if defined(XSK_FRAGS) || defined(TEE_HELPERS) /* of all buffers */
	u64 (*buff_len)(struct xdp_md *) = (void *)188; /* bpf_xdp_get_buff_len, Linux 5.18 */

	return buff_len(ctx);
#else
	return ctx->data_end - ctx->data;
#endif
}

/*
 * Count a packet, and settle what becomes of it. XDP_REDIRECT: that is for the program to do, and to count; `length` is
 * then that of the packet on the wire. `count` belongs to the rule, which BCC looks up in a program's own file only.
 */
static __always_inline int settle(struct xdp_md *ctx, struct decision decision, struct counters *count, u32 *length)
{
	if (!count)
		return XDP_PASS;
	if (decision.rule == XSK_RULES) {
		count->passed++;
		return XDP_PASS;
	}
	*length = wire_length(ctx);
	count->matched++;
	count->bytes += *length;
	if (decision.share && bpf_get_prandom_u32() >= decision.share) {
		count->sampled_out++;
		return XDP_PASS;
	}
	if (decision.action == RULE_REDIRECT)
		return XDP_REDIRECT;
	if (decision.action == RULE_DROP) {
		count->dropped++;
		return XDP_DROP;
	}
	if (decision.action == RULE_COUNT)
		count->counted++;
	else
		count->passed++;
	return XDP_PASS;
}

#endif
