"""The stagewise recipes: learning rate, averaging and restarts as one."""

import numbers
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax.schedules._momentum import warn_of_momentum
from rmda_jax.schedules._recipe import Stages


def stages(
    learning_rate: float,
    milestones: Sequence[int],
    *,
    gamma: float = 0.1,
    averaging: float = 0.01,
    ramp: Literal["geometric", "sqrt"] = "geometric",
    steps_per_epoch: int = 1,
    total_steps: int | None = None,
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
      total_steps: Updates of the whole run, with which the recipe is checked: a
        milestone beyond its end is an error; a warning tells that the averaging does
        not reach 1 in it, or that milestones look like epochs taken for updates.

    Returns:
      A dict with ``learning_rate`` and ``averaging`` (schedules of the number of
      updates so far) and ``restart_steps``, to be printed as a table of the stages.

    Raises:
      TypeError: milestones, steps per epoch or in total are not whole numbers; another
        argument is no number.
      ValueError: an argument is out of range, the milestones are not ascending, or one
        of them lies beyond the run.

    Examples:
      >>> print(rj.stages(0.1, [2, 4], steps_per_epoch=10, total_steps=60))
      stage  updates   epochs  learning rate  averaging
      -----  --------  ------  -------------  ---------
      1      0 to 19   from 0  0.1            0.01
      2      20 to 39  from 2  0.01           0.1
      3      40 to 59  from 4  0.001          1
      The averaging is 1, and zeros of the params exact, from 40 on.
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
    learning_rate = _number("learning_rate", learning_rate)
    gamma, averaging = _number("gamma", gamma), _number("averaging", averaging)
    if not learning_rate >= 0:
        raise ValueError(f"`learning_rate` must be nonnegative, got {learning_rate}.")
    for name, number in (("gamma", gamma), ("averaging", averaging)):
        if not 0 < number <= 1:
            raise ValueError(f"`{name}` must lie in (0, 1], got {number}.")
    milestones = _checked_milestones(milestones, steps_per_epoch)
    if ramp not in ("geometric", "sqrt"):
        raise ValueError(f"`ramp` must be 'geometric' or 'sqrt', got {ramp!r}.")
    warn_of_momentum(averaging, stacklevel=2)

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
        # A count may be of any width, also where promotion is strict.
        with jax.numpy_dtype_promotion("standard"):
            return jnp.sum(jnp.asarray(count) >= jnp.asarray(boundaries, jnp.int32))

    def rate_schedule(count: ArrayLike) -> jax.Array:
        return jnp.asarray(rates, float)[stage(count)]

    def geometric(count: ArrayLike) -> jax.Array:
        return jnp.asarray(averages, float)[stage(count)]

    def square_root(count: ArrayLike) -> jax.Array:
        steps = jnp.maximum(jnp.asarray(count) - last_stage + 1, 1)
        return jnp.minimum(averaging * jnp.sqrt(steps.astype(float)), 1.0)

    arguments = dict(
        learning_rate=rate_schedule,
        averaging=geometric if ramp == "geometric" else square_root,
        restart_steps=tuple(sorted({int(step) for step in boundaries})),
    )
    recipe = Stages(arguments, steps_per_epoch, total_steps)
    if total_steps is not None:
        _check_run(recipe, milestones)
    return recipe


def _number(name: str, value: Any) -> float:
    """Return a number, or an array of rank 0, as a float; a schedule is none."""
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return value  # pyright: ignore[reportReturnType]
    remedy = (
        "The recipe makes the schedules: a schedule of your own goes to the "
        "transformation itself, with `restart_steps`."
        if callable(value)
        else "Pass one such as 0.1."
    )
    raise TypeError(f"`{name}` must be a number, got {value!r}. {remedy}")


def _checked_milestones(milestones: Any, steps_per_epoch: Any) -> tuple[int, ...]:
    if isinstance(milestones, jax.Array | np.ndarray):
        milestones = np.asarray(milestones).tolist()
    if not isinstance(milestones, Iterable):
        raise TypeError(
            f"`milestones` must be a sequence of integers, got {milestones!r}. A "
            "single one is written in brackets: [50]."
        )
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
    return milestones


# Milestones that all lie in this share of the run are likely to be epochs.
_EARLY = 0.02


def _check_run(recipe: Stages, milestones: tuple[int, ...]) -> None:
    """Raise if a milestone lies beyond the run; warn of what is likely a mistake."""
    total = recipe.total_steps
    if not isinstance(total, numbers.Integral):
        raise TypeError(f"`total_steps` must be an integer, got {total!r}.")
    if total < 1:
        raise ValueError(f"`total_steps` must be positive, got {total}.")
    last = max(recipe["restart_steps"], default=0)
    if last >= total:
        raise ValueError(
            f"`milestones` must lie within the run of {total} updates, got "
            f"{milestones}, the last at update {last}, with {recipe.steps_per_epoch} "
            "updates per epoch. Give `milestones` in epochs and `total_steps` in "
            "updates, or let the run be longer."
        )
    if milestones and recipe.steps_per_epoch == 1 and last <= _EARLY * total:
        warnings.warn(
            f"the last of `milestones`, {milestones}, is update {last} of {total}. If "
            "they are epochs, pass `steps_per_epoch`.",
            UserWarning,
            stacklevel=3,
        )
    if recipe.first_exact() is None:
        warnings.warn(
            f"{recipe.ending()} Let the averaging begin higher, or the last stage be "
            "longer; or measure and deploy the structured_params.",
            UserWarning,
            stacklevel=3,
        )
