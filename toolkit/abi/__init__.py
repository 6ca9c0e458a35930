# SPDX-License-Identifier: Apache-2.0
"""What others define: kernel headers, libxdp, libbpf, libpcap. ctypes and NumPy types, no decisions."""
