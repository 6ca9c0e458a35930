/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Lets every packet through to the kernel. A veth takes frames that are redirected or transmitted by XDP only while
 * its receiving end runs a program of its own: this is that program.
 */
#include <uapi/linux/bpf.h>

int xdp_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}
