"""The suites of the installed Optax, pointed at every row of the table.

A suite parametrizes its tests over a table of optimizers while its module is executed.
Here the module is executed up to the suite's class, our row takes the place of Optax's
table and look-up, and then the class is executed. None of its tests may skip, and the
tests there are must be the ones listed here: one that Optax renames or drops, or a
table it renames, fails.
"""

import ast
import collections
import dataclasses
import importlib.util
import os
import re
import types
import unittest
import unittest.mock
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import pytest

from tests.transforms._table import SUITE_ROWS, Row

pytestmark = pytest.mark.costly


@dataclasses.dataclass(frozen=True)
class Suite:
    """One class of tests in Optax.

    Args:
      module: Where it is.
      name: Name of the class.
      names: What to put into its module for a row; the names must be there already.
      tests: Its tests, and how many cases each has for one row.
      foreign: Tests that are not about the table, and why they are left out.
      newest: Lowest JAX of the tests that older ones cannot run.
    """

    module: str
    name: str
    names: Callable[[Row], dict[str, Any]]
    tests: Mapping[str, int]
    foreign: Mapping[str, str] = dataclasses.field(default_factory=dict)
    newest: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def _contrib(row: Row) -> dict[str, Any]:
    entry = {"opt_name": row.name, "opt_kwargs": row.suite}
    table = ({**entry, "wrapper_name": None, "wrapper_kwargs": None},)
    return {
        "_MAIN_OPTIMIZERS_UNDER_TEST": table,
        "_ALL_OPTIMIZERS_UNDER_TEST": table,
        "_get_opt_factory": lambda opt_name: row.factory,
    }


def _alias(row: Row) -> dict[str, Any]:
    return {
        "_OPTIMIZERS_UNDER_TEST": ({"opt_name": row.name, "opt_kwargs": row.suite},),
        "_get_opt": lambda self, opt_name: row.factory,
    }


def _sharding(row: Row) -> dict[str, Any]:
    return {"OPTIMIZERS": {row.name: row.factory(**row.suite)}, "jax": _JAX}


SUITES = [
    Suite(
        "optax.contrib._common_test",
        "ContribTest",
        _contrib,
        tests={
            "test_gradient_accumulation": 2,
            "test_optimizers": 4,
            "test_optimizers_accept_extra_args": 2,
            "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such": (
                1
            ),
            "test_optimizers_can_be_wrapped_in_inject_hyperparams": 1,
            "test_preserve_dtype": 2,
            "test_state_shape_dtype_shard_stability": 4,
        },
    ),
    Suite(
        "optax._src.alias_test",
        "AliasTest",
        _alias,
        tests={
            "test_gradient_accumulation": 2,
            "test_optimization": 4,
            "test_optimizers_accept_extra_args": 1,
            "test_optimizers_can_be_wrapped_in_inject_hyperparams": 1,
            "test_preserve_dtype": 2,
            "test_state_shape_dtype_shard_stability": 6,
        },
        foreign={"test_explicit_dtype": "is about the dtypes of sgd and adam"},
    ),
    Suite(
        "optax._src.sharding_test",
        "ShardingTest",
        _sharding,
        tests={
            "test_init_with_abstract_input": 1,
            "test_state_sharding_type_init_match_update": 1,
            "test_state_sharding_type_preserved_with_jit": 1,
        },
        foreign={"test_microbatch_with_explicit_sharding": "takes no optimizer"},
        newest={
            "test_state_sharding_type_init_match_update": (0, 7, 2),
            "test_state_sharding_type_preserved_with_jit": (0, 7, 2),
        },
    ),
]


class _Version(str):
    """A version that compares by its numbers: as text, "0.10" is below "0.7"."""

    def __lt__(self, other: str) -> bool:
        return _numbers(self) < _numbers(other)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


