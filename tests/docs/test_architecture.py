"""The maps of the repository name what exists, and every folder of the package."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {
    name: (ROOT / name).read_text("utf-8")
    for name in ("CONTRIBUTING.md", "docs/architecture.md")
}
PICTURE = ROOT / "docs/_static/architecture.svg"
FOLDERS = sorted(
    path.parent.relative_to(ROOT).as_posix()
    for path in (ROOT / "rmda_jax").rglob("__init__.py")
    if path.parent != ROOT / "rmda_jax"
)
SOURCE = "\n".join(
    path.read_text("utf-8")
    for folder in ("rmda_jax", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
MADE_BY_MAKE = {".venv", "out/docs"}


def quoted(page: str) -> list[str]:
    """Return what stands in backticks on a page, blocks and commands aside."""
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    found = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", page)]
    return [text for text in found if " " not in text]


def exists(text: str) -> bool:
    """Whether a path, a file of that name, or a name in the source is there."""
    if text in MADE_BY_MAKE:
        return True
    if "/" in text or text.startswith("."):
        return (ROOT / text).exists()
    if text.endswith((".py", ".md")):
        return any(ROOT.glob(f"[!.]*/**/{text}")) or (ROOT / text).exists()
    last = text.split(".")[-1]
    return bool(re.search(rf"\b{re.escape(last)}\b", SOURCE))


def names_of(page: str) -> list[str]:
    table = r"## (Extras|Environment variables|Variables of make)\n.*?(?=\n## |\Z)"
    return quoted(re.sub(table, "", page, flags=re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_what_a_map_names_exists(page):
    assert [text for text in names_of(PAGES[page]) if not exists(text)] == []


def test_the_architecture_has_every_folder_of_the_package():
    named = re.findall(r"^\| `([\w/]+)` \|", PAGES["docs/architecture.md"], re.M)
    assert sorted(named) == FOLDERS


def test_the_picture_names_every_room_and_what_exists():
    root = ET.fromstring(PICTURE.read_text("utf-8"))
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    rooms = {folder.split("/")[1] for folder in FOLDERS}
    assert rooms <= {text.split(":")[0] for text in texts}
    code = [
        word for text in texts for word in re.findall(r"\w+_\w+|RegularizerMap", text)
    ]
    assert code
    assert [name for name in code if not exists(name)] == []


def test_what_does_not_exist_is_noticed():
    assert not exists("rmda_jax/attic")
    assert not exists("_nowhere.py")
    assert not exists("no_such_function" + "_at_all")
