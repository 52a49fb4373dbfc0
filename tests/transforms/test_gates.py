"""D-Gating: its penalty is the regularizer's, at its least, and so are its minima."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj

pytestmark = pytest.mark.costly

R = rj.regularizers
CASES = {
    "l1": (rj.l1(), 2),
    "group_lasso": (rj.group_lasso(0), 2),
    "unweighted": (rj.group_lasso((0, -1), weighted=False), 2),
    "whole": (rj.group_lasso(()), 2),
    "lq": (R.lq(1 / 2), 4),
    "group_lq": (R.group_lq(-1, q=2 / 3), 3),
}
each_case = pytest.mark.parametrize(("regularizer", "depth"), CASES.values(), ids=CASES)


def arrays(shape=(3, 2, 4)):
    x = np.random.default_rng(0).normal(size=shape)
    x[1] = 0
    return {"a": {"kernel": jnp.asarray(x), "bias": jnp.ones(4)}}


def rules(regularizer):
    return rj.RegularizerMap([("*/kernel", regularizer, 1.5)])


@each_case
def test_the_penalty_of_balanced_factors_is_the_regularizer(regularizer, depth):
    with jax.enable_x64(True):
        params, spec = arrays(), rules(regularizer)
        gated = rj.gate_params(params, spec, balanced=True)
        leaf = gated["a"]["kernel"]
        assert leaf.gates.shape[0] == depth - 1
        np.testing.assert_allclose(
            rj.gate_penalty(gated, spec), spec.value(params), rtol=1e-14
        )
        for x, y in zip(
            *map(jax.tree.leaves, (rj.collapse_gates(gated), params)), strict=True
        ):
            np.testing.assert_allclose(x, y, rtol=1e-14)


@each_case
def test_no_other_factors_of_the_same_product_have_a_smaller_penalty(
    regularizer, depth
):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        params, spec = arrays(), rules(regularizer)
        gated = rj.gate_params(params, spec, balanced=True)
        least = float(rj.gate_penalty(gated, spec))
        for size in (1e-3, 0.1, 1.0):
            gated = rj.gate_params(params, spec, balanced=True)
            leaf = gated["a"]["kernel"]
            # Factors whose product is 1.
            by = np.exp(size * rng.normal(size=leaf.gates.shape))
            gated["a"]["kernel"] = leaf._replace(
                gates=leaf.gates * by, values=leaf.values / by.prod(0)
            )
            again = rj.collapse_gates(gated)["a"]["kernel"]
            np.testing.assert_allclose(again, params["a"]["kernel"], rtol=1e-13)
            assert rj.gate_penalty(gated, spec) > least * (1 + 0.1 * size**2)


@pytest.mark.parametrize("regularizer", [rj.l1(), rj.group_lasso(0)], ids=str)
def test_descent_ends_at_the_minimum_of_the_lasso(regularizer):
    rng, strength = np.random.default_rng(2), 0.1
    with jax.enable_x64(True):
        inputs = jnp.asarray(rng.normal(size=(50, 6)))
        targets = inputs[:, :2] @ rng.normal(size=(2, 2))
        loss = lambda w: jnp.sum((inputs @ w - targets) ** 2) / 100

        def objective(gated):
            penalty = strength * rj.gate_penalty(gated, regularizer)
            return loss(rj.collapse_gates(gated)) + penalty

        tx = optax.sgd(0.1)
        gated = rj.gate_params(jnp.asarray(rng.normal(size=(6, 2))), regularizer)

        def step(carry, _):
            gated, state = carry
            updates, state = tx.update(jax.grad(objective)(gated), state)
            return (optax.apply_updates(gated, updates), state), None

        run = jax.jit(lambda c: jax.lax.scan(step, c, length=5000)[0])
        found = rj.collapse_gates(run((gated, tx.init(gated)))[0])
        lasso = lambda w, _: (
            regularizer.prox(w - 0.1 * jax.grad(loss)(w), 0.1 * strength),
            None,
        )
        best = jax.lax.scan(lasso, jnp.zeros((6, 2)), length=5000)[0]
        np.testing.assert_allclose(found, best, rtol=0, atol=1e-6)
        # The prox has exact zeros where gates are merely small.
        assert (best == 0).any()
        assert (found != 0).all()
        cut = rj.collapse_gates(rj.gate_params(found, regularizer), threshold=1e-5)
        np.testing.assert_array_equal(
            regularizer.support(cut), regularizer.support(best)
        )


@pytest.mark.parametrize("balanced", [False, True])
def test_half_precision_keeps_its_dtype_and_zero_is_a_trap_if_balanced(balanced):
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]], jnp.bfloat16)
    gated = rj.gate_params(x, rj.group_lasso(0), balanced=balanced)
    assert {y.dtype for y in jax.tree.leaves(gated)} == {jnp.dtype(jnp.bfloat16)}
    gradient = jax.grad(lambda g: jnp.sum(rj.collapse_gates(g)))(gated)
    assert (gradient.values[0] != 0).all()
    assert (gradient.gates[:, 1] == 0).all()
    assert (gradient.values[1] == 0).all() == balanced


def test_balanced_entries_keep_their_sign():
    ends = []
    for balanced in (False, True):
        gated = rj.gate_params(jnp.array([2.0]), rj.l1(), balanced=balanced)
        loss = lambda g: jnp.sum((rj.collapse_gates(g) + 1) ** 2) / 2
        gradient = jax.jit(jax.grad(loss))
        for _ in range(200):
            gated = jax.tree.map(lambda x, g: x - 0.1 * g, gated, gradient(gated))
        ends.append(float(rj.collapse_gates(gated)[0]))
    assert ends[0] == pytest.approx(-1, abs=1e-3)
    assert ends[1] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    "regularizer",
    [rj.mcp(), R.lq(0.6), rj.nuclear_norm(), rj.group_lasso(0, block=2), rj.box(0, 1)],
    ids=str,
)
def test_others_have_no_gates(regularizer):
    with pytest.raises(ValueError, match="has no gates"):
        rj.gate_params(arrays(), rules(regularizer))
