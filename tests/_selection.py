"""What `make test` and `make quick` run of all cases: one of every kind.

`make test` runs all files. In those marked `costly`, of which a case takes a second or
so, a test function keeps one case of every kind; in the others, all that are not
`long`. `make quick` runs the files of `PATTERNS` alone, one case of every kind in all.
Neither runs what is marked `not_daily`: one case that takes many seconds, where others
come near it. Plain `pytest` and `RMDA_LONG` select nothing.

What a kind is, the parameters say: a law, and of some laws the class of the regularizer
that it is tried on; the factory of a truth; a model; the method of a recorded
trajectory, for `make test` all up to the first number of its name. All other functions
have one kind. Of a kind that case is chosen whose parameters were chosen least often so
far, so that over all functions every method, regularizer and dtype has its turn.
"""

import collections
import fnmatch
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from rmda_jax import testing
from tests import _table

ROOT = Path(__file__).parent
PATTERNS = (
    "laws/test_laws.py",
    "oracles/*",
    "regularizers/test_named.py",
    "regularizers/test_oracles.py",
    "regularizers/test_truth.py",
    "shrink/test_plan.py",
    "shrink/test_trace.py",
    "test_house.py",
    "test_package.py",
    "transforms/test_*_trajectories.py",
    "transforms/test_contracts.py",
)
# On every class of regularizers, in float32; the other laws on one of them.
WIDE = (testing.check_minimizes, testing.check_exact_zeros)


def is_left_out(path: Path) -> bool:
    """Whether `make quick` does not look at a file of the tests."""
    if path.is_dir() or not path.is_relative_to(ROOT):
        return False
    name = path.relative_to(ROOT).as_posix()
    return not any(fnmatch.fnmatch(name, pattern) for pattern in PATTERNS)


def kind(item: Any) -> Hashable:
    """Return what a case stands for among those of its function."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    case, law = parameters.get("case"), parameters.get("law")
    wide = law in WIDE and not item.originalname.endswith("_in_float64")
    if wide and case is not None:
        return law, _table.kind(case.regularizer)
    if law is not None:
        return law
    if "model" in parameters and item.originalname == "test_units_are_found":
        return parameters["model"]
    return getattr(case, "factory", None)


def trajectory(item: Any, costly: bool) -> Hashable:
    """Return what a recorded trajectory stands for; None of other cases.

    For `make quick` that is the method, where one function has those of several.
    """
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if not item.path.match("test_*_trajectories.py") or "name" not in parameters:
        return None
    name = Path(parameters["name"]).name
    return re.split(r"\d", name)[0] if costly else re.match("(R_[^_]*)?", name)[0]


def chosen(items: Sequence[Any], costly: bool) -> tuple[list[Any], list[Any]]:
    """Return the items that run, in their order, and the others.

    Args:
      items: Test cases.
      costly: Whether those that are not marked as costly all run.

    Those that run by default go before those that run at night.
    """
    groups: dict[Hashable, list[Any]] = collections.defaultdict(list)
    daily = [item for item in items if item.get_closest_marker("not_daily") is None]
    for item in daily:
        function = item.nodeid.partition("[")[0]
        every = costly and item.get_closest_marker("costly") is None
        of_kind = function, kind(item), trajectory(item, costly)
        groups[item.nodeid if every else of_kind].append(item)
    uses: collections.Counter[str] = collections.Counter()
    kept = set()
    for group in groups.values():
        best = min(group, key=lambda item: (_is_long(item), _uses(uses, item)))
        uses.update(_words(best))
        kept.add(best)
    runs = [item for item in items if item in kept]
    return runs, [item for item in items if item not in kept]


def _is_long(item: Any) -> bool:
    return item.get_closest_marker("long") is not None


def _words(item: Any) -> list[str]:
    """Return the parameters of a case, as its name tells them."""
    return item.callspec.id.split("-") if hasattr(item, "callspec") else []


def _uses(uses: collections.Counter[str], item: Any) -> float:
    """Return how often, on average, the parameters of a case were chosen so far."""
    words = _words(item)
    return sum(uses[word] for word in words) / max(len(words), 1)
