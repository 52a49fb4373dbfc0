"""The methods that the demo compares, and their settings."""

from typing import Literal, NamedTuple

import optax
from flax import nnx

import rmda_jax as rj

# In Flax kernels are (..., in, out): axis -2 makes one group of all the weights that
# leave an input channel (convolution) or an input neuron (dense layer).
REGULARIZER = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])
MILESTONES = (1 / 2, 3 / 4)  # of the run, where a new stage begins
GAMMA = 0.1  # a new stage multiplies the learning rate by it, and divides averaging


class Method(NamedTuple):
    """How a method's settings follow from those of the demo."""

    rate: float = 1.0  # its learning rate, relative to that of SGD
    strengths: tuple[float, ...] = (0.0,)  # what `select_strength` tries
    selected: float = 0.0  # and what it chose


STRENGTHS = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)

METHODS = {
    "dense SGD": Method(),
    "RMDA": Method(1.0, STRENGTHS, 1e-3),
    "RAMDA": Method(0.1, STRENGTHS, 1e-3),
    "ProxSGD": Method(1.0, STRENGTHS, 1e-3),
    "ProxGen": Method(0.01, STRENGTHS, 1e-3),
    "ProxSSI": Method(0.01, STRENGTHS, 1e-3),
    # Without a group lasso: its strength is the share of weights removed.
    "RigL": Method(1.0, (0.5, 0.8, 0.9, 0.95, 0.98), 0.9),
}
MethodName = Literal[
    "dense SGD", "RMDA", "RAMDA", "ProxSGD", "ProxGen", "ProxSSI", "RigL"
]


def make_optimizer(
    method: str, learning_rate: float, strength: float | None, n_steps: int
) -> optax.GradientTransformation:
    """Return the optimizer of one of METHODS, for a run of `n_steps` steps."""
    settings = METHODS[method]
    strength = settings.selected if strength is None else strength
    # In the last of the three stages averaging is 1, which means none: from there on
    # the params are the structured iterate itself.
    stages = rj.stages(
        settings.rate * learning_rate,
        milestones=[int(milestone * n_steps) for milestone in MILESTONES],
        gamma=GAMMA,
        averaging=GAMMA ** len(MILESTONES),
    )
    rate = stages["learning_rate"]
    sgd = optax.sgd(rate, momentum=0.9)
    match method:
        case "RMDA":
            return rj.rmda(regularizer=REGULARIZER, strength=strength, **stages)
        case "RAMDA":
            return rj.ramda(regularizer=REGULARIZER, strength=strength, **stages)
        case "ProxSGD":
            return rj.proxsgd(rate, REGULARIZER, strength)
        case "ProxGen":
            return rj.proxgen(rate, REGULARIZER, strength)
        case "ProxSSI":
            return rj.proxssi(rate, REGULARIZER, strength)
        case "RigL":
            end_step = int(MILESTONES[-1] * n_steps)
            every = max(1, min(100, end_step // 20))
            return rj.rigl(sgd, strength, update_every=every, end_step=end_step)
        case _:
            return sgd


def structured(method: str, params: nnx.State, opt_state: optax.OptState) -> nnx.State:
    """Return the params that carry the structure."""
    if method in ("RMDA", "RAMDA"):
        return rj.structured_params(opt_state, REGULARIZER)
    if method == "RigL":
        return rj.masked_params(opt_state, params)
    return params
