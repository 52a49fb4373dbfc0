"""The methods that the demo compares, and their settings."""

from typing import Any, Literal, NamedTuple

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
STRENGTHS = (5e-4, 1e-3, 2e-3, 3e-3, 4e-3)
KEPT = (0.6, 0.45, 0.35, 0.25, 0.15)
RAMP = (
    0.5  # of the run, after which a budget is reached; nothing goes in its first fifth
)


class Setting(NamedTuple):
    """What a run is trained by."""

    learning_rate: Any  # of the first stage
    value: Any  # strength of the group lasso; a budget: the share of groups kept


class Method(NamedTuple):
    """What `--select` tries, and which learning rate it chose."""

    learning_rates: tuple[float, ...]
    values: tuple[float, ...]  # all of the front
    selected: float


METHODS = {
    "dense": Method((0.01, 0.03, 0.1), (0.0,), 0.03),
    "RMDA, budget": Method((0.1, 0.3, 1.0), KEPT, 1.0),
    "RMDA": Method((0.1, 0.3, 1.0), STRENGTHS, 1.0),
    "RAMDA": Method((0.01, 0.03, 0.1), STRENGTHS, 0.01),
    "ProxSGD": Method((0.1, 0.3, 1.0), STRENGTHS, 1.0),
    "ProxGen": Method((0.001, 0.003, 0.01), STRENGTHS, 0.01),
}
MethodName = Literal["dense", "RMDA, budget", "RMDA", "RAMDA", "ProxSGD", "ProxGen"]


def make_optimizer(
    method: str, setting: Setting, n_steps: int
) -> optax.GradientTransformation:
    """Return the optimizer of one of METHODS, for a run of `n_steps` steps."""
    # Those of learning rate 1, times the real one, which may be traced.
    stages = rj.stages(
        1.0,
        milestones=[int(milestone * n_steps) for milestone in MILESTONES],
        gamma=GAMMA,
        averaging=AVERAGING,
        ramp="sqrt",
    )
    decay, value = stages["learning_rate"], setting.value
    rate = lambda count: setting.learning_rate * decay(count)
    stages["learning_rate"] = rate
    match method:
        case "RMDA":
            return rj.rmda(regularizer=REGULARIZER, strength=value, **stages)
        case "RMDA, budget":
            kept = rj.budget(groups=value, ramp_steps=int(RAMP * n_steps))
            return rj.rmda(regularizer=REGULARIZER, strength=kept, **stages)
        case "RAMDA":
            return rj.ramda(regularizer=REGULARIZER, strength=value, **stages)
        case "ProxSGD":
            return rj.proxsgd(rate, REGULARIZER, value, averaging=1 - MOMENTUM)
        case "ProxGen":
            return rj.proxgen(rate, REGULARIZER, value, b1=MOMENTUM)
        case _:
            return optax.sgd(rate, momentum=MOMENTUM)


def structured(method: str, params: nnx.State, opt_state: optax.OptState) -> nnx.State:
    """Return the params that carry the structure."""
    if method in ("RMDA", "RMDA, budget", "RAMDA"):
        return rj.structured_params(opt_state, REGULARIZER)
    return params
