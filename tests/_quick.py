"""What `make quick` runs: one case of every law, truth, trajectory and model.

The tables that parametrize the tests choose. A test function keeps its first case of
every kind, and what a kind is, its parameters say: a law with the class of the
regularizer that it is tried on, the factory of a truth, a model. All other functions
keep their first case. Files that are not in `PATTERNS` are left to `make test`.
"""

import fnmatch
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rmda_jax import testing
from tests import _table

ROOT = Path(__file__).parent
PATTERNS = (
    "laws/test_laws.py",
    "metrics/*",
    "oracles/*",
    "regularizers/test_named.py",
    "regularizers/test_oracles.py",
    "regularizers/test_truth.py",
    "schedules/*",
    "shrink/interpret/*",
    "shrink/test_plan.py",
    "shrink/test_trace.py",
    "specs/test_map.py",
    "specs/test_names.py",
    "test_house.py",
    "test_package.py",
    "transforms/test_*_trajectories.py",
    "transforms/test_contracts.py",
)
# On every class of regularizers; the other laws on one of them.
WIDE = (
    testing.check_minimizes,
    testing.check_exact_zeros,
    testing.check_metric_prox,
    testing.check_jit,
)


def is_left_out(path: Path) -> bool:
    """Whether a file of the tests is not looked at."""
    if path.is_dir() or not path.is_relative_to(ROOT):
        return False
    name = path.relative_to(ROOT).as_posix()
    return not any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)


def kind(item: Any) -> Hashable:
    """Return what a case stands for among those of its function."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    case, law = parameters.get("case"), parameters.get("law")
    if law in WIDE and case is not None:
        return law, _table.kind(case.regularizer)
    if law is not None:
        return law
    if "model" in parameters and item.originalname == "test_units_are_found":
        return parameters["model"]
    return getattr(case, "factory", None)


def chosen(items: Sequence[pytest.Item]) -> tuple[list[Any], list[Any]]:
    """Return the first item of every kind of every function, and the others.

    Those that run by default go before those that run at night.
    """
    first, others, seen = [], [], set()
    at_night = lambda item: item.get_closest_marker("long") is not None
    for item in sorted(items, key=at_night):
        function = item.nodeid.partition("[")[0]
        key = function, kind(item)
        (others if key in seen else first).append(item)
        seen.add(key)
    return first, others
