# SPDX-License-Identifier: Apache-2.0
"""Foundations: arguments, clock, forks, interrupts, mappings, network namespaces, descriptors, the disk cache.

Private: only `toolkit/` itself imports it.
"""
