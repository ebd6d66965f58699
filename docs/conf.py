"""The site: ``make site`` builds it offline from README, docs, tutorials and docstrings.

Sphinx, because the reference comes from docstrings and every link is checked while it builds; MyST-NB, because the
lessons are notebooks that are shown as they ran; Furo, because it reads well on a phone, in the dark and aloud, and
loads nothing from elsewhere. Equations are MathML, which browsers draw and read by themselves.

The sources are the repository's root, so that a link between two files is the same on the site and on a code host.
Set ``PYRO_VAE_REPOSITORY=owner/name`` for buttons that open a notebook in Colab or Binder.
"""

import gc
import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
gc.disable()  # documents live to the end: looking for garbage took a quarter of the build

project = "pyro_vae"
author = "the pyro_vae developers"
project_copyright = "the pyro_vae developers, Apache-2.0"
version = release = installed("pyro_vae")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_parts.mathml",
    "site_parts.notebooks",
    "site_parts.play",
    "site_parts.reachable",
    "site_parts.reference",
]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**", "tutorials/**"]
exclude_patterns = ["**/.ipynb_checkpoints", "docs/site_parts"]

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are stored as they ran; a test runs each and compares the digest of its code
nb_merge_streams = True
math_renderer = "mathml"
suppress_warnings = ["myst.header"]

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_rtype = False
napoleon_custom_sections = [("Shapes", "params_style")]

html_theme = "furo"
html_title = "pyro_vae"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_extra_path = ["site_parts/top"]
templates_path = ["site_parts/templates"]
html_static_path = ["site_parts/static"]
html_css_files = ["site.css"]
html_context = {"repository": os.environ.get("PYRO_VAE_REPOSITORY", "")}
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f99", "color-brand-content": "#1f5f99"},
    "dark_css_variables": {"color-brand-primary": "#8fc1f2", "color-brand-content": "#8fc1f2"},
}
copybutton_exclude = ".linenos, .gp, .go"
