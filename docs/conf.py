"""Sphinx's settings: `make docs` builds the pages, and warnings are errors."""

import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # for the notebooks, which inherit it

project = "rmda_jax"
author = "The rmda_jax authors"
copyright = author
release = version = importlib.metadata.version("rmda_jax")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "myst_nb",
]
html_theme = "furo"
html_title = f"{project} {release}"

# Docstrings name things in single backticks, from whatever room they stand in.
default_role = "py:obj"
add_module_names = False
autodoc_typehints = "none"  # the docstrings say what is taken and returned
autodoc_member_order = "bysource"
napoleon_use_rtype = False  # what stands before a colon in Returns is no type

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(jax|jnp|optax|nnx|numpy)\..*"),  # a build needs no network
    ("py:exc", r".* .*"),  # "Whatever ``fn`` raises."
]
# A map has the methods of a regularizer: `support` alone means the regularizer's.
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_output_stderr = "error"  # what a notebook warns of is for us to mend


def setup(app):
    """Let a name be found in every room, as a reader of the docstring finds it."""

    def search_everywhere(app, doctree):
        for node in doctree.findall(
            lambda n: n.tagname == "pending_xref" and n.get("reftype") == "obj"
        ):
            node["refspecific"] = True

    app.connect("doctree-read", search_everywhere)
