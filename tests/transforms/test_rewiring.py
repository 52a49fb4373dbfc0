"""The masks of `rigl` in the form for GPUs: all leaves together, run on CPU.

It is chosen by the platform that a program is lowered for, so here both forms are
called by their names. `test_rigl.py` has the definition.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from rmda_jax.transforms import _rewiring
from rmda_jax.transforms._rewiring import Amounts, Leaf, in_turn, rewired, together
from tests._daily import these
from tests.transforms._sparse import (
    METHODS,
    assert_equal,
    gradients,
    make,
    run,
    step_of,
    tree,
)

SHAPES = ((3, 1, 4, 5), (16, 8), (24,))
DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
SHARES = ((0.1, 0.0), (0.5, 0.3), (1.0, 1.0))  # that are there; that give way


def leaf_of(rng, shape, dtype, there, levels=3):
    """Return a leaf with many ties, zeros of both signs, infinities and NaN."""
    draw = lambda: np.round(levels * rng.normal(size=shape)) / levels
    w, score = draw(), draw()
    for x in (w, score):
        odd = rng.random(shape)
        x[odd < 0.05], x[odd > 0.95] = np.nan, np.inf
    mask = rng.random(shape) < there
    mask.flat[0] = True
    return Leaf(jnp.asarray(mask), jnp.asarray(w, dtype), jnp.asarray(score, dtype))


def amounts_of(leaves, shares):
    out = []
    for leaf, share in zip(leaves, shares, strict=True):
        n = jnp.sum(leaf.mask, dtype=jnp.int32)
        n_kept = jnp.clip(jnp.round(n * (1 - share)).astype(jnp.int32), 1, n)
        out.append(Amounts(n_kept, n - n_kept))
    return out


def problem(seed, levels=3):
    """Return leaves that differ in shape, dtype and shares, with their amounts."""
    rng = np.random.default_rng(seed)
    there, give_way = zip(*SHARES, strict=True)
    rows = zip(SHAPES, DTYPES, there, strict=True)
    leaves = [leaf_of(rng, *row, levels=levels) for row in rows]
    return leaves, amounts_of(leaves, give_way)


@functools.partial(jax.jit, static_argnames="find")
def masks(find, leaves, amounts):
    return list(map(rewired, leaves, find(leaves, amounts)))


@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_both_forms_choose_the_same(levels):
    for seed in range(5):
        leaves, amounts = problem(seed, levels)
        found = masks(together, leaves, amounts)
        assert_equal(found, masks(in_turn, leaves, amounts))
        for mask, leaf in zip(found, leaves, strict=True):
            assert mask.sum() == leaf.mask.sum()


def test_nothing_is_promoted():
    leaves, amounts = problem(0)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        found = jax.eval_shape(lambda *x: masks(together, *x), leaves, amounts)
    assert [x.shape for x in found] == list(SHAPES)


def test_both_forms_prune_the_same():
    leaves, amounts = problem(0)
    amounts = [amount._replace(grown=None) for amount in amounts]
    found = masks(together, leaves, amounts)
    assert_equal(found, masks(in_turn, leaves, amounts))
    assert [int(x.sum()) for x in found] == [int(a.kept) for a in amounts]


def test_of_equals_the_first_stay_and_nan_before_infinity():
    w = jnp.array([[1.0, jnp.nan, jnp.inf, 1.0, -jnp.nan, 1.0]])
    leaf = Leaf(jnp.ones_like(w, dtype=bool), w, jnp.zeros_like(w))
    for n, places in ((1, [1]), (2, [1, 4]), (3, [1, 2, 4]), (4, [0, 1, 2, 4])):
        for find in (in_turn, together):
            (mask,) = masks(find, [leaf], [Amounts(jnp.int32(n), None)])
            assert np.flatnonzero(mask).tolist() == places


def test_float64_beside_float32():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        leaves = [
            leaf_of(rng, (6, 7), dtype, 0.5, 10**9)
            for dtype in (jnp.float64, jnp.float32)
        ]
        amounts = amounts_of(leaves, [0.5, 0.0])
        assert_equal(masks(together, leaves, amounts), masks(in_turn, leaves, amounts))


def test_leaves_can_be_vmapped():
    problems = [problem(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *problems)
    lanes = jax.jit(jax.vmap(functools.partial(masks, together)))(*stacked)
    for i, (leaves, amounts) in enumerate(problems):
        assert_equal([x[i] for x in lanes], masks(in_turn, leaves, amounts))


def mesh():
    return Mesh(np.array(jax.devices("cpu")[:8]).reshape(4, 2), ("x", "y"))


def test_sharded_leaves_give_the_masks_of_whole_ones():
    leaves, amounts = problem(0)
    specs = [P(None, None, "x"), P("x", "y"), P("y")]
    put = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh(), spec))
    sharded = [put(leaf, spec) for leaf, spec in zip(leaves, specs, strict=True)]
    found = masks(together, sharded, amounts)
    assert_equal(jax.device_get(found), jax.device_get(masks(in_turn, leaves, amounts)))


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Take the form for GPUs on CPU."""
    monkeypatch.setattr(_rewiring, "GPUS", ("cpu",))


def assert_same_run(found, desired):
    for a, b in zip(found, desired, strict=True):
        assert_equal(jax.tree.leaves(a), jax.tree.leaves(b))


@pytest.mark.parametrize("method", these(("rigl", "set", "pruning"), METHODS))
def test_a_run_is_the_same_in_both_forms(method, on_a_gpu, monkeypatch):
    params = tree(0) | {"none": jnp.ones((0, 4))}
    grads = [g | {"none": params["none"]} for g in gradients(5)]
    optimizer = make(**METHODS[method])
    # Not the compiled step that other tests share.
    step = lambda: jax.jit(step_of(optimizer))
    found = run(optimizer, params, grads, step())
    monkeypatch.setattr(_rewiring, "GPUS", ())
    assert_same_run(found, run(optimizer, params, grads, step()))


@pytest.mark.parametrize("method", ["rigl", "pruning"])
def test_masks_may_differ_between_devices(method, on_a_gpu):
    tx, axes = make(**METHODS[method]), P(("x", "y"))
    rng = np.random.default_rng(0)
    params, grads = jnp.asarray(rng.normal(size=(2, 8, 4, 6)), jnp.float32)
    state = jax.vmap(tx.init)(params)._replace(count=jnp.full(8, 2, jnp.int32))
    one = lambda g, s, w: tx.update(g, s, w)[1].masks

    def on_each(g, s, w):
        first = jax.tree.map(lambda x: x[0], (g, s, w))
        return one(*first)[None]

    shared = jax.shard_map(on_each, mesh=mesh(), in_specs=axes, out_specs=axes)
    found = jax.jit(shared)(grads, state, params)
    assert_equal(found, jax.vmap(one)(grads, state, params))
    assert not np.array_equal(found[0], found[1])
