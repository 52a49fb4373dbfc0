"""Training on after shrinking: what stays takes the steps that it would have taken.

The network ties its embedding to its head, adapts a frozen kernel by LoRA, and has a
leaf that nothing reads. Units without a weight get no gradient: the others go the same
way with them and without.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink.test_program import assert_close, drawn

pytestmark = pytest.mark.costly

TOKENS = np.array([0, 3, 1, 6, 2, 2])
SHAPES = {
    "embedding": (7, 6),  # its transpose is the head
    "base": (6, 5),  # never trained
    "lora_a": (6, 3),
    "lora_b": (3, 5),
    "bias": (5,),
    "out": (5, 6),
    "unread": (4, 6),
}
SMALL = {
    "embedding": (7, 5),
    "base": (5, 3),
    "lora_a": (5, 2),
    "lora_b": (2, 3),
    "bias": (3,),
    "out": (3, 5),
    "unread": (4, 6),
}


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def network(p, tokens):
    h = p["embedding"][tokens]
    kernel = jax.lax.stop_gradient(p["base"]) + p["lora_a"] @ p["lora_b"]
    h = h + jnp.tanh(h @ kernel + p["bias"]) @ p["out"]
    return h @ p["embedding"].T


def with_dead_units():
    """Return params of which one feature, one rank and two hidden units are zero."""
    p = drawn(SHAPES)
    p["embedding"] = p["embedding"].at[:, 1].set(0)
    p["base"] = p["base"].at[1].set(0).at[:, 2:4].set(0)
    p["lora_a"] = p["lora_a"].at[1].set(0).at[:, 0].set(0)
    p["lora_b"] = p["lora_b"].at[0].set(0).at[:, 2:4].set(0)
    p["bias"] = p["bias"].at[2:4].set(0)
    p["out"] = p["out"].at[2:4].set(0).at[:, 1].set(0)
    return p


def loss(fn, p):
    logits = fn(p, TOKENS[:-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS[1:])
    return losses.mean()


def trained(tx, fn, params, state, steps):
    @jax.jit
    def run(params, state):
        def step(carry, _):
            params, state = carry
            grads = jax.grad(lambda p: loss(fn, p))(params)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), length=steps)[0]

    return run(params, state)


def rules(**options):
    # Not by the square root of the group's size, which falls when other units go.
    group = rj.group_lasso(-2, weighted=False, **options)
    return rj.RegularizerMap([("out", group), ("lora_a", group), ("bias", rj.l1())])


def trainable(tx):
    """Apply a transformation to all but the frozen kernel."""
    labels = {name: "frozen" if name == "base" else "trained" for name in SHAPES}
    parts = {"trained": tx, "frozen": optax.set_to_zero()}
    return optax.multi_transform(parts, labels)


METHODS = {
    "rmda": lambda: rj.rmda(0.1, rules(), 1e-2, averaging=0.5, restart_steps=(4,)),
    "ramda": lambda: rj.ramda(0.1, rules(), 1e-2, averaging=0.5),
    "proxsgd": lambda: rj.proxsgd(0.1, rules(), 1e-2),
    "proxgen": lambda: rj.proxgen(0.1, rules(), 1e-2),
    "proxssi": lambda: rj.proxssi(0.1, rules(), 1e-2),
    "aprox": lambda: rj.aprox(optax.adam(0.1), 0.1, rules(), 1e-2),
    "normal_map": lambda: rj.normal_map(optax.sgd(0.1, 0.9), 0.1, rules(), 1e-2),
    "linbreg": lambda: rj.linbreg(optax.sgd(0.1), rules(), 1e-2),
    "heal": lambda: rj.heal(
        rj.proxsgd(0.1, rules(), 1e-2), optax.adam(0.1), rules(), start_step=3
    ),
    "adam": lambda: optax.adam(0.1),
    "frozen": lambda: trainable(rj.rmda(0.1, rules(), 1e-2, averaging=0.5)),
    "ema": lambda: optax.chain(optax.sgd(0.1, 0.9), optax.ema(0.9)),
    "microbatches": lambda: optax.MultiSteps(rj.rmda(0.1, rules(), 1e-2), 2),
}
DAILY = ("rmda", "frozen")


@pytest.mark.not_daily
@pytest.mark.parametrize(
    "name",
    [
        name if name in DAILY else pytest.param(name, marks=pytest.mark.long)
        for name in METHODS
    ],
)
def test_every_method_goes_on_as_without_shrinking(name):
    params, tx = with_dead_units(), METHODS[name]()
    params, state = trained(tx, network, params, tx.init(params), steps=2)
    plan = shrink.plan(network, params, TOKENS)
    assert plan.widths == SMALL
    cut = lambda tree: shrink.apply(plan, tree)
    small, small_state = cut(params), cut(state)
    params, state = trained(tx, network, params, state, steps=4)
    for fn in (network, shrink.program(plan, network, params, TOKENS)):
        found, found_state = trained(tx, fn, small, small_state, steps=4)
        assert_close(found, cut(params))
        assert_close(found_state, cut(state))


@pytest.mark.not_daily
def test_an_average_of_the_params_is_sliced_and_goes_on():
    params, tx = with_dead_units(), METHODS["rmda"]()
    average = lambda old, new: optax.incremental_update(new, old, 0.1)
    before = params
    params, state = trained(tx, network, params, tx.init(params), steps=2)
    averages = average(before, params)
    plan = shrink.plan(network, params, TOKENS)
    small, small_state = (shrink.apply(plan, tree) for tree in (params, state))
    small_averages = shrink.apply(plan, {"ema": averages}, folds=True)["ema"]
    small, _ = trained(tx, network, small, small_state, steps=2)
    params, _ = trained(tx, network, params, state, steps=2)
    found = average(small_averages, small)
    assert_close(found, shrink.apply(plan, average(averages, params)))
    # The average has the same zeros: it is the same function, too.
    assert_close(network(found, TOKENS), network(average(averages, params), TOKENS))


def test_lora_alone_is_trained_on_where_the_base_is_closed_over():
    params = with_dead_units()
    base = {name: params.pop(name) for name in ("base", "embedding")}
    fn = lambda p, tokens: network({**p, **base}, tokens)
    tx = METHODS["rmda"]()
    params, state = trained(tx, fn, params, tx.init(params), steps=2)
    plan = shrink.plan(fn, params, TOKENS, for_program=True)
    widths = {name: SMALL[name] for name in params}
    assert plan.widths == widths
    small, small_state = (shrink.apply(plan, tree) for tree in (params, state))
    small_fn = shrink.program(plan, fn, params, TOKENS)
    params, _ = trained(tx, fn, params, state, steps=4)
    small, _ = trained(tx, small_fn, small, small_state, steps=4)
    assert_close(small, shrink.apply(plan, params))
