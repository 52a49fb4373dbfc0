"""One leaf, one name, whatever framework holds it."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from rmda_jax.specs._names import is_placeholder, leaf_names

X = jnp.ones((1, 4))


class NNXNet(nnx.Module):
    def __init__(self):
        layers = [nnx.Linear(4, 3, rngs=nnx.Rngs(0))]
        # From Flax 0.12 on a module holds lists as nnx.List.
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        # A boxed parameter: the axis names of a mesh, kept beside the array.
        init = nn.with_partitioning(nn.initializers.ones, (None, "x"))
        return nn.Dense(3, kernel_init=init, name="dense")(x)


def haiku_params():
    net = hk.transform(lambda x: hk.nets.MLP([3])(x))
    return net.init(jax.random.key(0), X)


NNX_STATE = nnx.state(NNXNet(), nnx.Param)
TREES = {
    "dict": ({"conv": {"kernel": X}, "b": X}, ["b", "conv/kernel"]),
    "list": ([{"w": X}, (X, X)], ["0/w", "1/0", "1/1"]),
    "array": (X, [""]),
    "nnx": (NNX_STATE, ["layers/0/bias", "layers/0/kernel"]),
    "nnx as update sees it": (
        nnx.to_pure_dict(NNX_STATE),
        ["layers/0/bias", "layers/0/kernel"],
    ),
    "linen": (LinenNet().init(jax.random.key(0), X), ["dense/bias", "dense/kernel"]),
    "haiku": (haiku_params(), ["mlp/linear_0/b", "mlp/linear_0/w"]),
    "equinox": (
        eqx.filter(eqx.nn.MLP(4, 3, 2, 1, key=jax.random.key(0)), eqx.is_array),
        ["layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"],
    ),
    "a leaf called value": ({"attention": {"value": X}}, ["attention/value"]),
    "a layer called params": ({"a": {"params": {"w": X}}}, ["a/params/w"]),
}


@pytest.mark.parametrize("case", TREES)
def test_leaf_names(case):
    tree, expected = TREES[case]
    assert leaf_names(tree) == expected


@pytest.mark.parametrize("empty", [{}, [], (), None, {"a": {}, "b": [None]}])
def test_empty_trees_are_no_placeholders(empty):
    assert not is_placeholder(empty)


def test_placeholders_of_optax_are_recognised():
    assert is_placeholder({"a": optax.MaskedNode()})
    seen = []
    tx = optax.GradientTransformation(
        lambda params: (seen.append(params), params)[1], lambda u, s, p=None: (u, s)
    )
    state = tx.init({"w": X})
    optax.tree.map_params(tx, lambda v: v, state)
    assert is_placeholder(seen[-1])
    assert not jax.tree.leaves(seen[-1])
