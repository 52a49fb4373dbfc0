"""Modules where functions and arrays are wanted: the error says how to get them."""

import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn, nnx

from rmda_jax import shrink
from tests.shrink.test_apply import mlp, planned
from tests.shrink.test_trace import X


class Net(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(x)


class Plain:
    def __init__(self):
        self.kernels = [jnp.ones((4, 2))]

    def __call__(self, x):
        return x @ self.kernels[0]

    def scaled(self, params, x):
        return x @ self.kernels[0] * params["scale"]


def nnx_model():
    return Net(nnx.Rngs(0))


def equinox_model():
    return eqx.nn.MLP(4, 2, 3, 1, key=jax.random.key(0))


def haiku_model():
    return hk.transform(lambda x: hk.Linear(2)(x))


PARAMS = {"kernel": jnp.ones((4, 2))}
CALLS = {
    "nnx alone": (lambda: (nnx_model(), X), "the model Net.*nnx.split"),
    "nnx": (lambda: (nnx_model(), PARAMS, X), "the model Net.*nnx.split"),
    "nnx, jitted": (lambda: (jax.jit(nnx_model()), X), "the model Net.*nnx.split"),
    "nnx method": (lambda: (nnx_model().__call__, X), "the model Net.*nnx.split"),
    "nnx graph": (lambda: (*nnx.split(nnx_model()), X), "GraphDef.*nnx.merge"),
    "equinox alone": (lambda: (equinox_model(), X[0]), "the model MLP.*eqx.partition"),
    "equinox as params": (
        lambda: (lambda model, x: model(x), equinox_model(), X[0]),
        "pytree of arrays, got .* as 'activation'.*eqx.partition",
    ),
    "linen alone": (lambda: (nn.Dense(2), X), "the model Dense.*model.apply"),
    "linen": (lambda: (nn.Dense(2), PARAMS, X), "the model Dense.*model.apply"),
    "haiku": (lambda: (haiku_model(), PARAMS, X), "Transformed.*without_apply_rng"),
    "of one's own, alone": (
        lambda: (Plain(), X),
        "the model Plain.*with NNX, .*with Equinox, .*with linen, .*with Haiku, ",
    ),
    "no arrays": (lambda: (mlp, {"kernel": "ones"}, X), "got str as 'kernel'"),
    "nothing": (lambda: (mlp, {}, X), "`params` must hold arrays, got dict without"),
}


def verify(fn, params, *inputs):
    return shrink.verify(fn, params, params, *inputs)


def report(fn, params, *inputs):
    return shrink.report(fn, params, params, *inputs)


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize(
    "call", [shrink.trace, shrink.plan, shrink.group_rules, verify, report]
)
def test_what_is_no_function_of_arrays_is_told_how_to_become_one(call, case):
    arguments, message = CALLS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        _ = call(*arguments())


def test_the_small_function_and_the_small_params_are_checked():
    params, plan = planned()
    small = shrink.apply(plan, params)
    with pytest.raises(TypeError, match="`small_fn` must be a function of the params"):
        _ = shrink.verify(mlp, params, small, X, small_fn=nnx_model())
    with pytest.raises(ValueError, match="`small_params` must hold arrays"):
        _ = shrink.verify(mlp, params, {}, X)


@pytest.mark.parametrize(
    "fn",
    [
        functools.partial(Plain().scaled),
        Plain().scaled,
        jax.tree_util.Partial(lambda x, p, y: y @ x * p["scale"], jnp.ones((4, 2))),
        eqx.Partial(lambda x, p, y: y @ x * p["scale"], jnp.ones((4, 2))),
        eqx.filter_jit(lambda p, x: x * p["scale"]),
    ],
)
def test_functions_may_have_constants(fn):
    assert shrink.trace(fn, {"scale": jnp.ones(())}, X).units == ()


def test_the_recipes_work():
    key = jax.random.key(0)
    graph, params = nnx.split(nnx_model())
    assert shrink.trace(lambda p, x: nnx.merge(graph, p)(x), params, X).units
    params, static = eqx.partition(equinox_model(), eqx.is_inexact_array)
    assert shrink.trace(lambda p, x: eqx.combine(p, static)(x), params, X[0]).free
    model = nn.Dense(2)
    assert shrink.trace(model.apply, model.init(key, X), X).units
    model = hk.without_apply_rng(haiku_model())
    assert shrink.trace(model.apply, model.init(key, X), X).units
