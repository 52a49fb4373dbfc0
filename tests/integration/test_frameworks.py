"""The same map and the same transformation, whatever library made the params."""

import equinox as eqx
import flax
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import rmda_jax as rj
from tests.transforms._table import (
    assert_close,
    assert_equal,
    by_mechanism,
    factories,
    first,
    gradients,
    run,
    start,
)

pytestmark = pytest.mark.costly

MAP = rj.RegularizerMap(
    [("*kernel", rj.group_lasso(group_axes=-2)), ("*bias", rj.l1(), 0.5)]
)
NAMES = {"conv/bias", "conv/kernel", "head/bias", "head/kernel"}
X = jnp.zeros((1, 3, 2, 8))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (3, 2), padding="VALID", name="conv")(x)
        return linen.Dense(8, name="head")(jnp.tile(x, 2))


class NNX(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(8, 8, (3, 2), padding="VALID", rngs=rngs)
        self.head = nnx.Linear(16, 8, rngs=rngs)


class EquinoxLayer(eqx.Module):
    kernel: jax.Array
    bias: jax.Array


class Equinox(eqx.Module):
    head: EquinoxLayer
    conv: EquinoxLayer
    activation: object = jax.nn.relu


class HaikuLayer(hk.Module):
    def __init__(self, shape, name):
        super().__init__(name)
        self.shape = shape

    def __call__(self, x):
        kernel = hk.get_parameter("kernel", self.shape, init=jnp.zeros)
        return x * kernel.sum() + hk.get_parameter("bias", (8,), init=jnp.zeros)


class HaikuNet(hk.Module):
    def __init__(self):
        super().__init__("net")
        self.conv = HaikuLayer((3, 2, 8, 8), "conv")
        self.head = HaikuLayer((16, 8), "head")

    def __call__(self, x):
        return self.head(self.conv(x))


def _linen(tree):
    variables = Linen().init(jax.random.key(0), X)
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(jnp.shape, tree)
    return {"params": tree}


def nnx_model(tree):
    model = NNX()
    params = nnx.state(model, nnx.Param)
    assert jax.tree.map(jnp.shape, nnx.to_pure_dict(params)) == jax.tree.map(
        jnp.shape, tree
    )
    nnx.replace_by_pure_dict(params, tree)
    nnx.update(model, params)
    return model


def _equinox(tree):
    model = Equinox(**{name: EquinoxLayer(**tree[name]) for name in tree})
    return eqx.filter(model, eqx.is_inexact_array)


def _haiku(tree, net):
    params = hk.transform(net).init(jax.random.key(0), jnp.zeros((1, 8)))
    return {name: tree[name.rpartition("/")[2]] for name in params}


def _plain(params):
    leaf = lambda layer, name: getattr(getattr(params, layer), name)
    return {n: {k: leaf(n, k) for k in ("bias", "kernel")} for n in ("conv", "head")}


# name -> (tree of dicts -> params, params -> tree of dicts, prefix of the names)
FRAMEWORKS = {
    "linen variables": (_linen, lambda p: p["params"], ""),
    "linen params": (lambda t: _linen(t)["params"], lambda p: p, ""),
    "linen frozen": (flax.core.freeze, flax.core.unfreeze, ""),
    "nnx": (
        lambda t: nnx.split(nnx_model(t), nnx.Param)[1],
        nnx.to_pure_dict,
        "",
    ),
    "nnx pure": (
        lambda t: nnx.to_pure_dict(nnx.split(nnx_model(t), nnx.Param)[1]),
        lambda p: p,
        "",
    ),
    "equinox": (_equinox, _plain, ""),
    "haiku": (
        lambda t: _haiku(t, lambda x: HaikuNet()(x)),
        lambda p: {name.rpartition("/")[2]: p[name] for name in p},
        "net/",
    ),
    "a list of dicts": (
        lambda t: [t["conv"], (t["head"],)],
        lambda p: {"conv": p[0], "head": p[1][0]},
        None,
    ),
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_names_are_the_same_in_every_framework(framework):
    make, _, prefix = FRAMEWORKS[framework]
    names = {bound.name for bound in MAP.resolve(make(start()))}
    if prefix is None:
        assert names == {"0/bias", "0/kernel", "1/0/bias", "1/0/kernel"}
    else:
        assert names == {prefix + name for name in NAMES}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@first("structured")
def test_training_is_the_same_in_every_framework(row, framework):
    make, plain, _ = FRAMEWORKS[framework]
    tx = row.make(regularizer=MAP)
    expected, state = run(tx, start(), gradients(3))
    structure = rj.structured_params(state, MAP)
    params, state = run(tx, make(start()), [make(g) for g in gradients(3)])
    assert_close(dict(plain(params)), expected, row.ulps(3))
    actual = plain(rj.structured_params(state, MAP))
    assert_close(dict(actual), structure, row.ulps(3))
    zeros = lambda tree: jax.tree.map(lambda x: x == 0, dict(tree))
    assert_equal(zeros(actual), zeros(structure))
    assert any(x.any() for x in jax.tree.leaves(zeros(actual)))


@pytest.mark.not_daily
@by_mechanism(factories())
def test_nnx_optimizer_is_the_same_as_optax(row):
    changes = {"regularizer": MAP} if row.regularized else {}
    tx = row.make(**changes)
    expected, state = run(tx, start(), gradients(3))
    model = nnx_model(start())
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, grads):
        optimizer.update(model, grads)

    for g in gradients(3):
        step(model, optimizer, nnx.state(nnx_model(g), nnx.Param))
    params = nnx.state(model, nnx.Param)
    assert_close(nnx.to_pure_dict(params), expected, row.ulps(3))
    if row.structured:
        structure = rj.structured_params(state, MAP)
        for structured in (
            rj.structured_params(optimizer.opt_state, MAP),
            rj.structured_params(optimizer.opt_state, MAP, params),
        ):
            assert_close(nnx.to_pure_dict(structured), structure, row.ulps(3))
        nnx.update(model, structured)  # as the params themselves would


def test_structured_params_keep_the_container_of_one_scalar():
    # An NNX optimizer boxes what stands alone; a list or a dict is no such box.
    tx = rj.rmda(0.1, rj.l1(), 0.1)
    for params in ([jnp.float32(1)], {"a": jnp.float32(1)}, jnp.float32(1)):
        _, state = run(tx, params, [params])
        structured = rj.structured_params(state, rj.l1())
        assert jax.tree.structure(structured) == jax.tree.structure(params)
