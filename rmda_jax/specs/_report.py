"""What a spec finds in a tree, as a table."""

import warnings
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from rmda_jax._text import table_lines
from rmda_jax._types import Params, Shape, shape_dtype_of_leaf
from rmda_jax.specs._leaf_rules import LeafRule, active


def table(rules: Sequence[LeafRule], params: Params) -> tuple[str, list[str]]:
    """Return a table of the leaves of a tree, and the names of those all zero.

    See `RegularizerMap.report`.
    """
    leaves = jax.tree.leaves(params)
    named = zip(rules, leaves, strict=True)
    shapes = [shape_dtype_of_leaf(rule.name, leaf)[0] for rule, leaf in named]
    rows, units, zeros, all_zero = [], 0, 0, []
    first = {min(one.leaves): one for one in active(rules)}
    for i, (rule, shape) in enumerate(zip(rules, shapes, strict=True)):
        row = (rule.name, str(shape))
        if rule.regularizer is None:
            rows.append((*row, "-", "-", "-", "-"))
            continue
        factor = "" if rule.multiplier == 1 else f"{rule.multiplier:g} x "
        row = (*row, f"{factor}{rule.regularizer}")
        if i not in first:
            # What a tie has is counted at its first leaf.
            rows.append((*row, f"with {rules[min(rule.leaves)].name}", "", ""))
            continue
        alive = np.asarray(rule.regularizer.support(rule.take(leaves)))
        sizes = np.unique(rule.regularizer.unit_sizes(rule.take(shapes)))
        zero = int((~alive).sum())
        units, zeros = units + alive.size, zeros + zero
        if zero == alive.size and any(
            passes_on(rules[j].name, shapes[j]) for j in rule.leaves
        ):
            all_zero.append(rule.name)
        rows.append((*row, str(alive.size), _range(sizes), _share(zero, alive.size)))
    rows.append(("total", "", "", str(units), "", _share(zeros, units)))
    return _aligned(rows), all_zero


def passes_on(name: str, shape: Shape) -> bool:
    """Whether nothing passes through a leaf of zeros: it is a kernel, or a scale.

    A leaf of no entries is what `shrink` leaves of a branch that is zero.
    """
    scales = ("scale", "gamma", "weight")
    if 0 in shape:
        return False
    return len(shape) > 1 or (len(shape) == 1 and name.split("/")[-1] in scales)


def called_out(all_zero: Sequence[str]) -> list[str]:
    """Return the line that calls out what is zero as a whole, if anything is."""
    if not all_zero:
        return []
    return [
        f"all units are zero in {', '.join(all_zero)}: nothing passes through, and "
        "without a path around, as a residual sum is, the output is constant. If "
        "training did that, the strength is too large: lower it, or set a budget with "
        "`at_least` units for every rule: strength=rj.budget(groups=0.3, at_least=1)."
    ]


def warn_of_zeros(all_zero: Sequence[str], *, stacklevel: int) -> None:
    """Warn of what is zero as a whole, in the words of `called_out`."""
    for line in called_out(all_zero):
        warnings.warn(line, UserWarning, stacklevel=stacklevel + 1)


def remarks(pattern: str, ranks: Mapping[str, int]) -> list[str]:
    """Remark on a rule that takes vectors with the kernels; seldom are they meant.

    Args:
      pattern: Of the rule.
      ranks: Of the leaves it takes, by name.

    Returns:
      One line, or none.
    """
    vectors = [name for name, rank in ranks.items() if rank < 2]
    if not vectors or len(vectors) == len(ranks):
        return []
    return [
        f"rule '{pattern}' takes vectors, too: {', '.join(vectors)}. If biases and "
        "scales of norms are not meant, put a rule with None for them before it."
    ]


def _range(sizes: np.ndarray) -> str:
    if not sizes.size:
        return "-"
    return str(sizes[0]) if sizes.size == 1 else f"{sizes[0]}-{sizes[-1]}"


def _share(zero: int, total: int) -> str:
    return f"{zero} ({zero / max(total, 1):.1%})"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    header = ("leaf", "shape", "regularizer", "units", "unit size", "zero units")
    (first, *lines, total), rule = table_lines(header, rows)
    return "\n".join([first, rule, *lines, rule, total])
