"""Every public factory of regularizers, with arguments to call it."""

from typing import Any

import rmda_jax as rj

ARGUMENTS: dict[str, dict[str, Any]] = {
    "binary": {},
    "box": {"lower": -0.5, "upper": 0.25},
    "box_l1": {"lower": -0.5, "upper": 0.25},
    "boxed": {"inner": rj.elastic_net(), "lower": -0.5, "upper": 0.25},
    "elastic_net": {},
    "fused_lasso": {},
    "group_l0": {},
    "group_l_half": {},
    "group_l_two_thirds": {},
    "group_lasso": {},
    "group_linf": {},
    "group_log_sum": {},
    "group_lq": {"q": 0.3},
    "group_mcp": {},
    "group_scad": {},
    "l0": {},
    "l1": {},
    "l1_ball": {},
    "l2_ball": {},
    "l2_norm": {},
    "l_half": {},
    "l_half_ball": {},
    "l_two_thirds": {},
    "linf_norm": {},
    "log_sum": {},
    "lq": {"q": 0.3},
    "mcp": {},
    "n_m": {"n": 2, "m": 4},
    "nonnegative": {},
    "nonnegative_l1": {},
    "nuclear_norm": {},
    "scad": {},
    "simplex": {},
    "sparse_group_lasso": {},
    "spectral_mcp": {},
    "squared_l2": {},
    "ternary": {},
    "top_k": {"k": 7},
    "total_variation": {},
    "uniform_levels": {"bits": 2},
}


def public_factories() -> set[str]:
    """Names of the public functions that are annotated to return a Regularizer."""
    found = set()
    for name in dir(rj):
        result = getattr(getattr(rj, name), "__annotations__", {}).get("return")
        if isinstance(result, type) and issubclass(result, rj.Regularizer):
            found.add(name)
    return found


def regularizer(name: str) -> rj.Regularizer:
    return getattr(rj, name)(**ARGUMENTS[name])
