"""A small model of every framework is saved, built anew from its widths, and runs."""

import itertools
import re

import equinox as eqx
import flax.linen as linen
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from rmda_jax import shrink
from rmda_jax.specs._names import leaf_names
from tests._daily import first_of_each, these

pytestmark = pytest.mark.costly

N_LAYERS, WIDTH = 11, 5  # as strings the numbers sort 0, 1, 10, 2, ...
X = jax.random.normal(jax.random.key(1), (3, WIDTH))


def through(layers, x):
    for layer in layers[:-1]:
        x = jnp.tanh(layer(x))
    return layers[-1](x)


def plain(sizes):
    keys = jax.random.split(jax.random.key(0), N_LAYERS)
    pairs = itertools.pairwise(sizes)
    params = [
        {"kernel": jax.random.normal(key, pair), "bias": jnp.ones(pair[1])}
        for key, pair in zip(keys, pairs, strict=True)
    ]

    def fn(params, x):
        dense = lambda p: lambda x: x @ p["kernel"] + p["bias"]
        return through([dense(p) for p in params], x)

    return fn, params


class NNX(nnx.Module):
    def __init__(self, sizes):
        rngs, pairs = nnx.Rngs(0), itertools.pairwise(sizes)
        layers = [nnx.Linear(*pair, rngs=rngs) for pair in pairs]
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers

    def __call__(self, x):
        return through(self.layers, x)


def in_nnx(sizes):
    graph, params = nnx.split(NNX(sizes))
    return lambda p, x: nnx.merge(graph, p)(x), params


class Linen(linen.Module):
    sizes: tuple[int, ...]

    @linen.compact
    def __call__(self, x):
        layers = [linen.Dense(n, name=f"block/{i}") for i, n in enumerate(self.sizes)]
        return through(layers, x)


def in_linen(sizes):
    model = Linen(tuple(sizes[1:]))
    return model.apply, model.init(jax.random.key(0), X)


def in_haiku(sizes):
    net = lambda x: hk.nets.MLP(sizes[1:], activation=jnp.tanh)(x)
    model = hk.without_apply_rng(hk.transform(net))
    return model.apply, model.init(jax.random.key(0), X)


class Equinox(eqx.Module):
    layers: list[eqx.nn.Linear]

    def __init__(self, sizes):
        keys = jax.random.split(jax.random.key(0), N_LAYERS)
        pairs = itertools.pairwise(sizes)
        self.layers = [
            eqx.nn.Linear(*pair, key=key) for pair, key in zip(pairs, keys, strict=True)
        ]

    def __call__(self, x):
        return through(self.layers, x)


def in_equinox(sizes):
    params, static = eqx.partition(Equinox(sizes), eqx.is_array)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params


def as_it_is(path, like):
    del like
    return shrink.load(path)[0]


def in_place(path, like):
    return shrink.load(path, like=like)[0]


def as_a_dictionary(path, like):
    nnx.replace_by_pure_dict(like, shrink.load(path)[0])
    return like


# name -> (sizes -> function and params, axis of the inputs in a kernel, how to load)
FRAMEWORKS = {
    "plain": (plain, 0, as_it_is),
    "nnx": (in_nnx, 0, in_place),
    "nnx from a dictionary": (in_nnx, 0, as_a_dictionary),
    "linen": (in_linen, 0, as_it_is),
    "haiku": (in_haiku, 0, as_it_is),
    "equinox": (in_equinox, 1, in_place),
}


def layer_of(name):
    return int(re.search(r"\d+", name).group())


def pruned(params, axis):
    """Return the params with a different number of inputs zero in every layer."""
    leaves, treedef = jax.tree.flatten(params)
    for i, (name, x) in enumerate(zip(leaf_names(params), leaves, strict=True)):
        if x.ndim == 2 and layer_of(name):
            rows = np.arange(1 + layer_of(name) % 4)
            index = rows if axis == 0 else (slice(None), rows)
            leaves[i] = x.at[index].set(0)
    return treedef.unflatten(leaves)


def sizes_of(widths, axis):
    """Return how many units come before each layer, and after the last."""
    kernels = {layer_of(n): shape for n, shape in widths.items() if len(shape) == 2}
    inputs = [kernels[i][axis] for i in range(N_LAYERS)]
    return [*inputs, kernels[N_LAYERS - 1][1 - axis]]


def way_of_loading(framework):
    _, axis, load = FRAMEWORKS[framework]
    return load, axis


@pytest.mark.not_daily
@pytest.mark.parametrize("framework", first_of_each(way_of_loading, FRAMEWORKS))
def test_what_is_saved_runs_in_a_model_built_anew(framework, tmp_path):
    build, axis, load = FRAMEWORKS[framework]
    fn, params = build([WIDTH] * (N_LAYERS + 1))
    params = pruned(params, axis)
    plan = shrink.plan(fn, params, X)
    shrink.save(tmp_path / "small", shrink.apply(plan, params), plan)
    sizes = sizes_of(plan.widths, axis)
    assert sizes == [WIDTH, *(WIDTH - 1 - i % 4 for i in range(1, N_LAYERS)), WIDTH]
    small_fn, like = build(sizes)
    loaded = load(tmp_path / "small", like)
    np.testing.assert_allclose(small_fn(loaded, X), fn(params, X), rtol=0, atol=1e-5)


@pytest.mark.parametrize("framework", these(["nnx"], ["plain", "nnx", "equinox"]))
def test_orbax_restores_into_a_small_model(framework, tmp_path):
    build, axis, _ = FRAMEWORKS[framework]
    fn, params = build([WIDTH] * (N_LAYERS + 1))
    params = pruned(params, axis)
    plan = shrink.plan(fn, params, X)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "small", shrink.apply(plan, params))
    small_fn, like = build(sizes_of(plan.widths, axis))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "small", like)
    np.testing.assert_allclose(small_fn(restored, X), fn(params, X), rtol=0, atol=1e-5)


def test_an_equinox_module_is_filled_as_a_whole(tmp_path):
    module = eqx.nn.MLP(WIDTH, 2, 3, 1, key=jax.random.key(0))
    shrink.save(tmp_path / "mlp", eqx.filter(module, eqx.is_array))
    other = eqx.nn.MLP(WIDTH, 2, 3, 1, key=jax.random.key(1))
    filled, _ = shrink.load(tmp_path / "mlp", like=other)
    np.testing.assert_array_equal(filled(X[0]), module(X[0]))


def test_an_nnx_module_takes_what_is_loaded(tmp_path):
    sizes = [WIDTH] * (N_LAYERS + 1)
    module, other = NNX(sizes), NNX(sizes)
    nnx.update(module, jax.tree.map(lambda x: 2 * x, nnx.state(module)))
    shrink.save(tmp_path / "net", nnx.state(module, nnx.Param))
    state, _ = shrink.load(tmp_path / "net", like=nnx.state(other, nnx.Param))
    nnx.update(other, state)
    np.testing.assert_array_equal(other(X), module(X))
