/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The filter: match() returns whether the toolkit takes this packet.
 *
 * This is the filter "all". For a tcpdump expression the toolkit generates another match(), puts it in front of the
 * program's text, and defines XSK_FILTER_H, so that this one is not used.
 */
#ifndef XSK_FILTER_H
#define XSK_FILTER_H

static __always_inline u32 match(struct xdp_md *ctx)
{
	return 1;
}

#endif
