/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The running machine's page size, which the toolkit passes on the compiler's command line. */
#ifndef _ASM_PAGE_H
#define _ASM_PAGE_H

#ifndef XSK_PAGE_SIZE
#define XSK_PAGE_SIZE 4096
#endif
#ifndef PAGE_SIZE
#define PAGE_SIZE XSK_PAGE_SIZE
#endif

#endif
