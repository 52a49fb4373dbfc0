"""Every law catches transformations that are broken on purpose, one way each.

All are variants of one that is written here by hand, proximal gradient with momentum;
the first test shows that it breaks no law.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import testing

pytestmark = pytest.mark.costly

L1 = rj.l1()


def normal(seed):
    generator = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(generator.normal(size=shape), jnp.float32)
    return {"b": draw(3), "w": draw(3, 4)}


PARAMS = normal(0)
GRADIENTS = [normal(seed) for seed in range(1, 5)]


class State(NamedTuple):
    count: Any
    mean: Any


def zeros(w):
    return jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32))


def averaged(mean, g):
    return 0.9 * mean + 0.1 * g.astype(mean.dtype)


def difference(p, w):
    return (p - w.astype(p.dtype)).astype(w.dtype)


def momentum(
    learning_rate=0.5,
    regularizer=L1,
    strength=0.5,
    *,
    start=lambda params: jnp.zeros((), jnp.int32),
    counted=lambda count: count + 1,
    zeros=zeros,
    averaged=averaged,
    prox=lambda acts, x, t: acts.prox(x, t),
    difference=difference,
    finished=lambda updates, params: updates,
):
    """Every keyword is a part that a mutant replaces."""
    is_map = isinstance(regularizer, rj.RegularizerMap)
    acts = regularizer if is_map else rj.RegularizerMap([("*", regularizer)])

    def init(params):
        return State(start(params), jax.tree.map(zeros, params))

    def update(updates, state, params):
        mean = jax.tree.map(averaged, state.mean, updates)
        forward = lambda w, m: w.astype(m.dtype) - learning_rate * m
        new = prox(acts, jax.tree.map(forward, params, mean), learning_rate * strength)
        updates = jax.tree.map(difference, new, params)
        return finished(updates, params), State(counted(state.count), mean)

    return optax.GradientTransformation(init, update)


# --- what is remembered outside the state, or differs between programs --------------


def counts_its_calls(regularizer=L1, strength=0.5):
    calls = itertools.count(1)
    larger = lambda updates, params: jax.tree.map(lambda u: u / next(calls), updates)
    return momentum(0.5, regularizer, strength, finished=larger)


MADE = itertools.count(1)


def other_every_time_it_is_made(regularizer=L1, strength=0.5):
    return momentum(0.5 / next(MADE), regularizer, strength)


def changes_params_in_place(updates, params):
    params["b"] = params["b"] + updates["b"]
    return updates


def changes_its_state_in_place(count):
    count["n"] = count["n"] + 1
    return count


def traced(x):
    return isinstance(x, jax.core.Tracer)


def other_when_traced(mean, g):
    return averaged(mean, 1.1 * g if traced(g) else g)


def starts_elsewhere_when_traced(w):
    return zeros(w) + traced(w)


def reads_its_count(count):
    return count + 1 if int(count) < 2 else count


@jax.custom_batching.custom_vmap
def soft(x, t):
    return L1.prox(x, t)


@soft.def_vmap
def _(size, batched, x, t):
    return L1.prox(x, t[0] if batched[1] else t), True  # the first serves for all


def other_when_batched(acts, x, t):
    return jax.tree.map(lambda leaf: soft(leaf, jnp.asarray(t, leaf.dtype)), x)


# --- buffers and containers ---------------------------------------------------------


def one_array_twice(params):
    return (jnp.ones(2),) * 2


def as_dictionary(updates, params):
    return updates if isinstance(updates, dict) else updates._asdict()


def smaller_below_params(updates, params):
    return jax.tree.map(lambda u: u / (1 + ("params" in params)), updates)


def none_is_a_number(updates, params):
    return jax.tree.map(lambda u: u * 1.0, updates, is_leaf=lambda u: u is None)


def of_the_first_leaf(params):
    return jnp.zeros(jax.tree.leaves(params)[0].shape)


# --- numbers ------------------------------------------------------------------------


def prox_by_comparisons(acts, x, t):
    soft = lambda y: jnp.where(y > t, y - t, jnp.where(y < -t, y + t, 0))
    return jax.tree.map(soft, x)


def almost_zeros(acts, x, t):
    return jax.tree.map(lambda p: jnp.where(p == 0, 1e-9, p), acts.prox(x, t))


def blurred(p, w):
    return ((0.1 * p - 0.1 * w.astype(p.dtype)) * 10).astype(w.dtype)


def blurred_rmda(strength=0.5):
    return optax.GradientTransformation(
        (inner := rj.rmda(0.5, L1, strength, averaging=1.0)).init,
        lambda *arguments: (
            lambda updates, state: (
                jax.tree.map(lambda u: u * 1.0000001, updates),
                state,
            )
        )(*inner.update(*arguments)),
    )


def mutant(name=None, **changes):
    """Return `momentum` with parts replaced, called after the parts."""
    make = functools.partial(momentum, **changes)
    make.__name__ = name or "-".join(
        getattr(c, "__name__", k) for k, c in changes.items()
    )
    return make


MUTANTS = {
    testing.check_pure: [
        counts_its_calls,
        other_every_time_it_is_made,
        mutant(finished=changes_params_in_place),
        mutant(
            start=lambda params: {"n": jnp.zeros(())},
            counted=changes_its_state_in_place,
        ),
    ],
    testing.check_state: [
        mutant("other_dtype", counted=lambda count: count + 0.5),
        mutant("weak", counted=lambda count: 1),
        mutant("other_structure", counted=lambda count: (count, count)),
        mutant("no_array", start=lambda params: 0),
        mutant("wide_updates", difference=lambda p, w: (p - w).astype(jnp.bfloat16)),
    ],
    testing.check_init: [
        mutant("needs_numbers", zeros=lambda w: 0 * w),
        mutant(zeros=starts_elsewhere_when_traced),
    ],
    testing.check_compiled: [
        mutant(averaged=other_when_traced),
        mutant(
            "longer_every_step",
            start=lambda params: jnp.zeros(1),
            counted=lambda count: jnp.append(count, 1.0),
        ),
    ],
    testing.check_scan: [
        mutant(counted=reads_its_count),
        mutant("other_dtype", counted=lambda count: count + 0.5),
    ],
    testing.check_batches: [mutant(prox=other_when_batched)],
    testing.check_donation: [
        mutant("starts_at_params", zeros=lambda w: w),
        mutant(start=one_array_twice, counted=lambda c: jax.tree.map(jnp.sin, c)),
    ],
    testing.check_checkpoint: [other_every_time_it_is_made],
    testing.check_trees: [
        mutant(finished=as_dictionary),
        mutant(finished=smaller_below_params),
        mutant(finished=none_is_a_number),
        mutant(start=of_the_first_leaf),
    ],
    testing.check_update_dtypes: [
        mutant("always_float32", difference=lambda p, w: p - w.astype(p.dtype))
    ],
    testing.check_accumulators: [mutant(zeros=jnp.zeros_like)],
    testing.check_nan_spreads: [
        mutant("clean", averaged=lambda m, g: averaged(m, jnp.nan_to_num(g))),
        mutant(prox=prox_by_comparisons),
    ],
    testing.check_zero_strength: [
        mutant("still", prox=lambda acts, x, t: acts.prox(x, t + 1e-3)),
        mutant("never", prox=lambda acts, x, t: x),
    ],
    testing.check_update_zeros: [
        mutant(prox=almost_zeros),
        mutant(difference=blurred),
        mutant("weak_strength", strength=1e-6),
        blurred_rmda,
    ],
}


def test_every_law_has_a_mutant():
    assert set(MUTANTS) == set(testing.UPDATE_LAWS)


def test_handwritten_transformation_breaks_no_law():
    testing.check_transformation(momentum, PARAMS, GRADIENTS, regularizer=L1)


@pytest.mark.parametrize(
    ("law", "make"),
    [
        pytest.param(law, make, id=f"{law.__name__[6:]}-{make.__name__}")
        for law, mutants in MUTANTS.items()
        for make in mutants
    ],
)
def test_law_catches_the_mutant(law, make):
    with pytest.raises(AssertionError, match=r"^[\w ]+: the transformation .* "):
        law(testing.Trial(make, PARAMS, GRADIENTS, L1))


def test_check_transformation_names_the_law_and_spares_the_exempt():
    make = mutant(prox=prox_by_comparisons)
    with pytest.raises(
        AssertionError, match=r"^NaN: .* turns NaN in 3 entries .* into 0.0"
    ):
        testing.check_transformation(make, PARAMS, GRADIENTS, regularizer=L1)
    exempt = [testing.check_nan_spreads, testing.check_zero_strength]
    testing.check_transformation(make, PARAMS, GRADIENTS, regularizer=L1, exempt=exempt)


@pytest.mark.parametrize("make", [optax.adam, optax.sgd, optax.lion])
def test_transformations_of_optax_keep_the_laws(make):
    # Optax accumulates in the dtype of the params.
    testing.check_transformation(
        functools.partial(make, 0.1),
        PARAMS,
        GRADIENTS,
        exempt=[testing.check_accumulators],
    )


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((optax.sgd(0.1), PARAMS, GRADIENTS), TypeError, "`make` must be a function"),
        ((momentum, {}, GRADIENTS), ValueError, "`params` must have leaves"),
        ((momentum, {"w": jnp.arange(3)}, GRADIENTS), ValueError, "got int32 of shape"),
        ((momentum, {"w": jnp.ones(1) / 0}, GRADIENTS), ValueError, "must be finite"),
        ((momentum, PARAMS, []), ValueError, "`gradients` must be some trees"),
        ((momentum, PARAMS, PARAMS), ValueError, "one of `gradients` must be a tree"),
    ],
)
def test_trial_of_what_cannot_be_tried_is_refused(arguments, error, says):
    with pytest.raises(error, match=says):
        testing.Trial(*arguments)
