# SPDX-License-Identifier: Apache-2.0
"""The documentation site: Sphinx over the Markdown pages here, the docstrings of the public names, and the commands.

Built by scripts/docs, every warning an error. Needs no network. `_site/` has what is done beside settings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import toolkit

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "AF_XDP for Python"
author = "the authors of afxdp-toolkit"
copyright = author
version = release = toolkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings", "commands"]
exclude_patterns = ["_site"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
default_role = "py:obj"  # `name` in a docstring: code, and a link where it is a public name
smartquotes = False  # -- begins an option here

html_theme = "furo"
html_title = f"{project} {release}"
html_show_sphinx = False
html_copy_source = False

autodoc_default_options = {
    "members": True,
    "inherited-members": "tuple,ImportError,BaseException,Protocol,object",
    "member-order": "groupwise",
}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
