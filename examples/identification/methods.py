"""The methods of the identification example, and their settings."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

import rmda_jax as rj
from examples.identification.problem import STRENGTH

REGULARIZER = rj.group_lasso(group_axes=0, weighted=False)
MOMENTUM = 0.9  # of ProxSGD, ProxGen, ProxSSI, and of the optimizers inside of AProx
AVERAGING = 0.1  # of RMDA and RAMDA; rises to 1 as the learning rate decays
WARM_UP = 0.05  # of the steps, before a cosine


class Setting(NamedTuple):
    """What is selected for a method, and how its learning rate goes on."""

    learning_rate: ArrayLike
    # What the strength is multiplied by. Selected only where the strength alone does
    # not say what the limit is: LinBreg, whose gamma it is, and AProx around Adam.
    factor: ArrayLike = 1.0
    decays: ArrayLike = False  # in stages, to a tenth at each milestone


# The settings that `selection` chose, by one rule for all methods.
METHODS = {
    "RMDA": Setting(0.03),
    "RMDA, cosine": Setting(0.3),
    "RAMDA": Setting(3e-4),
    "RAMDA, cosine": Setting(0.001),
    "normal map": Setting(0.003),
    "AProx, SGD": Setting(0.003),
    "AProx, Adam": Setting(0.1, 5.0),
    "LinBreg": Setting(0.003, 20.0),
    "ProxSGD": Setting(0.003),
    "ProxGen": Setting(0.003),
    "ProxSSI": Setting(0.003),
}
COSINE = ("RMDA, cosine", "RAMDA, cosine")  # in place of stages, without restarts
DUAL_AVERAGING = ("RMDA", "RAMDA", *COSINE)
LATENT = ("normal map", "AProx, SGD", "AProx, Adam", "LinBreg")
BASELINES = ("ProxSGD", "ProxGen", "ProxSSI")
WITH_FACTOR = ("AProx, Adam", "LinBreg")


class Run(NamedTuple):
    """A method with a constant learning rate, or with one that decays."""

    method: str
    decays: bool


def milestones(n_steps: int) -> list[int]:
    """Return when a learning rate that decays in stages falls to a tenth."""
    return [n_steps // 3, 2 * n_steps // 3]


def in_stages(decays: ArrayLike, n_steps: int) -> dict[str, Any]:
    """Return the schedules of a learning rate of 1 and of the averaging.

    Args:
      decays: Whether they change at the milestones; may be traced.
      n_steps: Of the whole run.
    """
    changing = rj.stages(1.0, milestones(n_steps), averaging=AVERAGING)
    return {
        name: lambda count, now=changing[name], first=first: jnp.where(
            decays, now(count), first
        )
        for name, first in (("learning_rate", 1.0), ("averaging", AVERAGING))
    }


def cosine(n_steps: int) -> dict[str, Any]:
    """Return the schedules of a warm-up and a cosine; the averaging ends at 1."""
    rate = optax.warmup_cosine_decay_schedule(0, 1, int(WARM_UP * n_steps), n_steps)
    # Geometric, and 1 in the last tenth of the steps.
    averaging = lambda count: AVERAGING ** jnp.maximum(1 - count / (0.9 * n_steps), 0)
    return {"learning_rate": rate, "averaging": averaging}


def make_optimizer(
    method: str,
    setting: Setting,
    n_steps: int,
    restart_steps: tuple[int, ...] = (),
) -> optax.GradientTransformation:
    """Return the optimizer of one of METHODS; the setting may be traced."""
    is_cosine = method in COSINE
    schedules = cosine(n_steps) if is_cosine else in_stages(setting.decays, n_steps)
    rate = lambda count: setting.learning_rate * schedules["learning_rate"](count)
    shared = rate, REGULARIZER, setting.factor * STRENGTH
    dual = {"averaging": schedules["averaging"], "restart_steps": restart_steps}
    match method.split(",")[0]:
        case "RMDA":
            return rj.rmda(*shared, **dual)
        case "RAMDA":
            return rj.ramda(*shared, **dual)
        case "normal map":
            return rj.normal_map(optax.sgd(rate), *shared)
        case "AProx":
            adam = optax.adam(rate, b1=MOMENTUM)
            return rj.aprox(adam if "Adam" in method else averaged_sgd(rate), *shared)
        case "LinBreg":
            return rj.linbreg(optax.sgd(rate), *shared[1:])
        case "ProxSGD":
            return rj.proxsgd(*shared, averaging=1 - MOMENTUM)
        case "ProxGen":
            return rj.proxgen(*shared, b1=MOMENTUM)
        case "ProxSSI":
            return rj.proxssi(*shared, b1=MOMENTUM)
    raise ValueError(f"no such method: {method}")


def averaged_sgd(
    rate: Callable[[jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Return SGD whose momentum is an average of the gradients, not their sum.

    ``optax.sgd(rate, momentum=0.9)`` takes every gradient ten times in the end, while
    gamma grows by the rate: AProx around it has a tenth of the strength.
    """
    average = optax.ema(MOMENTUM, debias=False)
    return optax.chain(average, optax.scale_by_learning_rate(rate))


def followed_gradient(method: str, params: jax.Array, state: Any) -> jax.Array:
    """Return the gradient whose prox decides what is zero; NaN if there is none.

    Of the normal map that is (x - z) / gamma, as x is the prox of what it leads to from
    x. AProx and LinBreg sum gradients up from the start.
    """
    if method in DUAL_AVERAGING:
        return state.mean_gradient()
    if method in BASELINES:
        return state.mu / (1 - MOMENTUM**state.count)  # its bias corrected
    if method == "normal map":
        return (params - state.latent) / state.gamma
    return jnp.full_like(params, jnp.nan)
