"""The pages: what they show is what happens, and the reference leaves nothing out."""

import doctest
import importlib
import re
import sys
import types
from pathlib import Path
from unittest import mock

import pytest

from tests.test_house import PUBLIC, ROOT, public_names

pytestmark = pytest.mark.costly

DOCS = Path(__file__).parents[2] / "docs"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def session(page: str) -> str:
    """Return the console sessions of a page as the one that a reader types."""
    return "\n".join(re.findall(r"```pycon\n(.*?)```", page, flags=re.DOTALL))


PAGES = [path for path in sorted(DOCS.glob("*.md")) if session(path.read_text("utf-8"))]


def mistakes(page: str, name: str) -> str:
    """Return what an example prints other than shown; empty if nothing."""
    test = doctest.DocTestParser().get_doctest(session(page), {}, name, name, 0)
    module = types.ModuleType(name)  # where pickle looks for what the page defines
    test.globs = vars(module)
    lines: list[str] = []
    with mock.patch.dict(sys.modules, {name: module}):
        _ = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=lines.append)
    return "".join(lines)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_examples_print_what_the_page_shows(path):
    assert mistakes(path.read_text("utf-8"), path.stem) == ""


def test_a_wrong_example_is_noticed():
    page = "```pycon\n>>> x = 2\n```\nThen:\n```pycon\n>>> x + 1\n{}\n```\n"
    assert mistakes(page.format(3), "page") == ""
    assert "Got:\n    3" in mistakes(page.format(4), "page")


def factories(kind: str) -> list[str]:
    """Return the functions that ``.. factories::`` lists, under their public names."""
    module = importlib.import_module(f"rmda_jax.regularizers.named._{kind}")
    return [
        f"rmda_jax.regularizers.{name}"
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", "") == module.__name__ and name[0] != "_"
    ]


def test_reference_has_every_public_name_once():
    pattern = re.compile(r"^\.\. (auto\w+|data|factories):: (\S+)$", flags=re.MULTILINE)
    found = []
    for path in sorted((DOCS / "api").iterdir()):
        for directive, name in pattern.findall(path.read_text("utf-8")):
            found += factories(name) if directive == "factories" else [name]
    rooms = list(PUBLIC)
    # Regularizers are documented at home, not where they are found as well.
    home = public_names(ROOT, "rmda_jax.regularizers")
    public = [
        f"{room}.{name}"
        for room in rooms
        for name in public_names(ROOT, room)
        if room != "rmda_jax" or name not in home
    ]
    # What opens a page; the rooms that are public names themselves do so, too.
    opening = ["rmda_jax.transforms", "rmda_jax.testing"]
    assert sorted(found) == sorted(public + opening)
