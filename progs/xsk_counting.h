/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The counters of xsk_redirect.c and xsk_tee.c, and the actions that both share, so that both are read alike.
 *
 * XSK_OWN_COUNTER is the name of the one counter that differs between the programs.
 */
#ifndef XSK_COUNTING_H
#define XSK_COUNTING_H

#include "xsk_rules.h"

/*
 * One struct for each rule, and one more for packets that no rule takes. Each packet is counted once as redirected,
 * no_socket, dropped, counted, sampled_out or passed; the sum of these is `matched`. The program's own counter counts
 * some of the redirected packets.
 */
struct counters {
	u64 redirected;      /* redirected to a socket, or copied */
	u64 passed;          /* on to the kernel: no rule takes it, or a rule that passes */
	u64 no_socket;       /* to be redirected, but there is no socket on this queue: on to the kernel */
	u64 XSK_OWN_COUNTER; /* see the program */
	u64 dropped;         /* by a rule that drops */
	u64 counted;         /* by a rule that counts: on to the kernel */
	u64 sampled_out;     /* a rule takes it, but it is not in its sample: on to the kernel */
	u64 matched;         /* the rule took it */
	u64 bytes;           /* of the matched packets, on the wire */
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
 * Count a packet and return its action. XDP_REDIRECT: the program redirects and counts it, and `length` is set to its
 * bytes on the wire. `count` is the rule's; the program looks it up, because BCC allows that in its main file only.
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
