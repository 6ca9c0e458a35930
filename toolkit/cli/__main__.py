# SPDX-License-Identifier: Apache-2.0
"""`python -m toolkit.cli`: the same as `xsk`."""

from toolkit.cli.main import main

__all__: list[str] = []

main()
