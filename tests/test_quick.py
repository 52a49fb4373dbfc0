"""`make quick` has one case of every law, truth and model, and no file twice named."""

import subprocess
import sys

import pytest

from rmda_jax import testing
from tests import _quick
from tests.fixtures import truth_cases
from tests.shrink.test_trace import IDS

# What is chosen and runs at night only would be skipped.
OPTIONS = ["--quick", "--collect-only", "-q", "-m", "not long"]


@pytest.fixture(scope="module")
def chosen() -> list[str]:
    """Return the ids of the tests that `make quick` runs."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "tests"],
        cwd=_quick.ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.parametrize("pattern", _quick.PATTERNS)
def test_every_pattern_names_a_file(pattern):
    assert any(_quick.ROOT.glob(pattern))


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


def test_nothing_is_chosen_that_the_files_do_not_have(chosen):
    files = {test.partition("::")[0].removeprefix("tests/") for test in chosen}
    assert not any(_quick.is_left_out(_quick.ROOT / name) for name in files)
    assert _quick.is_left_out(_quick.ROOT / "examples/test_demo.py")
