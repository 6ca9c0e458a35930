# SPDX-License-Identifier: Apache-2.0
"""Interfaces that others define, as ctypes and NumPy types: kernel headers, libxdp, libbpf, libpcap, file formats."""
