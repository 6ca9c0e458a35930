/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* roundup_pow_of_two of constants: all that BCC's map macros need. */
#ifndef _LINUX_LOG2_H
#define _LINUX_LOG2_H

#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzl((n)-1UL)))

#endif
