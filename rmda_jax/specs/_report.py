"""What a spec finds in a tree, as a table."""

from collections.abc import Sequence

import jax
import numpy as np

from rmda_jax._types import Params, spec_of
from rmda_jax.specs._leaf_rules import LeafRule, active


def table(rules: Sequence[LeafRule], params: Params) -> str:
    """Return a table of the leaves of a tree; see `RegularizerMap.report`."""
    leaves = jax.tree.leaves(params)
    shapes = [spec_of(leaf)[0] for leaf in leaves]
    rows, units, zeros = [], 0, 0
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
        rows.append((*row, str(alive.size), _range(sizes), _share(zero, alive.size)))
    rows.append(("total", "", "", str(units), "", _share(zeros, units)))
    return _aligned(rows)


def _range(sizes: np.ndarray) -> str:
    return str(sizes[0]) if sizes.size == 1 else f"{sizes[0]}-{sizes[-1]}"


def _share(zero: int, total: int) -> str:
    return f"{zero} ({zero / max(total, 1):.1%})"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    header = ("leaf", "shape", "regularizer", "units", "unit size", "zero units")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    line = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, line, *rows[:-1], line, rows[-1])
    )
