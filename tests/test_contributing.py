"""CONTRIBUTING.md names every switch; every target that is called exists."""

import ast
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FOLDERS = ("rmda_jax", "tests", "examples", "benchmarks", "docs")
READS = ("get", "setdefault", "pop", "getenv")
IMAGE = re.compile(r"\]\(([^)\s]+\.png)\)")
# Set by us and read by a program that we call.
READ_BY_OTHERS = {"UV_RESOLUTION"}


def variables_read(source: str) -> list[str]:
    """Return the environment variables that a program reads.

    Of one whose name is computed, the expression is returned.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(value=of, slice=name, ctx=ast.Load()):
                pass
            case ast.Call(func=ast.Attribute(value=of, attr=how), args=[name, *_]):
                if how not in READS:
                    continue
            case ast.Call(func=ast.Name(id="getenv") as of, args=[name, *_]):
                pass
            case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[of]):
                pass
            case _:
                continue
        if ast.unparse(of) in ("os.environ", "environ", "os", "getenv"):
            constant = isinstance(name, ast.Constant)
            found.append(str(name.value) if constant else ast.unparse(name))
    return found


def named(heading: str) -> list[str]:
    """Return what the first column of a table of the page names."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    cells = re.findall(r"^\| (`.*?) \|", section, re.M)
    return [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]


def targets_called(text: str) -> set[str]:
    """Return the targets of make that a page or a script calls, comments aside."""
    text = re.sub(r"#.*", "", text)
    return set(re.findall(r"\bmake ([a-z][a-z-]*)", text))


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", MAKEFILE, re.M))


def unused(images: Iterable[str], pages: dict[str, str]) -> list[str]:
    """Return the images that no page shows; pages by their paths."""
    shown = {
        (ROOT / page).parent.joinpath(image).resolve()
        for page, text in pages.items()
        for image in IMAGE.findall(text)
    }
    return [image for image in images if (ROOT / image).resolve() not in shown]


@pytest.mark.not_daily
def test_every_environment_variable_is_named():
    read = set(READ_BY_OTHERS)
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            read |= set(variables_read(path.read_text("utf-8")))
    assert set(named("Environment variables")) == read


def test_the_library_reads_no_environment_variable():
    for path in (ROOT / "rmda_jax").rglob("*.py"):
        assert variables_read(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("os.environ['A']", ["A"]),
        ("os.environ['A'] = 'x'", []),
        ("os.environ.get('A', '0')", ["A"]),
        ("os.environ.setdefault('A', '0')", ["A"]),
        ("environ.pop('A')", ["A"]),
        ("os.getenv('A')", ["A"]),
        ("getenv('A')", ["A"]),
        ("x = 1 if 'A' not in os.environ else 2", ["A"]),
        ("os.environ[name]", ["name"]),
        ("config.get('A')", []),
        ("'A' in names", []),
    ],
)
def test_what_is_read_is_found(source, read):
    assert variables_read(source) == read


def test_every_extra_is_named():
    assert named("Extras") == list(dict.fromkeys(named("Extras")))
    assert set(named("Extras")) == set(PROJECT["optional-dependencies"])


def test_every_variable_of_make_is_named():
    variables = re.findall(r"^(\w+) \?=", MAKEFILE, re.M)
    assert named("Variables of make") == variables


def test_every_target_is_named_and_every_named_one_exists():
    assert targets_called(PAGE) == targets() - {"help"}


CALLERS = [ROOT / ".ci/run", ROOT / "README.md", *(ROOT / ".github").rglob("*.*")]


@pytest.mark.parametrize("path", CALLERS, ids=lambda path: path.name)
def test_targets_that_are_called_exist(path):
    assert targets_called(path.read_text("utf-8")) <= targets()


def test_the_workflow_calls_what_every_change_must_pass():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    ours = targets_called((ROOT / ".ci/run").read_text("utf-8"))
    assert ours == {"check", "test", "docs"}
    assert ours <= targets_called(workflow)


def test_a_workflow_runs_what_takes_long_in_an_environment_made_by_pip():
    """Among it is tests/docs/test_commands.py, which needs one."""
    workflow = (ROOT / ".github/workflows/nightly.yml").read_text("utf-8")
    assert "RMDA_LONG: " in workflow
    assert "setup-uv" not in workflow
    assert "- run: make test PYTHON=python\n" in workflow


def test_calls_are_found_in_a_workflow():
    assert targets_called("- run: make tset PYTHON=python") == {"tset"}


def test_where_the_source_is_said_and_no_address_invented():
    readme = (ROOT / "README.md").read_text("utf-8")
    install = readme.split("## Install\n")[1].split("\n## ")[0]
    addresses = list(PROJECT.get("urls", {}).values())
    if addresses:
        assert all(address in install for address in addresses)
    else:
        assert "clone the repository where you found this page" in install
        assert "://" not in install


def test_every_image_is_shown_by_a_page():
    folders = ("examples", "benchmarks", "docs")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*.*")]
    relative = lambda suffix: [
        path.relative_to(ROOT).as_posix()
        for path in [*ROOT.glob("*.*"), *paths]
        if path.suffix == suffix
    ]
    pages = {page: (ROOT / page).read_text("utf-8") for page in relative(".md")}
    images = relative(".png")
    assert images
    assert unused(images, pages) == []
    assert unused([*images, "stray.png"], pages) == ["stray.png"]
