# SPDX-License-Identifier: Apache-2.0
"""What the commands show: lines, tables, summaries."""
