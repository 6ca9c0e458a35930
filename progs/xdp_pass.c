/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Passes every packet on to the kernel. A veth accepts frames that XDP redirects or transmits only while its receiving
 * end has a program too: this is that program.
 */
#include <uapi/linux/bpf.h>

int xdp_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}
