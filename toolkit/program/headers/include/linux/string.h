/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Those of the C library's functions that clang makes instructions of, where the size is a small constant. */
#ifndef _LINUX_STRING_H_
#define _LINUX_STRING_H_

void *memcpy(void *to, const void *from, unsigned long n);
void *memmove(void *to, const void *from, unsigned long n);
void *memset(void *to, int byte, unsigned long n);
int memcmp(const void *one, const void *other, unsigned long n);

#endif
