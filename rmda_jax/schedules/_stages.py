"""The stagewise recipes: learning rate, averaging and restarts as one."""

import numbers
from collections.abc import Sequence
from typing import Literal, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax._types import Schedule


class Stages(TypedDict):
    """Keyword arguments of a dual-averaging transformation."""

    learning_rate: Schedule
    averaging: Schedule
    restart_steps: tuple[int, ...]


def stages(
    learning_rate: float,
    milestones: Sequence[int],
    *,
    gamma: float = 0.1,
    averaging: float = 0.01,
    ramp: Literal["geometric", "sqrt"] = "geometric",
    steps_per_epoch: int = 1,
) -> Stages:
    r"""Build the stagewise recipe of the papers, to splat into `rmda` or `ramda`.

    At every milestone the learning rate is multiplied by :math:`\gamma` and the dual
    averaging restarts. The averaging :math:`c` approaches 1, where the network itself
    becomes structured, in one of two ways:

    - ``"geometric"``, RMDA's released code: :math:`c \leftarrow \min(c/\gamma, 1)` at
      every milestone.
    - ``"sqrt"``, the RAMDA paper: constant until the last stage, and there
      :math:`c = \min(c_0\sqrt i, 1)` at its i-th update, i = 1, 2, ... It reaches 1
      after :math:`c_0^{-2}` updates.

    Args:
      learning_rate: Of the first stage, nonnegative.
      milestones: When a new stage begins, in epochs (see ``steps_per_epoch``),
        ascending and positive. A milestone listed twice applies :math:`\gamma` twice.
        With ``"sqrt"`` and no milestone, the only stage is the last.
      gamma: :math:`\gamma \in (0, 1]`.
      averaging: :math:`c` of the first stage, in (0, 1].
      ramp: How the averaging approaches 1.
      steps_per_epoch: Updates per unit of ``milestones``. PyTorch loaders keep the
        last partial batch: count it, or the stages shift.

    Returns:
      A dict with ``learning_rate`` and ``averaging`` (schedules of the number of
      updates so far) and ``restart_steps``.

    Raises:
      TypeError: milestones or steps per epoch are not whole numbers.
      ValueError: an argument is out of range, or the milestones are not ascending.

    Examples:
      >>> recipe = rj.stages(0.1, [2, 4], averaging=0.1, steps_per_epoch=10)
      >>> recipe["restart_steps"]
      (20, 40)
      >>> [float(recipe["averaging"](count)) for count in (0, 19, 20, 40)]
      [0.10000000149011612, 0.10000000149011612, 1.0, 1.0]

    References:
      Huang & Lee, `Training Structured Neural Networks Through Manifold Identification
      and Variance Reduction <https://openreview.net/forum?id=mdUYT5QV0O>`_, 2022;
      Huang, Lee & Lee, `Regularized Adaptive Momentum Dual Averaging
      <https://arxiv.org/abs/2403.14398>`_, 2024, Appendix.
    """
    if not learning_rate >= 0:
        raise ValueError(f"`learning_rate` must be nonnegative, got {learning_rate}.")
    for name, number in (("gamma", gamma), ("averaging", averaging)):
        if not 0 < number <= 1:
            raise ValueError(f"`{name}` must lie in (0, 1], got {number}.")
    milestones = tuple(milestones)
    counts = (*milestones, steps_per_epoch)
    if not all(isinstance(number, numbers.Integral) for number in counts):
        raise TypeError(
            "`milestones` and `steps_per_epoch` must be integers, got "
            f"{milestones} and {steps_per_epoch}."
        )
    if steps_per_epoch < 1:
        raise ValueError(f"`steps_per_epoch` must be positive, got {steps_per_epoch}.")
    if list(milestones) != sorted(milestones) or min(milestones, default=1) < 1:
        raise ValueError(f"`milestones` must be positive and ascend, got {milestones}.")
    if ramp not in ("geometric", "sqrt"):
        raise ValueError(f"`ramp` must be 'geometric' or 'sqrt', got {ramp!r}.")

    boundaries = np.asarray(milestones, int) * steps_per_epoch
    # Running products, as the reference multiplies them, and not powers of gamma.
    rates, averages = [learning_rate], [averaging]
    for _ in milestones:
        rates.append(rates[-1] * gamma)
        raised = averages[-1] * (1 / gamma)
        # A product that misses 1 by rounding would leave dust where zeros belong.
        averages.append(1.0 if raised > 1 - 1e-12 else raised)
    last_stage = int(boundaries[-1]) if milestones else 0

    def stage(count: ArrayLike) -> jax.Array:
        return jnp.sum(jnp.asarray(count) >= jnp.asarray(boundaries, jnp.int32))

    def rate_schedule(count: ArrayLike) -> jax.Array:
        return jnp.asarray(rates, float)[stage(count)]

    def geometric(count: ArrayLike) -> jax.Array:
        return jnp.asarray(averages, float)[stage(count)]

    def square_root(count: ArrayLike) -> jax.Array:
        steps = jnp.maximum(jnp.asarray(count) - last_stage + 1, 1)
        return jnp.minimum(averaging * jnp.sqrt(steps.astype(float)), 1.0)

    return Stages(
        learning_rate=rate_schedule,
        averaging=geometric if ramp == "geometric" else square_root,
        restart_steps=tuple(sorted({int(step) for step in boundaries})),
    )
