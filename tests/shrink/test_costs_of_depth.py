"""Costs that know branches and layers, and budgets that count them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import shrink

pytestmark = [
    pytest.mark.costly,
    pytest.mark.filterwarnings("ignore:all units are zero:UserWarning"),
]
BATCH, WIDTH, HIDDEN, LAYERS = 4, 6, 20, 8
X = np.ones((BATCH, 3), np.float32)


def branch(x, p):
    return x + jax.nn.relu(x @ p["up"] + p["bias"]) @ p["down"]


def residual(params, x):
    h = x @ params["in"]
    for p in params["blocks"]:
        h = branch(h, p)
    return h @ params["head"]


def scanned(params, x):
    layer = lambda h, p: (branch(h, p) + p["outer"], None)
    return jax.lax.scan(layer, x @ params["in"], params["blocks"])[0] @ params["head"]


def drawn(*shape, seed=0):
    rng = np.random.default_rng((seed, *shape))
    return rng.normal(size=shape).astype(np.float32)


def params_of(fn):
    """Return params of one of the two functions above."""
    shapes = {"up": (WIDTH, HIDDEN), "bias": (HIDDEN,), "down": (HIDDEN, WIDTH)}
    if fn is scanned:
        shapes["outer"] = (WIDTH,)
    blocks = [
        {name: drawn(*shape, seed=i) for name, shape in shapes.items()}
        for i in range(LAYERS)
    ]
    if fn is scanned:
        blocks = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    return {"in": drawn(3, WIDTH), "blocks": blocks, "head": drawn(WIDTH, 2)}


def made(fn, *, for_program=True):
    """Return params, the rules of their branches or layers, and what these cost."""
    params = params_of(fn)
    rules = shrink.group_rules(fn, params, X, depth=True, for_program=for_program)
    how = {"regularizer": rules, "for_program": for_program}
    return params, rules, shrink.costs(fn, params, X, **how)


def n_weights(params):
    return sum(x.size for x in jax.tree.leaves(params))


def small_of(fn, params, *, for_program=True):
    """Return what is left of the params."""
    plan = shrink.plan(fn, params, X, for_program=for_program)
    return shrink.apply(plan, params)


@pytest.mark.parametrize(
    ("fn", "for_program", "numbers"),
    [
        (residual, True, (8, 3, 0)),
        (scanned, True, (8, 3, 0)),
        (scanned, False, (8, 3, 1)),  # of all layers one would stay
    ],
)
def test_weights_and_flops_of_dead_branches_and_layers(fn, for_program, numbers):
    params, _, costs = made(fn, for_program=for_program)
    # Of products 2 FLOPs a term; of each hidden unit a sum and a maximum; then sums.
    n_sums = 1 if fn is residual else 2
    ends = 2 * BATCH * (3 * WIDTH + WIDTH * 2)
    hidden = BATCH * HIDDEN * (2 * 2 * WIDTH + 2)
    sums = BATCH * WIDTH * n_sums
    for alive in numbers:
        stays = np.arange(LAYERS) < alive
        supports = np.split(stays, LAYERS) if fn is residual else [stays]
        counts = costs.alive(supports)
        blocks = params["blocks"]
        if fn is scanned:
            pruned = params | {"blocks": dict(blocks)}
            for name in ("down", "outer"):
                pruned["blocks"][name] = blocks[name].copy()
                pruned["blocks"][name][alive:] = 0
        else:
            zero = lambda p: p | {"down": 0 * p["down"]}
            pruned = params | {
                "blocks": [p if i < alive else zero(p) for i, p in enumerate(blocks)]
            }
        small = small_of(fn, pruned, for_program=for_program)
        assert costs.weights(counts) == n_weights(small)
        n_run = LAYERS if fn is residual else alive  # a zero is added to the stream
        assert costs.flops(counts) == ends + alive * hidden + n_run * sums


@pytest.mark.not_daily
@pytest.mark.parametrize("fn", [residual, scanned])
def test_a_budget_of_weights_counts_branches_and_layers(fn):
    params, rules, costs = made(fn)
    grads = jax.tree.map(lambda x: drawn(*x.shape, seed=9), params)
    tx = rj.proxsgd(0.1, rules, rj.budget(weights=0.5, costs=costs, at_least=0))
    updates, _ = tx.update(grads, tx.init(params), params)
    small = small_of(fn, optax.apply_updates(params, updates))
    # Four of the eight, and the two ends.
    assert n_weights(small) / n_weights(params) == pytest.approx(0.5, abs=0.01)


def test_branches_need_a_program():
    params, rules, _ = made(residual)
    with pytest.raises(ValueError, match=r"whole branches, .* pass for_program=True"):
        _ = shrink.costs(residual, params, X, regularizer=rules)


def test_floors_that_keep_every_branch_are_refused():
    params, rules, costs = made(residual)
    tx = rj.proxsgd(0.1, rules, rj.budget(weights=0.5, costs=costs))
    with pytest.raises(ValueError, match=r"`at_least` .* is 1, .* pass at_least=0"):
        tx.init(jax.tree.map(jnp.asarray, params))
