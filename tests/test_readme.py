"""The README: short, and its example runs and prints what it says it prints."""

import contextlib
import io
import re
from pathlib import Path

from tests.fixtures import truth_cases

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_what_it_is_checked_against_is_counted():
    models = (ROOT / "examples/zoo/results.jsonl").read_text("utf-8").splitlines()
    assert f"{len(models)} models" in README
    assert f"{len(list(truth_cases()))} certified minimisers" in README


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_quick_start_is_short_and_prints_what_the_readme_shows():
    (example,) = blocks("python")
    assert len(example.splitlines()) <= 15
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(example, {})
    (shown,) = blocks("text")
    assert printed.getvalue().split() == shown.split()


def test_every_path_the_readme_names_exists():
    paths = re.findall(r"`((?:rmda_jax|tests|examples)/[\w./]+)`", README)
    assert paths
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
