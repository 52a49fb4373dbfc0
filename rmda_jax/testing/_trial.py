"""A transformation on trial: how it is made, what it is trained on, who compares."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A transformation, and what the laws train with it.

    Args:
      make: Returns the `optax.GradientTransformation` when called without arguments.
        If it names a parameter ``strength`` or ``regularizer``, as a
        `functools.partial` of your function does, the laws also call it with other
        values of these: traced numbers, and no regularizer at all.
      params: Pytree of real floating arrays.
      gradients: Some pytrees like the params, one for each update; with three or more
        the laws see what accumulates.
      regularizer: The regularizer or `RegularizerMap` that ``make`` uses, if updates
        are to have its exact zeros; None if there is none.
      ulps: By how many units in the last place of a leaf's largest entry two programs
        may differ after one update. More, if rounding is amplified.

    Raises:
      TypeError, ValueError: the arguments cannot be used, with the remedy.

    Examples:
      >>> import functools
      >>> from rmda_jax import testing
      >>> make = functools.partial(rj.rmda, 0.1, rj.l1(), strength=0.3)
      >>> params = {"w": jnp.array([1.0, -0.02, 0.5])}
      >>> trial = testing.Trial(make, params, [params] * 3, rj.l1())
      >>> testing.check_scan(trial)
    """

    make: Callable[..., optax.GradientTransformation]
    params: Any
    gradients: Sequence[Any]
    regularizer: Any = None
    ulps: float = 10.0

    def __post_init__(self):
        if isinstance(self.make, optax.GradientTransformation) or not callable(
            self.make
        ):
            raise TypeError(
                "`make` must be a function that makes the transformation, got "
                f"{type(self.make).__name__}. Write `lambda: tx`, or "
                "`functools.partial(factory, ...)`."
            )
        leaves = jax.tree.leaves(self.params)
        if not leaves:
            raise ValueError("`params` must have leaves, got an empty tree.")
        for x in leaves:
            if not is_float(x) or not np.isfinite(np.asarray(x, np.float64)).all():
                raise ValueError(
                    "`params` must be finite real floating arrays, got "
                    f"{jnp.result_type(x)} of shape {jnp.shape(x)} with other numbers."
                )
        if not self.gradients:
            raise ValueError("`gradients` must be some trees like params, got none.")
        for tree in self.gradients:
            if jax.tree.map(jnp.shape, tree) != jax.tree.map(jnp.shape, self.params):
                raise ValueError(
                    "every one of `gradients` must be a tree like `params`, got "
                    f"{jax.tree.structure(tree)}. Pass a list of trees."
                )

    def takes(self, name: str) -> bool:
        """Return whether ``make`` has a parameter of this name."""
        return name in inspect.signature(self.make).parameters

    def default(self, name: str) -> Any:
        """Return the value that ``make`` has for a parameter; None if there is none."""
        default = inspect.signature(self.make).parameters[name].default
        return None if default is inspect.Parameter.empty else default

    @functools.cached_property
    def tx(self) -> optax.GradientTransformation:
        """The transformation."""
        return self.make()

    @functools.cached_property
    def step(self) -> Step:
        """Its compiled step, ``(params, state, gradient) -> (params, state)``."""
        return jax.jit(step_of(self.tx))

    @functools.cached_property
    def history(self) -> list[tuple[Any, Any]]:
        """Params and state at the start and after every compiled step."""
        return train(self.step, self.params, self.tx.init(self.params), self.gradients)

    @property
    def rounding(self) -> float:
        """By how many ulps two programs may differ after all updates."""
        return self.ulps * len(self.gradients)


