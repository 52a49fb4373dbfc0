"""A gated language model comes out small under any optimizer underneath."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rmda_jax as rj
from examples.shrink.cases import function_of
from examples.shrink.models import LanguageModel

pytestmark = pytest.mark.costly

RATES = {
    "muon": optax.contrib.muon(0.01),
    "lion": optax.lion(1e-3),
    "adam": optax.adam(3e-3),
    "adamw": optax.adamw(3e-3),
    "adafactor": optax.adafactor(3e-3),
    "schedule_free": optax.contrib.schedule_free_adamw(3e-3),
}
STEPS, KEPT = 6, 0.5


@pytest.mark.not_daily
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name != "muon" else [])
        for name in RATES
    ],
)
def test_a_gated_language_model_of_half_the_units(name):
    fn, params = function_of(LanguageModel(32, rngs=nnx.Rngs(0)))
    tokens = jax.random.randint(jax.random.key(0), (STEPS, 4, 17), 0, 32)
    rules = rj.shrink.group_rules(fn, params, tokens[0, :, :-1])
    budget = rj.budget(groups=KEPT)
    tx = rj.normal_map(RATES[name], 3e-3, rules, budget)

    def loss(params, batch):
        logits = fn(params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, batch[:, 1:]
        ).mean()

    @jax.jit
    def step(params, state, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, n_units = tx.init(params), 0
    for batch in tokens:
        params, state, value = step(params, state, batch)
        assert bool(jnp.isfinite(value))
        alive = [np.asarray(x) for x in jax.tree.leaves(rules.support(params))]
        n_units = sum(x.size for x in alive)
        assert sum(int(x.sum()) for x in alive) == round(KEPT * n_units)
    x = tokens[0, :, :-1]
    plan = rj.shrink.plan(fn, params, x)
    small = rj.shrink.apply(plan, params)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert count(small) < 0.8 * count(params)
    found, expected = fn(small, x), fn(params, x)
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(abs(expected).max()))
