"""What a spec finds in a tree, as a table."""

from collections.abc import Sequence

import jax
import numpy as np

from rmda_jax._types import Params, Shape, spec_of
from rmda_jax.specs._bound import Bound, acting


def table(bounds: Sequence[Bound], params: Params) -> str:
    """Return a table of the leaves of a tree; see `RegularizerMap.report`."""
    leaves = jax.tree.leaves(params)
    shapes = [spec_of(leaf)[0] for leaf in leaves]
    rows, units, zeros, all_zero = [], 0, 0, []
    first = {min(bound.leaves): bound for bound in acting(bounds)}
    for i, (bound, shape) in enumerate(zip(bounds, shapes, strict=True)):
        row = (bound.name, str(shape))
        if bound.regularizer is None:
            rows.append((*row, "-", "-", "-", "-"))
            continue
        factor = "" if bound.multiplier == 1 else f"{bound.multiplier:g} x "
        row = (*row, f"{factor}{bound.regularizer}")
        if i not in first:
            # What a tie has is counted at its first leaf.
            rows.append((*row, f"with {bounds[min(bound.leaves)].name}", "", ""))
            continue
        alive = np.asarray(bound.regularizer.support(bound.of(leaves)))
        sizes = np.unique(bound.regularizer.unit_sizes(bound.of(shapes)))
        zero = int((~alive).sum())
        units, zeros = units + alive.size, zeros + zero
        if zero == alive.size and any(
            passes_on(bounds[j].name, shapes[j]) for j in bound.leaves
        ):
            all_zero.append(bound.name)
        rows.append((*row, str(alive.size), _range(sizes), _share(zero, alive.size)))
    rows.append(("total", "", "", str(units), "", _share(zeros, units)))
    return "\n".join([_aligned(rows), *called_out(all_zero)])


def passes_on(name: str, shape: Shape) -> bool:
    """Whether nothing passes through a leaf of zeros: it is a kernel, or a scale."""
    scales = ("scale", "gamma", "weight")
    return len(shape) > 1 or (len(shape) == 1 and name.split("/")[-1] in scales)


def called_out(all_zero: Sequence[str]) -> list[str]:
    """Return the line that calls out what is zero as a whole, if anything is."""
    if not all_zero:
        return []
    return [
        f"all units are zero in {', '.join(all_zero)}: nothing passes through, and "
        "without a path around, as a residual sum is, the output is constant. If "
        "training did that, the strength is too large: lower it."
    ]


def _range(sizes: np.ndarray) -> str:
    return str(sizes[0]) if sizes.size == 1 else f"{sizes[0]}-{sizes[-1]}"


def _share(zero: int, total: int) -> str:
    return f"{zero} ({zero / max(total, 1):.1%})"


def _aligned(rows: list[tuple[str, ...]]) -> str:
    header = ("leaf", "shape", "regularizer", "units", "unit size", "zero units")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, rule, *rows[:-1], rule, rows[-1])
    )
