/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* BCC's prelude declares the helpers already: here only for programs that include this name. */
#ifndef __BPF_HELPERS__
#define __BPF_HELPERS__

#include <linux/types.h>

#endif
