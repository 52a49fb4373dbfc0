"""The methods that the demo compares, and their settings."""

from typing import Literal, NamedTuple

import optax
from flax import nnx

import rmda_jax as rj

# In Flax kernels are (..., in, out): axis -2 makes one group of all the weights that
# leave an input channel (convolution) or an input neuron (dense layer).
REGULARIZER = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])
MILESTONES = (0.8, 0.9)  # of the run, where a new stage begins
GAMMA = 0.1  # a new stage multiplies every learning rate by it
AVERAGING = 0.1  # of RMDA and RAMDA; rises to 1 within 100 steps of the last stage
MOMENTUM = 0.9


class Setting(NamedTuple):
    """What is selected for a method."""

    learning_rate: float  # of the first stage
    strength: float  # of the group lasso; RigL: share of the weights removed


class Method(NamedTuple):
    """What `select` of the demo tries, and what it chose."""

    learning_rates: tuple[float, ...]
    strengths: tuple[float, ...]
    selected: Setting


STRENGTHS = (1e-3, 2e-3, 4e-3)

METHODS = {
    "dense SGD": Method((0.01, 0.03, 0.1), (0.0,), Setting(0.03, 0.0)),
    "RMDA": Method((0.1, 0.3, 1.0), STRENGTHS, Setting(1.0, 2e-3)),
    "RAMDA": Method((0.01, 0.03, 0.1), STRENGTHS, Setting(0.1, 2e-3)),
    "ProxSGD": Method((0.1, 0.3, 1.0), STRENGTHS, Setting(0.3, 2e-3)),
    "ProxGen": Method((0.001, 0.003, 0.01), STRENGTHS, Setting(0.01, 2e-3)),
    "ProxSSI": Method(
        (0.001, 0.003, 0.01), (2.5e-4, 5e-4, *STRENGTHS), Setting(0.01, 5e-4)
    ),
    "RigL": Method((0.01, 0.03, 0.1), (0.8, 0.9, 0.95), Setting(0.03, 0.8)),
}
MethodName = Literal[
    "dense SGD", "RMDA", "RAMDA", "ProxSGD", "ProxGen", "ProxSSI", "RigL"
]


def make_optimizer(
    method: str, setting: Setting, n_steps: int
) -> optax.GradientTransformation:
    """Return the optimizer of one of METHODS, for a run of `n_steps` steps."""
    stages = rj.stages(
        setting.learning_rate,
        milestones=[int(milestone * n_steps) for milestone in MILESTONES],
        gamma=GAMMA,
        averaging=AVERAGING,
        ramp="sqrt",
    )
    rate, strength = stages["learning_rate"], setting.strength
    sgd = optax.sgd(rate, momentum=MOMENTUM)
    match method:
        case "RMDA":
            return rj.rmda(regularizer=REGULARIZER, strength=strength, **stages)
        case "RAMDA":
            return rj.ramda(regularizer=REGULARIZER, strength=strength, **stages)
        case "ProxSGD":
            return rj.proxsgd(rate, REGULARIZER, strength, averaging=1 - MOMENTUM)
        case "ProxGen":
            return rj.proxgen(rate, REGULARIZER, strength, b1=MOMENTUM)
        case "ProxSSI":
            return rj.proxssi(rate, REGULARIZER, strength, b1=MOMENTUM)
        case "RigL":
            end_step = int(0.75 * n_steps)
            every = max(1, min(100, end_step // 20))
            return rj.rigl(sgd, strength, update_every=every, end_step=end_step)
        case _:
            return sgd


def structured(method: str, params: nnx.State, opt_state: optax.OptState) -> nnx.State:
    """Return the params that carry the structure."""
    if method in ("RMDA", "RAMDA"):
        return rj.structured_params(opt_state, REGULARIZER)
    if method == "RigL":
        return rj.rigl_params(opt_state, params)
    return params
