/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The rules: which of them takes a packet, and what becomes of it.
 *
 * The first rule that matches takes the packet. Here is the one rule that redirects what match() of xsk_filter.h wants.
 * For anything else the toolkit generates another decide(), which it puts before the program's text, and defines
 * XSK_RULES, the number of rules: then only the types below are from here.
 */
#ifndef XSK_RULES_H
#define XSK_RULES_H

enum {
	RULE_REDIRECT, /* to the AF_XDP socket of the packet's queue */
	RULE_DROP,     /* nobody gets it */
	RULE_COUNT,    /* it is counted, and goes on to the kernel */
	RULE_PASS,     /* on to the kernel: no later rule is asked */
};

struct decision {
	u32 rule;    /* number of the rule that takes the packet, XSK_RULES where none does */
	u32 action;  /* RULE_... */
	u32 share;   /* of 2^32 such packets so many are acted on, at random, the others go on to the kernel; 0: all */
	u32 snaplen; /* a redirected packet is cut to so many bytes; 0: whole */
};

#ifndef XSK_RULES
#define XSK_RULES 1
#include "xsk_filter.h"

static __always_inline struct decision decide(struct xdp_md *ctx)
{
	if (match(ctx))
		return (struct decision){ .rule = 0, .action = RULE_REDIRECT };
	return (struct decision){ .rule = XSK_RULES, .action = RULE_PASS };
}
#endif

#endif
