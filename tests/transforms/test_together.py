"""The metric methods in the form for GPUs: all leaves together, run on CPU.

It is chosen by the platform that a program is lowered for, so here it is put in the
place of the form for CPU. `tests/regularizers/test_group_metric.py` has the truth.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import rmda_jax as rj
from rmda_jax.transforms import _prox_leaves

# Of each kind: with roots, with a closed form, with iterations.
REGULARIZERS = {
    "conv": rj.group_lasso(-2),
    "sparse": rj.sparse_group_lasso(0),
    "elastic": rj.on_groups(rj.elastic_net(), 0),
    "concave": rj.group_mcp(0),
    "entries": rj.l1(),
    "levels": rj.nuclear_norm(),
}
METHODS = {
    "ramda": lambda rules: rj.ramda(0.05, rules, 0.02, averaging=1.0),
    "proxgen": lambda rules: rj.proxgen(0.02, rules, 0.05),
    "proxssi": lambda rules: rj.proxssi(0.02, rules, 0.01),
    "proxsgd_adaptive": lambda rules: rj.proxsgd_adaptive(0.02, rules, 0.05),
}


ALL = (*REGULARIZERS, "free")


def rules(names):
    return rj.RegularizerMap([(n, REGULARIZERS[n]) for n in names if n != "free"])


def params(names):
    keys = jax.random.split(jax.random.key(0), len(names))
    scales = jnp.asarray([0.01, 1, 1, 1])[:, None]  # the first group is to vanish
    draw = lambda key: 0.3 * scales * jax.random.normal(key, (4, 5))
    return {name: draw(key) for name, key in zip(names, keys, strict=True)}


def trained(optimizer, w, n_steps=3):
    """Return the params after some steps on a quadratic."""
    target = jax.tree.map(lambda x: jnp.where(x > 0.2, x, 0), w)

    def step(carry, _):
        w, state = carry
        grads = jax.tree.map(jnp.subtract, w, target)
        updates, state = optimizer.update(grads, state, w)
        return (optax.apply_updates(w, updates), state), None

    (w, _), _ = jax.lax.scan(step, (w, optimizer.init(w)), length=n_steps)
    return w


@pytest.fixture
def in_both_forms(monkeypatch):
    """Return what a function returns with the form for CPU, and with the other."""

    def both(function, *arguments):
        alone = jax.jit(lambda *a: function(*a))(*arguments)
        with monkeypatch.context() as patch:
            patch.setattr(_prox_leaves, "_in_turn", _prox_leaves._together)
            together = jax.jit(lambda *a: function(*a))(*arguments)
        return alone, together

    return both


def check_equal(alone, together, atol=3e-6):
    for name, x in alone.items():
        np.testing.assert_allclose(together[name], x, rtol=0, atol=atol, err_msg=name)
        np.testing.assert_array_equal(together[name] == 0, x == 0, err_msg=name)


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("ramda", ("conv", "entries", "free")),
        *(pytest.param(method, ALL, marks=pytest.mark.long) for method in METHODS),
    ],
)
def test_both_forms_train_alike(method, names, in_both_forms):
    run = functools.partial(trained, METHODS[method](rules(names)))
    alone, together = in_both_forms(run, params(names))
    zero = (np.asarray(alone["conv"]) == 0).all(axis=1)
    assert zero[0]
    assert not zero[1:].any()
    check_equal(alone, together)


@pytest.mark.not_daily
def test_both_forms_train_several_alike(in_both_forms):
    w = params(("conv", "free"))
    several = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), w)
    run = functools.partial(trained, METHODS["ramda"](rules(w)), n_steps=1)
    check_equal(*in_both_forms(jax.vmap(run), several))


@pytest.mark.not_daily
def test_derivatives_pass_through(in_both_forms):
    w = params(("conv", "free"))

    def loss(rate, w):
        optimizer = rj.ramda(rate, rules(w), 0.02, averaging=1.0)
        updates, _ = optimizer.update(w, optimizer.init(w), w)
        return jnp.sum(jnp.square(optax.apply_updates(w, updates)["conv"]))

    alone, together = in_both_forms(jax.grad(loss), jnp.float32(0.1), w)
    assert alone != 0
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.not_daily
@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="JAX has no jax.shard_map")
def test_leaves_that_are_sharded_otherwise(in_both_forms):
    w = params(("conv", "sparse", "free"))
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("x",))
    # Groups are whole on a device; one leaf lies on both.
    whole, split = PartitionSpec(), PartitionSpec("x")
    specs = {"conv": split, "sparse": whole, "free": split}
    run = functools.partial(trained, METHODS["ramda"](rules(w)), n_steps=1)
    sharded = jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=specs)
    check_equal(*in_both_forms(sharded, w))


LOOPS = [("cuda", 1), ("rocm", 1), ("tpu", 3), ("cpu", 3)]


@pytest.mark.parametrize(("platform", "n_loops"), LOOPS)
def test_gpus_have_one_loop_for_all_leaves(platform, n_loops):
    w = params(("conv", "sparse", "elastic", "free"))
    optimizer = METHODS["ramda"](rules(w))
    update = jax.jit(optimizer.update).trace(w, optimizer.init(w), w)
    text = update.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == n_loops