def step_of(tx: optax.GradientTransformation) -> Step:
    """Return ``(params, state, gradient) -> (params, state)``."""

    def step(params: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


def train(
    step: Step, params: Any, state: Any, gradients: Sequence[Any]
) -> list[tuple[Any, Any]]:
    """Return params and state at the start and after every step."""
    history = [(params, state)]
    for gradient in gradients:
        history.append(step(*history[-1], gradient))
    return history


def scanned(
    tx: optax.GradientTransformation, params: Any, gradients: Any
) -> tuple[Any, Any]:
    """Return params and state after a scan over stacked gradients."""
    step = step_of(tx)
    carry = params, tx.init(params)
    return jax.lax.scan(lambda c, g: (step(*c, g), None), carry, gradients)[0]


def stacked(trees: Sequence[Any]) -> Any:
    """Return one tree whose leaves have a leading axis for the trees."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def copied(tree: Any) -> Any:
    """Return the same arrays in buffers of their own."""
    return jax.tree.map(lambda x: x.copy() if hasattr(x, "copy") else x, tree)


def is_float(x: Any) -> bool:
    """Return whether an array is real floating."""
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)


def types(tree: Any) -> Any:
    """Return shape, dtype and weakness of every leaf."""

    def of(x: Any) -> tuple[Any, ...]:
        aval = jax.eval_shape(lambda y: y, x)
        return aval.shape, aval.dtype, bool(aval.weak_type)

    return jax.tree.map(of, tree)


def fail(law: str, says: str, cause: Exception | None = None) -> NoReturn:
    """Raise an AssertionError that names the law."""
    raise AssertionError(f"{law}: the transformation {says}") from cause


def attempt(law: str, says: str, function: Callable[[], Any]) -> Any:
    """Return what the function returns; what it raises breaks the law."""
    try:
        return function()
    except Exception as error:
        fail(law, f"{says}: {type(error).__name__}: {error}", error)


def require_same_types(got: Any, wanted: Any, law: str, says: str) -> None:
    """Raise an AssertionError that names a leaf unless all are of the same type."""
    if jax.tree.structure(got) != jax.tree.structure(wanted):
        fail(
            law,
            f"{says}: the structure is {jax.tree.structure(got)}, not "
            f"{jax.tree.structure(wanted)}.",
        )
    is_type = lambda node: isinstance(node, tuple) and len(node) == 3
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(types(got), is_leaf=is_type),
        jax.tree.leaves(types(wanted), is_leaf=is_type),
        strict=True,
    )
    for (path, mine), theirs in pairs:
        if mine != theirs:
            name = jax.tree_util.keystr(path) or "the only leaf"
            fail(law, f"{says}: {name} is {_type(mine)}, not {_type(theirs)}.")


def require_near(got: Any, wanted: Any, ulps: float, law: str, says: str) -> None:
    """Raise an AssertionError unless all leaves agree, up to ``ulps`` of the largest.

    Types must agree, and whatever is not floating; NaN is equal to NaN.
    """
    require_same_types(got, wanted, law, says)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(wanted), strict=True
    )
    for (path, x), y in pairs:
        a, b = numbers(x), numbers(y)
        tolerance = 0.0
        if is_float(b) and b.size:
            a, b = a.astype(np.float64), b.astype(np.float64)
            finite = np.abs(b[np.isfinite(b)]).max(initial=0)
            tolerance = ulps * float(jnp.finfo(jnp.result_type(y)).eps) * finite
        same = (a == b) | ((a != a) & (b != b))
        with np.errstate(invalid="ignore"):
            gap = np.where(same, 0, np.abs(a - b)) if tolerance else ~same
        if not (gap <= tolerance).all():
            name = jax.tree_util.keystr(path) or "the only leaf"
            worst = float(np.max(np.where(np.isnan(gap), np.inf, gap)))
            fail(
                law,
                f"{says}: {name} differs by {worst:.3g}, where rounding explains "
                f"{tolerance:.3g}.",
            )


def require_same(got: Any, wanted: Any, law: str, says: str) -> None:
    """Raise an AssertionError unless all leaves agree to the last bit."""
    require_near(got, wanted, 0.0, law, says)


def numbers(x: Any) -> np.ndarray:
    """Return an array as NumPy's, random keys as their integers."""
    if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def _type(kind: tuple[Any, ...]) -> str:
    shape, dtype, weak = kind
    return f"{'weak ' * weak}{dtype} of shape {shape}"
