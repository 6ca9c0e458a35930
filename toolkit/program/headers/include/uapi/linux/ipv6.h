/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The IPv6 header and the common form of its extension headers. */
#ifndef _UAPI_LINUX_IPV6_H
#define _UAPI_LINUX_IPV6_H

#include <linux/in6.h>
#include <linux/types.h>

struct ipv6hdr {
	__u8 priority : 4, version : 4;
	__u8 flow_lbl[3];
	__be16 payload_len;
	__u8 nexthdr;
	__u8 hop_limit;
	struct in6_addr saddr;
	struct in6_addr daddr;
};

struct ipv6_opt_hdr {
	__u8 nexthdr;
	__u8 hdrlen; /* in units of 8 bytes, the first 8 not counted */
};

#endif
