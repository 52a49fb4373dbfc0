"""The methods of the identification example, and their settings."""

import optax
from jax.typing import ArrayLike

import rmda_jax as rj
from examples.identification.problem import STRENGTH

REGULARIZER = rj.group_lasso(group_axes=0, weighted=False)
MOMENTUM = 0.9  # of ProxSGD, ProxGen and ProxSSI
AVERAGING = 0.1  # of RMDA and RAMDA; 1 in the later stages of a rate that decays
RATES = (1.0, 0.1, 0.01, 0.001, 0.0001)  # to select a learning rate from
# The one of them with which each method came nearest to the optimum.
METHODS = {
    "RMDA": 0.1,
    "RAMDA": 0.001,
    "ProxSGD": 0.01,
    "ProxGen": 0.01,
    "ProxSSI": 0.01,
}
DUAL_AVERAGING = ("RMDA", "RAMDA")
# Every method with a constant learning rate, and with one that decays.
Run = tuple[str, bool]
RUNS: list[Run] = [(method, decay) for decay in (False, True) for method in METHODS]


def milestones(n_steps: int) -> list[int]:
    """Return when a learning rate that decays falls to a tenth."""
    return [n_steps // 3, 2 * n_steps // 3]


def make_optimizer(
    method: str, decay: bool, rate: ArrayLike, n_steps: int
) -> optax.GradientTransformation:
    """Return the optimizer of one of METHODS; `rate` may be traced."""
    stages = rj.stages(1.0, milestones(n_steps) if decay else [], averaging=AVERAGING)
    shared = (
        lambda count: rate * stages["learning_rate"](count),
        REGULARIZER,
        STRENGTH,
    )
    when = {key: stages[key] for key in ("averaging", "restart_steps")}
    match method:
        case "RMDA":
            return rj.rmda(*shared, **when)
        case "RAMDA":
            return rj.ramda(*shared, **when)
        case "ProxSGD":
            return rj.proxsgd(*shared, averaging=1 - MOMENTUM)
        case "ProxGen":
            return rj.proxgen(*shared, b1=MOMENTUM)
        case _:
            return rj.proxssi(*shared, b1=MOMENTUM)
