/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The running kernel's version, which the toolkit passes on the compiler's command line. */
#ifndef _LINUX_VERSION_H
#define _LINUX_VERSION_H

#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#ifndef XSK_LINUX_VERSION_CODE
#define XSK_LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
#endif
#ifndef LINUX_VERSION_CODE
#define LINUX_VERSION_CODE XSK_LINUX_VERSION_CODE
#endif

#endif