class _Jax(types.ModuleType):
    """JAX with a version that the suite's own comparisons order rightly.

    They compare text, and would skip silently on JAX 0.10 and newer.
    """

    __version__ = _Version(jax.__version__)

    def __getattr__(self, name: str) -> Any:
        return getattr(jax, name)


_JAX = _Jax("jax")


def load(suite: Suite, row: Row) -> type[unittest.TestCase]:
    """Execute the suite's module with our row in the place of its table."""
    spec = importlib.util.find_spec(suite.module)
    assert spec is not None, f"this Optax ships no {suite.module}"
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    ours = [node for node in classes if node.name == suite.name]
    assert len(ours) == 1, f"{suite.module} has no class {suite.name}"
    tree.body = [node for node in tree.body if node in ours or node not in classes]
    at = tree.body.index(ours[0])
    tree.body[at:at] = ast.parse("__put_row__()").body

    def put_row() -> None:
        names = suite.names(row)
        assert names.keys() <= namespace.keys(), f"{suite.module} lacks its table"
        namespace.update(names)

    namespace = {"__name__": suite.module, "__put_row__": put_row}
    with unittest.mock.patch.dict(os.environ), warnings.catch_warnings():
        # Building all optimizers of Optax's table warns, and one module sets XLA_FLAGS.
        warnings.simplefilter("ignore")
        exec(compile(tree, spec.origin, "exec"), namespace)
    return namespace[suite.name]


def base_name(suite: Suite, row: Row, method: str) -> str:
    """Return the test a case belongs to: absl appends a number or the row's name."""
    for name in suite.foreign:
        if method.startswith(name):
            return name
    suffixes = rf"(\d*|_?{re.escape(row.name)})"
    for name in suite.tests:
        if re.fullmatch(name + suffixes, method):
            return name
    return method


def methods(case: type[unittest.TestCase]) -> list[str]:
    return unittest.TestLoader().getTestCaseNames(case)


def marks(suite: Suite, row: Row, method: str) -> tuple[pytest.MarkDecorator, ...]:
    """Leave to the long run all rows but the first.

    Of that one, too, what Optax tests twice, in nearly the same words. The laws of
    `rmda_jax.testing` ask every row for the same.
    """
    contrib = SUITES[0]
    twice = suite.name == "AliasTest" and base_name(suite, row, method) in contrib.tests
    return (pytest.mark.long,) if twice or row is not SUITE_ROWS[0] else ()


LOADED = [(s, row, load(s, row)) for s in SUITES for row in SUITE_ROWS]
CASES = [
    pytest.param(
        *(suite, row, case, method),
        id=f"{row}-{suite.name}-{method}",
        marks=marks(suite, row, method),
    )
    for suite, row, case in LOADED
    for method in methods(case)
    if base_name(suite, row, method) not in suite.foreign
]


@pytest.mark.parametrize(
    ("suite", "row", "case"), LOADED, ids=lambda x: getattr(x, "name", "")
)
def test_suite_has_the_tests_that_are_listed(suite, row, case):
    found = collections.Counter(base_name(suite, row, m) for m in methods(case))
    for name in suite.foreign:
        assert found.pop(name, 0), f"Optax no longer has {name}: unlist it"
    assert found == suite.tests


@pytest.mark.parametrize(("suite", "row", "case", "method"), CASES)
def test_optax_suite(suite, row, case, method):
    test = case(method)
    needed = suite.newest.get(base_name(suite, row, method), (0,))
    if jax.__version_info__ < needed:
        pytest.skip(f"needs JAX {needed}")
    try:
        if "complex" in str(test) and row.refuses_complex:
            with pytest.raises(TypeError, match=row.refuses_complex):
                test.debug()
        else:
            test.debug()
    except unittest.SkipTest as skip:
        pytest.fail(f"{test} skipped itself: {skip}")


def test_versions_compare_by_number():
    assert not _Version("0.10.2") < "0.7.2"
    assert _Version("0.6.2") < "0.7.2"
    assert _JAX.numpy is jax.numpy
