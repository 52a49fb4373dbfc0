"""What a regularizer's methods must answer at all, before any law can judge them."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmda_jax.regularizers import Regularizer
from rmda_jax.testing._numerics import prox, value

_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


def check_answers(regularizer: Regularizer, x: ArrayLike, step_size: float) -> None:
    r"""Check that every method returns an array of the right shape and dtype.

    `prox`, `metric_prox` and `snap` return arrays like x, `value` and
    `subgradient_distance` real scalars, `support` and `prox_support` flags of one
    shape; the prox of finite numbers is not NaN. All of it under `jax.jit`, where the
    regularizer is a static argument: it must be hashable. Every other law asks for this
    first (but for NaN), so that it fails with these messages and not with others.

    Args:
      regularizer: The regularizer.
      x: Real floating array, finite.
      step_size: :math:`t`, nonnegative and finite.

    Raises:
      AssertionError: a method answers something else; the message names it.
      TypeError, ValueError: the arguments do not fit.
    """
    x = checked(regularizer, x, step_size)
    p = prox(regularizer, x, step_size)
    found = value(regularizer, p)
    if np.isnan(p).any():
        _fail(
            regularizer,
            f"has a `prox` that is NaN in {int(np.isnan(p).sum())} of {p.size} entries "
            f"of a finite array at step size {step_size:g}. Look for 0/0, inf - inf "
            "and roots of negative numbers; put a `jnp.where` inside and one outside",
        )
    if np.isnan(found):
        _fail(regularizer, "has a `value` that is NaN at its finite prox. Look for 0/0")


def checked(
    regularizer: Regularizer, x: ArrayLike, step_size: float | None
) -> np.ndarray:
    """Return ``x`` as JAX would hold it, if it and the regularizer fit the laws.

    Args:
      regularizer: The regularizer.
      x: Array.
      step_size: Number.

    Returns:
      The array: float64 only where that is enabled.

    Raises:
      AssertionError: a method of the regularizer answers what it must not.
      TypeError, ValueError: the arguments are not what the laws need.
    """
    if not isinstance(regularizer, Regularizer):
        raise TypeError(
            f"`regularizer` must be an instance of `rmda_jax.Regularizer`, got "
            f"{regularizer!r}. Call the class or factory, and derive yours from it."
        )
    x = np.asarray(jnp.asarray(x))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"`x` must be real floating, got {x.dtype}. Convert it.")
    if not np.isfinite(x).all():
        raise ValueError("`x` must be finite: the laws put in NaN where they need it.")
    if step_size is not None and not 0 <= step_size < np.inf:
        raise ValueError(
            f"`step_size` must be nonnegative and finite, got {step_size}."
        )
    regularizer.check(x.shape, x.dtype)
    _require_hashable(regularizer)
    _check_shapes(regularizer, x.shape, x.dtype)
    return x


def _require_hashable(regularizer: Regularizer) -> None:
    """Raise an AssertionError that names the field because of which it is not."""
    try:
        _ = hash(regularizer)
    except TypeError as error:
        for name, held in getattr(regularizer, "__dict__", {}).items():
            if _is_unhashable(held):
                what = f"a {type(held).__name__}"
                if hasattr(held, "shape"):
                    what = f"an array of shape {held.shape}"
                _fail(
                    regularizer,
                    f"cannot be hashed: its field `{name}` holds {what}. A "
                    "regularizer is a static argument of `jax.jit`: hold numbers, "
                    "strings and tuples of them, and make the array inside the method",
                )
        _fail(
            regularizer,
            f"cannot be hashed: {error}. Make it a frozen dataclass of plain data",
        )


@functools.lru_cache(maxsize=256)
def _check_shapes(regularizer: Regularizer, shape: tuple[int, ...], dtype: Any) -> None:
    x = jax.ShapeDtypeStruct(shape, dtype)
    t = jax.ShapeDtypeStruct((), jnp.promote_types(dtype, jnp.float32))
    like_x = functools.partial(_require_like, regularizer, x)
    like_x("prox", regularizer.prox, x, t)
    like_x("snap", regularizer.snap, x)
    like_x("metric_prox", regularizer.metric_prox, x, t, x)
    for name, *arguments in (("value", x), ("subgradient_distance", x, x, t)):
        found = _answer(regularizer, name, getattr(regularizer, name), *arguments)
        if found.shape != () or not jnp.issubdtype(found.dtype, jnp.floating):
            _fail(
                regularizer,
                f"must return a real scalar from `{name}`, got shape {found.shape} and "
                f"dtype {found.dtype}. Sum over all axes",
            )
    flags = _answer(regularizer, "support", regularizer.support, x)
    counted = _answer(regularizer, "prox_support", regularizer.prox_support, x, t)
    for name, found in (("support", flags), ("prox_support", counted)):
        if found.dtype != bool or found.shape != flags.shape:
            _fail(
                regularizer,
                f"must return bool of shape {flags.shape} from `{name}`, got "
                f"{found.dtype} of shape {found.shape}. Compare, as in `x != 0`",
            )


def _require_like(
    regularizer: Regularizer,
    x: jax.ShapeDtypeStruct,
    name: str,
    method: Callable[..., Any],
    *arguments: Any,
) -> None:
    found = _answer(regularizer, name, method, *arguments)
    if (found.shape, found.dtype) != (x.shape, x.dtype):
        _fail(
            regularizer,
            f"must return shape {x.shape} and dtype {x.dtype} from `{name}`, as its "
            f"argument has, got shape {found.shape} and dtype {found.dtype}. Keep "
            "reduced axes (`keepdims=True`), and cast with `astype(x.dtype)`",
        )


def _answer(
    regularizer: Regularizer, name: str, method: Callable[..., Any], *arguments: Any
) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of what a method returns, traced."""
    try:
        found = jax.eval_shape(method, *arguments)
    except _UNTRACEABLE as error:
        _fail(
            regularizer,
            f"has a `{name}` that JAX cannot trace: {str(error).splitlines()[0]} "
            "Choose with `jnp.where`, not `if`, and call `jnp`, not `np`",
            error,
        )
    except (TypeError, ValueError) as error:
        _fail(
            regularizer,
            f"has a `{name}` that fails on an array that `check` accepts: {error} "
            "Raise in `_check` if the array does not fit",
            error,
        )
    if not isinstance(found, jax.ShapeDtypeStruct):
        _fail(
            regularizer,
            f"must return one array from `{name}`, got {jax.tree.structure(found)}. "
            "Return what the method of `rmda_jax.Regularizer` does",
        )
    return found


def _fail(
    regularizer: Regularizer, says: str, cause: Exception | None = None
) -> NoReturn:
    # Not its own string, which may hold arrays.
    raise AssertionError(f"answers: {type(regularizer).__name__} {says}.") from cause


def _is_unhashable(thing: Any) -> bool:
    try:
        _ = hash(thing)
    except TypeError:
        return True
    return False
