"""Every perturbation finds its expression; in the long run, its tests catch it."""

import dataclasses

import pytest

from tests.transforms.perturbations import PERTURBATIONS, ROOT, apply, catch, find

each_perturbation = pytest.mark.parametrize(
    "perturbation", PERTURBATIONS, ids=lambda p: f"{p.where}-{p.mistake}"
)


@each_perturbation
def test_perturbation_finds_its_expression(perturbation):
    place = find(perturbation, ROOT)
    source = (ROOT / place.module).read_bytes()
    assert source[place.start : place.end].decode() != perturbation.wrong
    assert compile(perturbation.wrong, perturbation.mistake, "eval")


@pytest.mark.long
@each_perturbation
def test_perturbation_is_caught(perturbation):
    assert catch(perturbation)


SOURCE = """
RATE = 0.5

def other(x):
    return x * (x + 1)

def f(x):  # é moves what follows by a byte
    return é(x) * (  # a comment, brackets and lines do not matter
        (x) + 1
    )
"""


@pytest.fixture
def tree(tmp_path):
    package = tmp_path / "rmda_jax"
    package.mkdir()
    (package / "a.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path


def of(where, right):
    return dataclasses.replace(
        PERTURBATIONS[0], where=where, right=right, wrong="x - 1"
    )


def test_apply_replaces_the_expression_in_the_named_function_alone(tree):
    apply(of("f", "x+1"), tree)
    changed = (tree / "rmda_jax" / "a.py").read_text(encoding="utf-8")
    assert changed == SOURCE.replace("(x) + 1", "(x - 1)")


def test_apply_replaces_a_constant(tree):
    apply(of("RATE", "0.5"), tree)
    assert "RATE = (x - 1)\n" in (tree / "rmda_jax" / "a.py").read_text("utf-8")


@pytest.mark.parametrize(
    ("where", "right", "found"),
    [("f", "x + 2", "0 times in 1"), ("g", "x + 1", "in 0"), ("f", "x", "2 times")],
)
def test_find_raises_unless_the_expression_is_there_once(tree, where, right, found):
    with pytest.raises(ValueError, match=found):
        find(of(where, right), tree)
