/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* BCC's prelude includes it, XDP programs use nothing of it. */
