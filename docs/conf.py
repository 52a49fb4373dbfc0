"""Sphinx's settings: `make docs` builds the pages, and warnings are errors."""

import importlib
import importlib.metadata
import inspect
import os
import re
import tempfile
import tomllib
import zlib
from pathlib import Path

# For the notebooks, which inherit it. They import the examples as the programs do.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["PYTHONPATH"] = os.fspath(Path(__file__).parents[1])

project = "rmda_jax"
author = "The rmda_jax authors"
copyright = author
release = version = importlib.metadata.version("rmda_jax")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the program that sets formulas, beside the pages
    "myst_nb",
]
html_theme = "furo"
html_title = f"{project} {release}"

# Docstrings name things in single backticks, from whatever module they stand in.
default_role = "py:obj"
add_module_names = False
autodoc_typehints = "none"  # the docstrings say what is taken and returned
autodoc_member_order = "bysource"
napoleon_use_rtype = False  # what stands before a colon in Returns is no type

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(collections|jax|jnp|optax|nnx|numpy)\..*"),  # not in inventories.toml
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


def written_inventory(names):
    """Return the path of an inventory as intersphinx reads it, made from our table."""
    lines = []
    for name, page in names.items():
        page = page if "#" in page else f"{page}#{name}"
        lines.append(f"{name} py:function 1 {page} -")
    header = "# Sphinx inventory version 2\n# Project: -\n# Version: -\n"
    header += "# The remainder of this file is compressed using zlib.\n"
    path = Path(tempfile.mkdtemp()) / "objects.inv"
    path.write_bytes(header.encode() + zlib.compress("\n".join(lines).encode() + b"\n"))
    return os.fspath(path)


with open(Path(__file__).with_name("inventories.toml"), "rb") as tables:
    intersphinx_mapping = {
        project: (table["url"], written_inventory(table["names"]))
        for project, table in tomllib.load(tables).items()
    }


def list_factories(app, docname, source):
    """Write an ``autofunction`` for each named factory of a kind, in source order."""

    def listed(match):
        module = importlib.import_module(f"rmda_jax.regularizers.named._{match[1]}")
        functions = inspect.getmembers(module, inspect.isfunction)
        own = [
            (f.__code__.co_firstlineno, n)
            for n, f in functions
            if n[0] != "_" and f.__module__ == module.__name__
        ]
        return "\n".join(
            f".. autofunction:: rmda_jax.regularizers.{name}" for _, name in sorted(own)
        )

    source[0] = re.sub(r"^\.\. factories:: (\w+)$", listed, source[0], flags=re.M)


def setup(app):
    """Let a name be found on every page, as a reader of the docstring finds it."""

    def search_everywhere(app, doctree):
        for node in doctree.findall(
            lambda n: n.tagname == "pending_xref" and n.get("reftype") == "obj"
        ):
            node["refspecific"] = True

    app.connect("doctree-read", search_everywhere)
    app.connect("source-read", list_factories)
