"""All laws of transformations, as one table and one call."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import optax

from rmda_jax.testing._trial import Trial
from rmda_jax.testing._update_numbers import (
    check_accumulators,
    check_nan_spreads,
    check_update_dtypes,
    check_update_zeros,
    check_zero_strength,
)
from rmda_jax.testing._update_programs import (
    check_batches,
    check_compiled,
    check_pure,
    check_scan,
)
from rmda_jax.testing._update_states import (
    check_checkpoint,
    check_donation,
    check_init,
    check_state,
    check_trees,
)

UpdateLaw = Callable[[Trial], None]

UPDATE_LAWS: tuple[UpdateLaw, ...] = (
    check_state,
    check_pure,
    check_init,
    check_compiled,
    check_scan,
    check_batches,
    check_donation,
    check_checkpoint,
    check_trees,
    check_update_dtypes,
    check_accumulators,
    check_nan_spreads,
    check_zero_strength,
    check_update_zeros,
)


def check_transformation(
    make: Callable[..., optax.GradientTransformation],
    params: Any,
    gradients: Sequence[Any],
    *,
    regularizer: Any = None,
    ulps: float = 10.0,
    exempt: Collection[UpdateLaw] = (),
) -> None:
    """Check every law of transformations on some updates.

    They are what a training loop relies on: the update is a pure function that can be
    compiled, scanned, batched and donated to; the state survives a checkpoint; low
    precision, NaN and zeros are handled as they should. Whether the method converges is
    not asked.

    Args:
      make: As in `Trial`, as are the next four.
      params: Real floating arrays.
      gradients: One tree like the params for every update.
      regularizer: What makes exact zeros; None if nothing does.
      ulps: Rounding to forgive.
      exempt: Laws to leave out, for a reason that the docstring of the transformation
        gives: ``check_init`` for a state that starts at the params, for instance.

    Raises:
      AssertionError: a law is broken; the message names it.
      TypeError, ValueError: the arguments cannot be used.

    Examples:
      >>> import functools
      >>> from rmda_jax.testing import check_transformation
      >>> make = functools.partial(rj.proxsgd, 0.1, rj.l1(), strength=0.3)
      >>> params = {"w": jnp.array([1.0, -0.02, 0.5])}
      >>> gradients = [{"w": jnp.array([0.1, 0.1, -0.3])}] * 3
      >>> check_transformation(make, params, gradients, regularizer=rj.l1())
    """
    trial = Trial(make, params, gradients, regularizer, ulps)
    for law in UPDATE_LAWS:
        if law not in exempt:
            law(trial)
