"""The links to other projects: each name is there, and is mentioned."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLES = tomllib.loads((ROOT / "docs/inventories.toml").read_text("utf-8"))
NAMES = [name for table in TABLES.values() for name in table["names"]]
TEXTS = "\n".join(
    path.read_text("utf-8")
    for pattern in ("rmda_jax/**/*.py", "docs/**/*.md", "docs/**/*.rst")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_linked_exists(name):
    module, _, last = name.rpartition(".")
    assert hasattr(importlib.import_module(module), last)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_linked_is_mentioned(name):
    assert re.search(rf"`~?{re.escape(name)}`", TEXTS)
