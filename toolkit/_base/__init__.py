# SPDX-License-Identifier: Apache-2.0
"""What every floor stands on: arguments, clock, forks, interrupts, mappings, namespaces, descriptors, the disk cache.

Private: nobody outside of `toolkit/` imports it.
"""
