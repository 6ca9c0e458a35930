# SPDX-License-Identifier: Apache-2.0
"""What the toolkit costs and how fast it is, measured on a private network. Run by scripts/bench."""
