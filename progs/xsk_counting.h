/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a rule does with a packet other than redirect it, counted. Comes behind the program's own `struct counters`.
 */
#ifndef XSK_COUNTING_H
#define XSK_COUNTING_H

#include "xsk_rules.h"

static __always_inline u32 wire_length(struct xdp_md *ctx)
{
#if defined(XSK_FRAGS) || defined(TEE_HELPERS) /* of all buffers */
	u64 (*buff_len)(struct xdp_md *) = (void *)188; /* bpf_xdp_get_buff_len, Linux 5.18 */

	return buff_len(ctx);
#else
	return ctx->data_end - ctx->data;
#endif
}

/* Count a packet that a rule takes, and settle what becomes of it; XDP_REDIRECT: that is for the caller to do. */
static __always_inline int settle(struct decision decision, u32 length, struct counters *count)
{
	count->matched++;
	count->bytes += length;
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
