/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Both machines the toolkit runs on, x86-64 and aarch64, are little-endian. */
#ifndef _ASM_BYTEORDER_H
#define _ASM_BYTEORDER_H

#ifndef __LITTLE_ENDIAN_BITFIELD
#define __LITTLE_ENDIAN_BITFIELD
#endif
#ifndef __LITTLE_ENDIAN
#define __LITTLE_ENDIAN 1234
#endif

/* Constants too, as in `case htons(ETH_P_IP):`. */
#define htons(x) __builtin_bswap16(x)
#define ntohs(x) __builtin_bswap16(x)
#define htonl(x) __builtin_bswap32(x)
#define ntohl(x) __builtin_bswap32(x)

#endif
