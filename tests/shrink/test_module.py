"""Modules of which the arrays, and the sizes beside them, are sliced."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rmda_jax import shrink
from tests.shrink.test_apply import assert_equal, mlp, planned
from tests.shrink.test_trace import X, normal

N_LAYERS = 3


class Block(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(4, 8, 12, decode=False, rngs=rngs)
        self.up = nnx.Conv(8, 8, (1,), rngs=rngs)
        self.down = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(x)
        return x + self.down(nnx.relu(self.up(x)))


class Stack(nnx.Module):
    def __init__(self, rngs):
        split = nnx.split_rngs(splits=N_LAYERS)
        self.blocks = split(nnx.vmap(Block, in_axes=0, out_axes=0))(rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        run = nnx.scan(
            lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry
        )
        return self.head(run(self.blocks, x))


def split(module):
    graph, params = nnx.split(module)
    return lambda p, x: nnx.merge(graph, p)(x), params


@pytest.mark.not_daily
def test_sizes_of_stacked_layers_are_those_of_one():
    net = Stack(nnx.Rngs(0))
    heads, down = net.blocks.attention, net.blocks.down
    heads.out.kernel[...] = heads.out.kernel[...].at[:, 1].set(0)
    down.kernel[...] = down.kernel[...].at[:, 4:].set(0)
    x = normal({"x": (2, 5, 8)}, seed=1)["x"]
    fn, params = split(net)
    plan, before = shrink.plan(fn, params, x), net(x)
    shrink.slice_module(plan, net)
    assert net.blocks.attention.query.kernel.shape == (N_LAYERS, 8, 3, 3)
    assert (heads.num_heads, heads.head_dim, heads.qkv_features) == (3, 3, 9)
    assert (heads.in_features, heads.out_features) == (8, 8)
    assert heads.query.out_features == heads.out.in_features == (3, 3)
    assert net.blocks.up.kernel_shape == net.blocks.up.kernel.shape[1:]
    assert net.blocks.up.out_features == down.in_features == 4
    np.testing.assert_allclose(net(x), before, rtol=0, atol=1e-5)


def test_stacked_layers_go_that_are_the_identity():
    net = Stack(nnx.Rngs(0))
    for layer in (net.blocks.attention.out, net.blocks.down):
        layer.kernel[...] = layer.kernel[...].at[1].set(0)  # biases are zero
    x = normal({"x": (2, 5, 8)}, seed=1)["x"]
    fn, params = split(net)
    plan, before = shrink.plan(fn, params, x), net(x)
    shrink.slice_module(plan, net)
    assert net.blocks.up.kernel.shape == (N_LAYERS - 1, 1, 8, 8)
    np.testing.assert_allclose(net(x), before, rtol=0, atol=1e-5)


def test_sizes_of_stacked_equinox_layers_are_those_of_one():
    def make(key):
        keys = jax.random.split(key, 3)
        layer = lambda groups, key: eqx.nn.Conv1d(4, 4, 1, groups=groups, key=key)
        convs = [layer(1, keys[0]), layer(2, keys[1]), layer(1, keys[2])]
        return eqx.nn.Sequential(convs)

    layers = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), N_LAYERS))
    kernel = layers.layers[2].weight.at[:, :, 2:].set(0)  # reads the first group only
    layers = eqx.tree_at(lambda t: t.layers[2].weight, layers, kernel)
    params, static = eqx.partition(layers, eqx.is_array)

    def fn(p, x):
        step = lambda x, layer: (jnp.tanh(eqx.combine(layer, static)(x)), None)
        return jax.lax.scan(step, x, p)[0]

    plan = shrink.plan(fn, params, jnp.ones((4, 3)))
    small = shrink.slice_module(plan, layers)
    first, grouped, last = small.layers
    assert (first.weight.shape, grouped.weight.shape) == ((3, 2, 4, 1), (3, 2, 2, 1))
    assert (first.in_channels, first.out_channels) == (4, 2)
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (2, 2, 1)
    assert (last.in_channels, last.out_channels) == (2, 4)


def test_low_rank_adapters_are_sliced():
    class Net(nnx.Module):
        def __init__(self, rngs):
            base = nnx.Linear(4, 10, rngs=rngs)
            self.adapted = nnx.LoRA(4, 2, 10, base_module=base, rngs=rngs)
            self.head = nnx.LoRALinear(10, 3, lora_rank=2, rngs=rngs)

        def __call__(self, x):
            return self.head(jnp.tanh(self.adapted(x)))

    net = Net(nnx.Rngs(0))
    fn, params = split(net)
    nnx.update(net, jax.tree.map(lambda x: x + 0.1, params))
    for x in (net.head.kernel, net.head.lora.lora_a):
        x[...] = x[...].at[4:].set(0)
    fn, params = split(net)
    plan, before = shrink.plan(fn, params, X), net(X)
    shrink.slice_module(plan, net)
    np.testing.assert_allclose(net(X), before, rtol=0, atol=1e-6)
    assert (net.adapted.in_features, net.adapted.out_features) == (4, 4)
    assert net.adapted.base_module.out_features == net.adapted.lora_b.shape[1] == 4
    assert (net.head.in_features, net.head.lora.in_features) == (4, 4)


def test_attributes_that_only_look_like_boxes_or_sizes_stay():
    class Box:
        def __init__(self, value):
            self.value = value

        def __jax_array__(self):
            return self.value

    class Odd:
        box_class = Box

        def __init__(self, params):
            self.weight, self.out = Box(params["in"].T), params["out"]
            self.bias, self.shift = params["bias"], params["shift"]
            self.param_type, self.activation = Box, jax.nn.sigmoid
            self.groups, self.kernel_shape = [1, 2], None
            self.in_features, self.num_heads = jnp.ones(3), "all"
            self.bias_shape, self.qk_size = 6, 5

    params, _ = planned()
    odd = Odd(params)
    names = {"weight": "in", "out": "out", "bias": "bias", "shift": "shift"}
    renamed = {name: params[of] for name, of in names.items()}
    renamed["weight"] = renamed["weight"].T
    fn = lambda p, x: mlp(
        {of: p[n].T if of == "in" else p[n] for n, of in names.items()}, x
    )
    plan = shrink.plan(fn, renamed, X)
    before = dict(vars(odd))
    shrink.slice_module(plan, odd)
    assert odd.weight.value.shape == (4, 4)
    for name in vars(odd).keys() - names.keys():
        assert vars(odd)[name] is before[name]


def test_a_module_is_sliced_once_and_wholly():
    class Holder:
        def __init__(self, params):
            self.shift, self.out = params["shift"], params["out"]  # the fold first
            self.bias = params["bias"]
            vars(self)["in"] = params["in"]

    params, plan = planned()
    assert set(plan.folds) == {"shift"}
    holder = Holder(params)
    shrink.slice_module(plan, holder)
    small = dict(vars(holder))
    assert_equal(small, shrink.apply(plan, params))
    with pytest.raises(ValueError, match="has this tree been sliced before"):
        shrink.slice_module(plan, holder)
    for name, x in vars(holder).items():
        assert x is small[name]
