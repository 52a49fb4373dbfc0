"""The states of this library in any optimizer state, and where their zeros are."""

from collections.abc import Callable
from typing import Any

import jax

from rmda_jax.transforms._adam import ProxAdamState
from rmda_jax.transforms._heal_state import HealState
from rmda_jax.transforms._latent_state import LatentState
from rmda_jax.transforms._proxsgd import ProxSGDState
from rmda_jax.transforms._proxsgd_adaptive import ProxSGDAdaptiveState
from rmda_jax.transforms._ramda import RAMDAState
from rmda_jax.transforms._rigl import RigLState
from rmda_jax.transforms._rmda import RMDAState
from rmda_jax.transforms._state import StructuredState

_IN_PARAMS = (
    "its params carry the exact zeros themselves, after every update. Measure and "
    "deploy them: `metrics.group_sparsity(params, regularizer)`, "
    "`RegularizerMap.support(params)`. An averaged gradient, which certificates "
    "need, is kept by rmda and ramda alone"
)
_IN_ITERATE = "`structured_params` of it carries the exact zeros"
_REMARKS: dict[type, tuple[str, str]] = {
    ProxSGDState: ("proxsgd", _IN_PARAMS),
    ProxAdamState: ("proxgen or proxssi", _IN_PARAMS),
    ProxSGDAdaptiveState: (
        "proxsgd_adaptive",
        "its params are convex combinations, which are never exactly zero, and it "
        "keeps no other iterate. For exact zeros train with proxsgd, whose step is "
        "whole, or with rmda",
    ),
    RigLState: (
        "rigl",
        "its params are exactly zero where it has no weight, after every update; "
        "`rigl_params` makes the first ones so. Measure and deploy the params",
    ),
    HealState: (
        "heal",
        "once it heals, its params carry the exact zeros themselves, after every "
        "update. Until then they are where those of its method are",
    ),
    LatentState: ("latent, aprox, normal_map or linbreg", _IN_PARAMS),
    RMDAState: ("rmda", _IN_ITERATE),
    RAMDAState: ("ramda", _IN_ITERATE),
}


def states_in(opt_state: Any, is_state: Callable[[Any], bool]) -> list[Any]:
    """Return the states of a kind inside an optimizer state, outermost first."""
    nodes: list[Any] = jax.tree.leaves(opt_state, is_leaf=is_state)
    return [node for node in nodes if is_state(node)]


def states_of_run(opt_state: Any) -> list[Any]:
    """Return the states of this library, or raise a TypeError if there is none.

    That of `rigl` is among them only if what it wraps has none.
    """

    def has_prox(node: Any) -> bool:
        known = isinstance(node, tuple(_REMARKS)) and not isinstance(node, RigLState)
        return known or isinstance(node, StructuredState)

    found = states_in(opt_state, has_prox) or states_in(
        opt_state, lambda node: isinstance(node, RigLState)
    )
    if not found:
        raise TypeError(
            "`opt_state` holds no state of a transformation of rmda_jax, got "
            f"{type(opt_state).__name__}. {where_the_zeros_are(opt_state)}"
        )
    return found


def where_the_zeros_are(opt_state: Any) -> str:
    """Say what to do instead if a reader did not find the state it is about."""
    known = tuple(_REMARKS)
    for state in states_in(opt_state, lambda node: isinstance(node, known)):
        name, remark = _REMARKS[type(state)]
        return f"It is the state of {name}: {remark}."
    return "Pass the state its `init` or `update` returned."


def check_takes_no_prox(name: str, inner_state: Any) -> None:
    """Raise a TypeError if a wrapped transformation is one of this library.

    Args:
      name: What the user calls the transformation.
      inner_state: Its state.
    """
    for state in states_in(inner_state, lambda node: isinstance(node, tuple(_REMARKS))):
        raise TypeError(
            f"`{name}` must not take a prox itself, got a transformation with the "
            f"state of {_REMARKS[type(state)][0]}. Give an optimizer of Optax, such as "
            "optax.adamw(1e-3)."
        )
