"""Laws of what a transformation computes: precision, NaN, strength 0, exact zeros."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rmda_jax.specs import RegularizerMap
from rmda_jax.testing._trial import (
    Trial,
    fail,
    is_float,
    numbers,
    require_same,
    step_of,
    train,
)
from rmda_jax.transforms import structured_params, structured_support

_HALVES = (jnp.bfloat16, jnp.float16)


def check_update_dtypes(trial: Trial) -> None:
    """Check that bfloat16 and float16 params stay what they are.

    Updates have the dtype of the params, and applying them keeps it.

    Args:
      trial: The transformation; its params are cast.

    Raises:
      AssertionError: a dtype changes.
    """
    for dtype in _HALVES:
        updates, _ = _low_precision_update(trial, dtype)
        params = jax.eval_shape(
            optax.apply_updates, _cast(trial.params, dtype), updates
        )
        for tree, what in ((updates, "updates"), (params, "params")):
            found = {x.dtype for x in jax.tree.leaves(tree)} - {jnp.dtype(dtype)}
            if found:
                name, others = jnp.dtype(dtype).name, ", ".join(map(str, found))
                fail("update dtypes", f"turns {name} params into {others} {what}.")


def check_accumulators(trial: Trial) -> None:
    """Check that what the state accumulates is float32 at least.

    Small numbers that are added to large ones vanish in bfloat16.

    Args:
      trial: The transformation; its params are cast to bfloat16 and float16.

    Raises:
      AssertionError: a floating leaf of the state is in half precision.
    """
    for dtype in _HALVES:
        _, state = _low_precision_update(trial, dtype)
        for path, x in jax.tree_util.tree_leaves_with_path(state):
            if is_float(x) and x.dtype.itemsize < 4:
                name = jax.tree_util.keystr(path)
                says = f"accumulates {name} in {x.dtype}. Make it float32."
                fail("accumulators", says)


def check_nan_spreads(trial: Trial) -> None:
    """Check that NaN in a gradient reaches the params, rather than a clean zero.

    Once every entry of the second gradient is NaN, and once one entry of every leaf.
    With a regularizer each entry hit must be NaN after the update; without one, each
    that the clean update leaves nonzero, for masks may stay.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: an entry stays finite. Exempt what rejects NaN on purpose.
    """
    law = "NaN"
    index = min(1, len(trial.gradients) - 1)
    (params, state), gradient = trial.history[index], trial.gradients[index]
    clean = trial.history[index + 1][0]
    everywhere = jax.tree.map(lambda g: np.ones(g.shape, bool), gradient)
    somewhere = jax.tree.map(
        lambda g: np.arange(g.size).reshape(g.shape) == 0, gradient
    )
    for hit in (everywhere, somewhere):
        poisoned = jax.tree.map(lambda g, h: jnp.where(h, jnp.nan, g), gradient, hit)
        found, _ = trial.step(params, state, poisoned)
        trees = zip(
            jax.tree_util.tree_leaves_with_path(found),
            *map(jax.tree.leaves, (clean, hit)),
            strict=True,
        )
        for (path, x), w, flags in trees:
            asked = (
                flags if trial.regularizer is not None else flags & (numbers(w) != 0)
            )
            kept = asked & np.isfinite(numbers(x).astype(np.float64))
            if kept.any():
                fail(
                    law,
                    f"turns NaN in {int(kept.sum())} entries of the gradient of "
                    f"{jax.tree_util.keystr(path)} into {numbers(x)[kept][0]}. Compare "
                    "such that NaN takes the branch that returns NaN.",
                )


def check_zero_strength(trial: Trial) -> None:
    """Check that strength 0 is no regularizer, to the bit, and any other one matters.

    Asked if ``make`` has parameters ``strength`` and ``regularizer``. Exempt
    indicators: they project at any strength.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: strength 0 has an effect, or the strength has none.
    """
    if not (trial.takes("strength") and trial.takes("regularizer")):
        return

    def final(tx: optax.GradientTransformation) -> Any:
        # Eagerly, what is equal in exact terms is equal to the last bit.
        start = trial.params, tx.init(trial.params)
        return train(step_of(tx), *start, trial.gradients[:4])[-1][0]

    law, nothing = "zero strength", RegularizerMap([("*", None)])
    free = final(trial.make(regularizer=nothing))
    neutral = final(trial.make(strength=0.0))
    require_same(neutral, free, law, "regularizes at strength 0")
    try:
        require_same(final(trial.tx), free, law, "")
    except AssertionError:
        return
    fail(law, "does not regularize at all. Choose a larger strength, or use it.")


def check_update_zeros(trial: Trial) -> None:
    """Check that zeros are exact after every update.

    Asked if the trial has a regularizer. Where the structured iterate, if there is
    one, is 0, the params are exactly 0 or still on their way; otherwise no entry of
    the params shrinks in one update to the size of its rounding, and is not 0. The
    support of the structured iterate is what `structured_support` says.

    Args:
      trial: The transformation, with a strength at which some entries become 0.

    Raises:
      AssertionError: a zero is not exact, or there is none.
    """
    if trial.regularizer is None:
        return
    law, found = "update zeros", 0
    for (old, _), (new, state) in zip(
        trial.history[:-1], trial.history[1:], strict=True
    ):
        structured = _structured(state, trial.regularizer, new)
        if structured is not None:
            _require_support(trial, structured, state)
        leaves = jax.tree_util.tree_leaves_with_path(new)
        olds, targets = jax.tree.leaves(old), jax.tree.leaves(structured)
        for at, ((path, x), before) in enumerate(zip(leaves, olds, strict=True)):
            size = np.abs(numbers(before).astype(np.float64))
            eps = float(jnp.finfo(before.dtype).eps)
            left = np.abs(numbers(x).astype(np.float64))
            size = np.where(size > 0, size, size.max(initial=0))
            almost = (left > 0) & (left <= 4 * eps * size)
            if targets:
                zero = numbers(targets[at]) == 0
                almost, found = almost & zero, found + int(zero.sum())
            else:
                # A half-precision entry may well shrink that much by itself.
                almost, found = almost & (eps < 1e-5), found + int((left == 0).sum())
            if almost.any():
                fail(
                    law,
                    f"leaves {numbers(x)[almost][0]:.3g} of "
                    f"{numbers(before)[almost][0]:.3g} in "
                    f"{jax.tree_util.keystr(path)}, where 0 is meant. Return `p - w` "
                    "for the prox `p`: added to `w` it gives 0 where `p` is.",
                )
    if not found:
        fail(law, "has no zeros to test. Choose a larger strength.")


def _structured(state: Any, regularizer: Any, params: Any) -> Any:
    """Return the structured iterate like the params; None where there is none."""
    try:
        _ = structured_params(state, regularizer)
    except TypeError:
        return None
    return structured_params(state, regularizer, params)


def _require_support(trial: Trial, structured: Any, state: Any) -> None:
    """Raise unless `structured_support` is the support of the structured iterate."""
    regularizer = trial.regularizer
    if not isinstance(regularizer, RegularizerMap):
        regularizer = RegularizerMap([("*", regularizer)])
    says = "has another `structured_support` than its structured iterate"
    support = structured_support(state, regularizer)
    require_same(support, regularizer.support(structured), "update zeros", says)


def _low_precision_update(trial: Trial, dtype: Any) -> tuple[Any, Any]:
    """Return the types of updates and state in another precision."""
    params, gradient = (_cast(t, dtype) for t in (trial.params, trial.gradients[0]))
    state = jax.eval_shape(trial.tx.init, params)
    return jax.eval_shape(trial.tx.update, gradient, state, params)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), dtype), tree)
