"""What is known of all arrays of a function, given the values of its params."""

from collections.abc import Sequence
from typing import Any

from rmda_jax.shrink._trace import Traced
from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._values import (
    ValueInterpreter,
    known,
    known_if_finite,
    unknown,
    with_provenance,
)


def evaluated(
    found: Traced, leaves: list[Any], unknown_masks: Sequence[Any] | None = None
) -> ValueInterpreter:
    """Evaluate the jaxpr with the values of the leaves, and unknown inputs.

    Args:
      found: The trace.
      leaves: The values of the leaves.
      unknown_masks: For each leaf, which of its entries are taken to be unknown, too.
    """
    masks = unknown_masks or [False] * len(leaves)
    values = ValueInterpreter(_wanted(found), found.layers)
    jaxpr = found.closed.jaxpr
    # Only leaves that are added to something can take constants: the positions of the
    # others, as large as the params, are not needed.
    shifting = {role.leaf for role in found.axes.roles if role.name == "shifts"}
    args = []
    for name, leaf, mask in zip(found.names, leaves, masks, strict=True):
        x = known(leaf)
        x = known_if_finite(x.value, x.unknown_mask | mask)
        args.append(with_provenance(x, name) if name in shifting else x)
    for var in jaxpr.invars[len(leaves) :]:
        args.append(unknown(var.aval.shape, var.aval.dtype))
    values.outputs = values.eval_closed_jaxpr(found.closed, args)
    for out in values.outputs:
        # The caller of the function reads its outputs.
        if out.provenance is not None:
            values.reads[out.provenance.source] += 1
    return values


def _wanted(found: Traced) -> dict[Path, set[int]]:
    """Return the operands whose values are asked for, by equation."""
    wanted = {path: set(numbers) for path, numbers in found.axes.read_whole.items()}
    for anew in found.axes.recomputed.values():
        for path, number in anew.reads:
            wanted.setdefault(path, set()).add(number)
    return wanted
