"""Laws of a transformation's state: its types, buffers, checkpoints and trees."""

import collections
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax.testing._trial import (
    Trial,
    attempt,
    copied,
    fail,
    numbers,
    require_near,
    require_same,
    require_same_types,
    step_of,
    train,
)


def check_state(trial: Trial) -> None:
    """Check that an update keeps structure, shapes, dtypes and weak types.

    Its leaves are arrays. The new state is like the old one, and the updates are like
    the params: what a scan asks of its carry.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: a leaf is no array, or changes its type.
    """
    law = "state"
    for x in jax.tree.leaves(trial.tx.init(trial.params)):
        if not isinstance(x, jax.Array):
            fail(law, f"has a leaf in its state that is no array, but {x!r}.")
    state = jax.eval_shape(trial.tx.init, trial.params)
    updates, new = jax.eval_shape(
        trial.tx.update, trial.gradients[0], state, trial.params
    )
    require_same_types(new, state, law, "changes its state's type")
    params = jax.eval_shape(copied, trial.params)
    require_same_types(updates, params, law, "gives updates unlike the params")


def check_init(trial: Trial) -> None:
    """Check that ``init`` needs shapes and dtypes only, and is the same compiled.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: `jax.ShapeDtypeStruct` in place of arrays, `jax.eval_shape` or
        `jax.jit` fail or give another state. Exempt a transformation whose state starts
        at the params.
    """
    law, init = "init", trial.tx.init
    shapes, state = jax.eval_shape(copied, trial.params), init(trial.params)
    says = "cannot init from shapes alone"
    require_same(attempt(law, says, lambda: init(shapes)), state, law, says)
    says = "inits another state when compiled"
    compiled = attempt(law, says, lambda: jax.jit(init)(trial.params))
    require_same(compiled, state, law, says)
    says = "inits a state of another type when only shapes are asked"
    abstract = attempt(law, says, lambda: jax.eval_shape(init, shapes))
    require_same_types(abstract, state, law, says)


def check_donation(trial: Trial) -> None:
    """Check that params and state can be donated to the compiled step.

    No array of the state shares its buffer with another one or with the params; every
    array that is donated is used; gradients, which are not, stay alive.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: a buffer is shared, or is not used.
    """
    law, gradient = "donation", copied(trial.gradients[0])
    params = copied(trial.params)
    state = trial.tx.init(params)
    places: dict[int, str] = {}
    for path, x in jax.tree_util.tree_leaves_with_path((params, state)):
        name = f"{'state' if path[0].idx else 'params'}{jax.tree_util.keystr(path[1:])}"
        pointer = x.unsafe_buffer_pointer() if x.size else id(x)
        if pointer in places:
            fail(
                law,
                f"inits {name} in the buffer of {places[pointer]}. Copy it: "
                "`jnp.array(w, copy=True)`.",
            )
        places[pointer] = name
    wanted = trial.history[1]
    step = jax.jit(step_of(trial.tx), donate_argnums=(0, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = step(params, state, gradient)
    unused = [str(w.message) for w in caught if "donated" in str(w.message)]
    if unused:
        fail(law, f"cannot use what is donated: {unused[0]}")
    require_near(found, wanted, trial.ulps, law, "differs when its state is donated")
    if any(x.is_deleted() for x in jax.tree.leaves(gradient)):
        fail(law, "deletes gradients that were not donated.")


def check_checkpoint(trial: Trial) -> None:
    """Check that a run resumed from the leaves of its state equals one uninterrupted.

    Halfway, params and state go through flat NumPy arrays, as in a checkpoint, into a
    transformation that is made anew.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: the resumed run differs in any bit.
    """
    law, half = "checkpoint", len(trial.gradients) // 2
    params, state = trial.history[half]
    leaves, treedef = jax.tree.flatten(state)
    saved = [numbers(x) for x in leaves]
    restored = treedef.unflatten(
        _as_before(x, old) for x, old in zip(saved, leaves, strict=True)
    )
    require_same(restored, state, law, "has a state that is not its leaves")
    step = jax.jit(step_of(trial.make()))
    resumed = train(step, copied(params), restored, trial.gradients[half:])[-1]
    says = "goes on differently from a checkpoint"
    require_same(resumed, trial.history[-1], law, says)


def check_trees(trial: Trial) -> None:
    """Check that the containers of the params do not matter.

    Below another dictionary, in a named tuple, beside a leaf that is None, the same
    arrays get the same updates, in the same containers. An empty tree gets an empty
    update, or is refused by a ValueError.

    Args:
      trial: The transformation.

    Raises:
      AssertionError: another update, other containers, or another error.
    """
    law = "trees"
    wanted = jax.tree.leaves(_first_update(trial, lambda tree: tree))
    for name, wrap in _wrappers(trial.params).items():
        says = f"fails on params {name}"
        updates = attempt(law, says, lambda wrap=wrap: _first_update(trial, wrap))
        if jax.tree.structure(updates) != jax.tree.structure(wrap(trial.params)):
            fail(law, f"returns other containers for params {name}.")
        says = f"gives another update to params {name}"
        require_same(jax.tree.leaves(updates), wanted, law, says)
    try:
        updates, _ = trial.tx.update({}, trial.tx.init({}), {})
    except ValueError:
        return
    except Exception as error:
        says = f"meets an empty tree with {type(error).__name__}: {error} Raise a "
        fail(law, says + "ValueError, or do nothing.", error)
    if updates != {}:
        fail(law, f"makes the update {updates} of an empty tree.")


def _first_update(trial: Trial, wrap: Any) -> Any:
    params, gradient = wrap(trial.params), wrap(trial.gradients[0])
    return trial.tx.update(gradient, trial.tx.init(params), params)[0]


def _wrappers(params: Any) -> dict[str, Any]:
    """Return other containers for the same leaves, under the same canonical names."""
    wrappers: dict[str, Any] = {"below `params`": lambda tree: {"params": tree}}
    if isinstance(params, dict) and all(isinstance(key, str) for key in params):
        wrappers["beside None"] = lambda tree: {**tree, "nothing": None}
        if all(key.isidentifier() and key[0] != "_" for key in params):
            layers = collections.namedtuple("Layers", sorted(params))
            wrappers["in a named tuple"] = lambda tree: layers(**tree)
    return wrappers


def _as_before(saved: Any, old: jax.Array) -> jax.Array:
    """Return a saved array as it was: a key of its kind, weakly typed if it was."""
    if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(old))
    return jnp.asarray(saved, old.dtype)
