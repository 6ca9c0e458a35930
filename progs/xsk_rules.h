/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The rules: which of them takes a packet, and with what action.
 *
 * The first rule that matches takes the packet. Here there is one rule, which redirects what match() of xsk_filter.h
 * takes. For other rules the toolkit generates another decide(), puts it in front of the program's text, and defines
 * XSK_RULES, the number of rules: then only the types below are used.
 */
#ifndef XSK_RULES_H
#define XSK_RULES_H

enum {
	RULE_REDIRECT, /* to the AF_XDP socket of the packet's queue */
	RULE_DROP,     /* dropped */
	RULE_COUNT,    /* counted, and on to the kernel */
	RULE_PASS,     /* on to the kernel; later rules do not apply */
};

struct decision {
	u32 rule;    /* index of the rule that takes the packet; XSK_RULES: none does */
	u32 action;  /* RULE_... */
	u32 share;   /* the action applies to this many of 2^32 packets, at random; others go on to the kernel; 0: all */
	u32 snaplen; /* bytes to which a redirected packet is cut; 0: not cut */
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
