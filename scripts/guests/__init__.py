# SPDX-License-Identifier: Apache-2.0
"""Machines that qemu emulates, to run a command with another kernel and drivers of real NICs: scripts/guest."""
