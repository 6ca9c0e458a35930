/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The four bytes of a VLAN tag that follow the Ethernet type. */
#ifndef _LINUX_IF_VLAN_H_
#define _LINUX_IF_VLAN_H_

#include <linux/if_ether.h>

#define VLAN_HLEN 4
#define VLAN_VID_MASK 0x0fff
#define VLAN_PRIO_MASK 0xe000
#define VLAN_PRIO_SHIFT 13
#define VLAN_N_VID 4096

struct vlan_hdr {
	__be16 h_vlan_TCI;
	__be16 h_vlan_encapsulated_proto;
};

#endif
