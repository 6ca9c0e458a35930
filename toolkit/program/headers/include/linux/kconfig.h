/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What BCC's prelude asks of a kernel's configuration: that it can run BPF programs at all. */
#ifndef _LINUX_KCONFIG_H
#define _LINUX_KCONFIG_H

#define CONFIG_BPF_SYSCALL 1

#endif
