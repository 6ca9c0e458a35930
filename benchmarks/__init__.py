# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the toolkit and its peers, on a private network. Run by scripts/bench."""
