/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* BCC carries a whole linux/bpf.h of its own in its prelude: nothing to add. */
