"""`make test` and `make quick` have a case of every law, truth and model."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rmda_jax import testing
from tests import _selection
from tests.fixtures import truth_cases
from tests.shrink.test_trace import IDS

# What is chosen and runs at night only would be skipped.
OPTIONS = ["--collect-only", "-q", "-m", "not long"]


@pytest.fixture(scope="module")
def chosen() -> list[str]:
    """Return the ids of the tests that `make quick` runs."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--quick", *OPTIONS, "tests"],
        cwd=_selection.ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.parametrize("pattern", _selection.PATTERNS)
def test_every_pattern_names_a_file(pattern):
    assert any(_selection.ROOT.glob(pattern))


def test_one_case_of_every_law(chosen):
    laws = [law.__name__.removeprefix("check_") for law in testing.LAWS]
    of_laws = [test for test in chosen if "laws/test_laws.py" in test]
    assert [x for x in laws if not any(t.endswith(f"-{x}]") for t in of_laws)] == []


def test_one_truth_of_every_factory(chosen):
    found = sum("test_prox_agrees_with_certified_minimiser" in t for t in chosen)
    assert found == len({case.factory for case in truth_cases()})


def test_every_model(chosen):
    models = [t for t in chosen if "test_trace.py::test_units_are_found[" in t]
    assert len(models) == len(IDS)


@pytest.mark.parametrize("method", ["RAMDA", "ProxSGD", "ProxAdamW"])
def test_one_trajectory_of_every_method(chosen, method):
    assert any(f"peer_trajectory_is_reproduced[ramda/R_{method}" in t for t in chosen)


def test_nothing_is_chosen_that_the_files_do_not_have(chosen):
    files = {test.partition("::")[0].removeprefix("tests/") for test in chosen}
    assert not any(_selection.is_left_out(_selection.ROOT / name) for name in files)
    assert _selection.is_left_out(_selection.ROOT / "examples/test_demo.py")


@dataclasses.dataclass(eq=False)
class Item:
    """What the selection asks of a test case; an id like `method-dtype`."""

    function: str
    id: str
    marks: tuple[str, ...] = ("costly",)
    path: Path = Path("test_file.py")

    @property
    def nodeid(self):
        return f"{self.function}[{self.id}]"

    @property
    def callspec(self):
        return self

    @property
    def params(self):
        words = re.split("-", self.id)
        return {"law": words[1]} if self.function == "laws" else {}

    def get_closest_marker(self, name):
        return name if name in self.marks else None


def ids(function, *names, **changes):
    return [Item(function, name, **changes) for name in names]


def chosen_of(items, costly=True):
    return [item.nodeid for item in _selection.chosen(items, costly)[0]]


def test_a_costly_function_keeps_one_case_and_every_method_has_its_turn():
    items = [x for f in "fgh" for x in ids(f, "rmda", "ramda", "proxsgd")]
    assert chosen_of(items) == ["f[rmda]", "g[ramda]", "h[proxsgd]"]


def test_a_function_that_does_not_cost_keeps_all_unless_asked():
    items = ids("f", "rmda", "ramda", marks=())
    assert len(chosen_of(items)) == 2
    assert chosen_of(items, costly=False) == ["f[rmda]"]


def test_every_law_is_kept():
    items = ids("laws", "rmda-jit", "rmda-vmap", "ramda-jit", "ramda-vmap")
    assert chosen_of(items) == ["laws[rmda-jit]", "laws[ramda-vmap]"]


def test_what_is_not_daily_is_left_out():
    items = ids("f", "rmda", marks=("not_daily",)) + ids("f", "ramda", marks=())
    assert chosen_of(items) == chosen_of(items, costly=False) == ["f[ramda]"]


def test_what_runs_at_night_is_chosen_last():
    night = ids("f", "rmda", marks=("costly", "long"))
    assert chosen_of(night + ids("f", "ramda")) == ["f[ramda]"]
    assert chosen_of(night) == ["f[rmda]"]
