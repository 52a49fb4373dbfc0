"""The state of `heal`, apart from it: what reads states must know it, too."""

from typing import Any, NamedTuple

import jax


class HealState(NamedTuple):
    """State of `heal`: those of both phases, of which the active one advances."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far, of both phases  # pyright: ignore[reportIncompatibleMethodOverride]
    healing: jax.Array  # bool: whether the support is frozen from now on
    method_state: Any
    optimizer_state: Any
