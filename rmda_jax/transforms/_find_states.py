"""The structured states inside an optimizer state, or what to say if there are none."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import optax
from jax.core import Tracer

from rmda_jax.specs._names import is_variable
from rmda_jax.transforms._arguments import check_single
from rmda_jax.transforms._elsewhere import states_in, where_the_zeros_are
from rmda_jax.transforms._heal_state import HealState
from rmda_jax.transforms._state import StructuredState, unwrap


class FoundState(NamedTuple):
    """A structured state, and whether it is of the past."""

    state: Any
    healing: jax.Array | bool  # once `heal` heals, the state of its method stands still


def find_states(opt_state: Any, *, may_heal: bool = False) -> list[FoundState]:
    """Return every structured state inside an optimizer state, or raise a TypeError.

    Args:
      opt_state: The optimizer state.
      may_heal: Whether states are welcome that `heal` has left behind.
    """
    _ = _check_last(opt_state)
    found = list(_nested(opt_state, False))
    if not found:
        raise TypeError(
            "`opt_state` holds no state of a structured transformation such as rmda, "
            f"got {type(opt_state).__name__}. {where_the_zeros_are(opt_state)}"
        )
    for state, healing in found:
        if not may_heal:
            _check_not_healing(healing)
        past = not isinstance(healing, Tracer) and bool(healing)
        if not past and not isinstance(state.count, Tracer) and state.count == 0:
            raise ValueError(
                "there is no structured iterate before the first update: the "
                "state's count is 0. Use the params."
            )
    return found


def _nested(opt_state: Any, healing: jax.Array | bool) -> Iterator[FoundState]:
    """Yield every structured state, of `heal` those of its method."""
    kinds = HealState, StructuredState
    for node in states_in(opt_state, lambda node: isinstance(node, kinds)):
        state = _with_plain_scalars(node)
        check_single(state)
        if isinstance(state, HealState):
            both = state.healing if healing is False else state.healing | healing
            yield from _nested(state.method_state, both)
        else:
            yield FoundState(state, healing)


def _check_not_healing(healing: jax.Array | bool) -> None:
    """Raise a TypeError if there is no structured iterate, or cannot be known."""
    if isinstance(healing, Tracer):
        raise TypeError(
            "whether `heal` heals is not known while this is traced, and from then on "
            "there is no structured iterate. Give `structured_params` the `params`, "
            "which it returns in that case; or read the `method_state` of its state "
            "before, and the params after."
        )
    if healing:
        raise TypeError(
            "`heal` heals: the structured iterate of its method is of the past, and "
            "the params carry the exact zeros themselves, after every update. Measure "
            "and deploy them: `metrics.group_sparsity(params, regularizer)`, "
            "`RegularizerMap.support(params)`."
        )


def _with_plain_scalars(state: Any) -> Any:
    """Return the state with arrays in place of NNX variables in its scalar fields."""
    return type(state)(*(unwrap(x) if is_variable(x) else x for x in state))


# States whose transformation may stand after a structured one in a chain: it changes no
# updates, or (masked) perhaps only those of other leaves.
_MAY_FOLLOW = optax.MonitorState, optax.SnapshotState, optax.MaskedState
_INSTEAD = (
    "What changes gradients (clipping) goes before it. What scales the learning rate "
    "(a schedule, reduce_on_plateau) goes into its `learning_rate`, which "
    "optax.inject_hyperparams lets a training loop set. Weight decay is a regularizer, "
    "squared_l2 or elastic_net, or stands before it and averages like a gradient."
)


def _check_last(node: Any) -> bool:
    """Return whether a structured state is inside; raise if a chain goes on after it.

    The state of a chain is a plain tuple. That of `optax.named_chain` is a dict, which
    JAX sorts: its order cannot be told.
    """
    if isinstance(node, StructuredState):
        return True
    children = jax.tree.leaves(node, is_leaf=lambda child: child is not node)
    held = [child is not node and _check_last(child) for child in children]
    if type(node) is tuple and any(held):
        at = held.index(True)
        after = [
            f"place {i + 1} of {len(node)}, whose state is {type(state).__name__}"
            for i, state in enumerate(node)
            if i > at
            and isinstance(state, tuple)
            and not isinstance(state, _MAY_FOLLOW)
        ]
        if after:
            raise ValueError(
                "nothing that changes updates may stand after a structured "
                f"transformation in an `optax.chain`, got {'; '.join(after)}: the "
                f"params would miss its zeros. {_INSTEAD}"
            )
    return any(held)
