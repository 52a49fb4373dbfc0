"""What Optax lets users do that must not go unnoticed."""

import jax
import jax.numpy as jnp
import optax
import pytest

import rmda_jax as rj
from tests.transforms._table import first, gradients, run, start

pytestmark = pytest.mark.costly

RULES = rj.RegularizerMap([("*kernel", rj.group_lasso(group_axes=-2))])


def rmda():
    return rj.rmda(0.1, RULES, 0.3, averaging=1.0)


AFTER = {
    "scale": optax.scale(-0.1),
    "identity": optax.identity(),
    "weight decay": optax.add_decayed_weights(1e-3),
    "trace": optax.trace(0.9),
    "adam": optax.adam(0.1),
    "average": optax.ema(0.9),
}


def state_of(tx):
    # The order is told from the state alone: it need not have seen a gradient.
    return tx.init(start())


@pytest.mark.parametrize("after", AFTER)
def test_what_stands_after_in_a_chain_is_refused(after):
    for around in (
        lambda *both: optax.chain(*both),
        lambda *both: optax.chain(optax.clip(1.0), optax.chain(*both)),
        lambda one, two: optax.chain(optax.chain(optax.clip(1.0), one), two),
        lambda *both: optax.MultiSteps(optax.chain(*both), 2),
        lambda *both: optax.partition(
            {"all": optax.chain(*both)},
            lambda tree: jax.tree.map(lambda _: "all", tree),
        ),
    ):
        tx = around(rmda(), AFTER[after])
        with pytest.raises(ValueError, match=r"may stand after.*got \w+"):
            rj.structured_params(state_of(tx), RULES)
        # In the other order only the count of updates is missed.
        right = around(AFTER[after], rmda())
        with pytest.raises(ValueError, match="before the first update"):
            rj.structured_params(state_of(right), RULES)


def test_monitors_and_other_parts_may_stand_after():
    kernels = lambda tree: jax.tree.map_with_path(
        lambda path, _: path[-1].key == "kernel", tree
    )
    biases = lambda tree: jax.tree.map(lambda is_kernel: not is_kernel, kernels(tree))
    tx = optax.chain(
        optax.masked(rmda(), kernels),
        optax.masked(optax.sgd(0.1), biases),
        optax.snapshot("norm", optax.tree.norm),
        optax.monitor({"largest": lambda tree: optax.tree.max(tree)}),
    )
    params, state = run(tx, start(), gradients(2))
    structured = rj.structured_params(state, RULES, params)
    assert 0 < rj.metrics.group_sparsity(structured, RULES) < 1
    # What they do after it: the params are the structured iterate still.
    for name in ("conv", "head"):
        zeros = [tree[name]["kernel"] == 0 for tree in (params, structured)]
        assert jnp.array_equal(*zeros)


def test_in_a_named_chain_the_order_cannot_be_told():
    # JAX sorts the names. The params show it: they have not the zeros.
    tx = optax.named_chain(("rmda", rmda()), ("late", optax.add_decayed_weights(0.1)))
    params, state = run(tx, start(), gradients(2))
    structured = rj.structured_params(state, RULES)
    found = [rj.metrics.group_sparsity(tree, RULES) for tree in (params, structured)]
    assert found[0] == 0 < found[1]


@first("structured")
def test_extra_arguments_pass_by(row):
    tx = optax.chain(optax.contrib.reduce_on_plateau(patience=1), row.make())
    params, grads = start(), gradients(1)[0]
    updates, _ = tx.update(grads, tx.init(params), params, value=jnp.float32(1))
    expected, _ = row.make().update(grads, row.make().init(params), params)
    assert all(
        jnp.array_equal(x, y)
        for x, y in zip(*map(jax.tree.leaves, (updates, expected)), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:1], r"parameter '.*', \(8,\), got \(1,\)"),
        (lambda x: jnp.zeros((2, *x.shape)), r"\(8,\), got \(2, 8\)"),
        (lambda x: [x, x], r"missing: conv/bias, .*unexpected: conv/bias/0, conv"),
    ],
    ids=["broadcasts", "wider", "another tree"],
)
@pytest.mark.parametrize(
    "make", [rj.rmda, rj.ramda, rj.proxsgd, rj.proxgen, rj.proxssi]
)
def test_a_state_of_other_params_is_refused(make, change, message):
    tx = make(0.1, RULES, 0.3)
    state = tx.init(start())
    wrong = optax.tree.map_params(tx, change, state)
    with pytest.raises(ValueError, match=message):
        tx.update(start(), wrong, start())
