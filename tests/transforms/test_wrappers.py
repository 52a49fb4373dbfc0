"""Every transformation inside Optax's wrappers, on every row of the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests._daily import daily
from tests.transforms._table import (
    CONSTANTS,
    STEPS,
    assert_close,
    assert_equal,
    by_mechanism,
    factories,
    first,
    gradients,
    rows,
    run,
    start,
)

pytestmark = pytest.mark.costly


def every(label):
    """A tree like the params with one label at every leaf."""
    return jax.tree.map(lambda _: label, start())


# --- one wrapper at a time --------------------------------------------------------


@by_mechanism(factories())
def test_clipping_before_equals_clipped_gradients(row):
    clip = optax.clip_by_global_norm(1.0)
    clipped = [clip.update(g, clip.init(g))[0] for g in gradients()]
    chained = run(optax.chain(clip, row.make()), start(), gradients())
    plain = run(row.make(), start(), clipped)
    assert_close(chained[0], plain[0], row.ulps(STEPS))
    assert_close(chained[1][1], plain[1], row.ulps(STEPS))
    assert not np.array_equal(
        gradients()[0]["head"]["bias"], clipped[0]["head"]["bias"]
    )


@by_mechanism(factories())
def test_multi_steps_equals_averaged_gradients(row):
    grads = gradients()
    means = [
        jax.tree.map(lambda a, b: (a + b) / 2, *pair)
        for pair in zip(grads[::2], grads[1::2], strict=True)
    ]
    tx = optax.MultiSteps(row.make(), 2)
    params, state = run(tx, start(), grads)
    expected = run(row.make(), start(), means)
    assert_close((params, state.inner_opt_state), expected, row.ulps(STEPS))
    # Between two of its steps nothing moves.
    between, _ = run(tx, start(), grads[:1])
    assert_equal(between, start())


@by_mechanism(rows())
def test_inject_hyperparams_equals_plain(row):
    injected = optax.inject_hyperparams(row.factory)(**row.arguments)
    params, state = run(injected, start(), gradients())
    assert state.hyperparams.keys() >= set(row.hyperparameters)
    expected = run(row.make(), start(), gradients())
    assert_close((params, state.inner_state), expected, row.ulps(STEPS))


@by_mechanism(factories("hyperparameters"))
def test_hyperparameters_change_in_the_injected_state(row):
    injected = optax.inject_hyperparams(row.factory)(**row.constants())
    # At the next update RigL rewires: the inner optimizer's count falls behind.
    params, state = run(injected, start(), gradients()[:3])
    halves = {name: CONSTANTS[name] / 2 for name in row.hyperparameters}
    state.hyperparams.update({k: jnp.float32(half) for k, half in halves.items()})
    params, _ = run(injected, params, gradients()[3:], state)
    schedules = {
        name: lambda count, half=half: jnp.where(count < 3, 2 * half, half)
        for name, half in halves.items()
    }
    expected, _ = run(row.make_constant(**schedules), start(), gradients())
    assert_close(params, expected, row.ulps(STEPS))
    unchanged, _ = run(injected, start(), gradients())
    assert not np.array_equal(params["head"]["kernel"], unchanged["head"]["kernel"])


@by_mechanism(factories("hyperparameters"))
def test_injected_hyperparams_of_bfloat16_params_may_be_float32(row):
    grads = gradients(dtype=jnp.bfloat16)
    inject = optax.inject_hyperparams(row.factory, hyperparam_dtype=jnp.float32)
    params, state = run(inject(**row.constants()), start(jnp.bfloat16), grads)
    expected = run(row.make_constant(), start(jnp.bfloat16), grads)
    assert_close((params, state.inner_state), expected, row.ulps(STEPS))


@factories("structured")
def test_partition_equals_an_optimizer_for_each_part(row):
    labels = {
        "conv": {"bias": "groups", "kernel": "groups"},
        "head": {"bias": "plain", "kernel": "entries"},
    }
    parts = {
        "groups": row.make(regularizer=rj.group_lasso(group_axes=-1)),
        "entries": row.make(regularizer=rj.l1()),
        "plain": optax.sgd(0.1, momentum=0.9),
    }
    params, state = run(optax.partition(parts, labels), start(), gradients())

    def part(tx, *path):
        keep = lambda tree: {path[0]: {key: tree[path[0]][key] for key in path[1:]}}
        return run(tx, keep(start()), [keep(g) for g in gradients()])

    groups, groups_state = part(parts["groups"], "conv", "bias", "kernel")
    entries, entries_state = part(parts["entries"], "head", "kernel")
    plain, _ = part(parts["plain"], "head", "bias")
    expected = {**groups, "head": {**entries["head"], **plain["head"]}}
    assert_close(params, expected, row.ulps(STEPS))

    whole = rj.RegularizerMap(
        [("conv/*", rj.group_lasso(group_axes=-1)), ("head/kernel", rj.l1())]
    )
    structured = rj.structured_params(state, whole, params)
    conv = rj.structured_params(groups_state, rj.group_lasso(group_axes=-1))
    head = rj.structured_params(entries_state, rj.l1())
    expected = {**conv, "head": {**head["head"], **plain["head"]}}
    assert_close(structured, expected, row.ulps(STEPS))
    unfilled = rj.structured_params(state, whole)
    assert isinstance(unfilled["head"]["bias"], optax.MaskedNode)


@factories("structured")
def test_masked_equals_the_part_that_is_not(row):
    mask = {"conv": True, "head": {"bias": False, "kernel": True}}
    tx = row.make(regularizer=rj.l1())
    params, state = run(optax.masked(tx, mask), start(), gradients())
    part = lambda tree: {
        "conv": tree["conv"],
        "head": {"kernel": tree["head"]["kernel"]},
    }
    expected, part_state = run(tx, part(start()), [part(g) for g in gradients()])
    assert_close(part(params), expected, row.ulps(STEPS))
    # Optax hands masked gradients on as they are.
    passed = sum(g["head"]["bias"] for g in gradients())
    bias = start()["head"]["bias"] + passed
    assert_close(params["head"]["bias"], bias, row.ulps(STEPS))
    structured = rj.structured_params(state, rj.l1(), params)
    assert_close(
        part(structured), rj.structured_params(part_state, rj.l1()), row.ulps(STEPS)
    )
    assert_equal(structured["head"]["bias"], params["head"]["bias"])


@by_mechanism(factories())
def test_apply_if_finite_leaves_no_trace_of_gradients_that_are_not(row):
    tx = optax.apply_if_finite(row.make(), max_consecutive_errors=10)
    rng = np.random.default_rng(0)
    params, state = start(), tx.init(start())
    rejected = 0
    for g in gradients():
        while rng.random() < 0.5:
            name, bad = [("conv", jnp.nan), ("head", jnp.inf), ("head", -jnp.inf)][
                rejected % 3
            ]
            poisoned = {**g, name: {**g[name], "bias": g[name]["bias"].at[1].set(bad)}}
            same, state_after = run(tx, params, [poisoned], state)
            assert_equal(same, params)
            assert_equal(state_after.inner_state, state.inner_state)
            state, rejected = state_after, rejected + 1
        params, state = run(tx, params, [g], state)
    assert rejected >= 3  # each kind
    assert int(state.total_notfinite) == rejected
    expected, clean = run(tx, start(), gradients())
    assert_equal(params, expected)
    assert_equal(state.inner_state, clean.inner_state)


# --- the structured iterate from any nesting --------------------------------------


def _inject_chain(row):
    def chained(learning_rate, strength):
        tx = row.factory(
            **{**row.arguments, "learning_rate": learning_rate, "strength": strength}
        )
        return optax.chain(optax.clip(1e6), tx)

    arguments = row.arguments
    return optax.inject_hyperparams(chained)(
        learning_rate=arguments["learning_rate"], strength=arguments["strength"]
    )


def _inject(row):
    return optax.inject_hyperparams(row.factory)(**row.arguments)


NESTINGS = {
    "chain": lambda row: optax.chain(optax.clip(1e6), row.make()),
    "chain in chain": lambda row: optax.chain(
        optax.identity(), optax.chain(optax.zero_nans(), row.make())
    ),
    "named chain": lambda row: optax.named_chain(
        ("clip", optax.clip(1e6)), ("dual", row.make())
    ),
    "multi steps": lambda row: optax.MultiSteps(row.make(), 1),
    "inject": _inject,
    "inject a chain": _inject_chain,
    "partition": lambda row: optax.partition({"a": row.make()}, every("a")),
    "masked": lambda row: optax.masked(row.make(), every(True)),
    "apply if finite": lambda row: optax.apply_if_finite(row.make(), 3),
    "all of them": lambda row: optax.MultiSteps(
        optax.apply_if_finite(
            optax.partition(
                {
                    "a": optax.chain(
                        optax.clip(1e6),
                        optax.masked(
                            _inject(row), lambda t: jax.tree.map(lambda _: True, t)
                        ),
                    )
                },
                every("a"),
            ),
            3,
        ),
        1,
    ),
    "all the other way round": lambda row: optax.masked(
        optax.chain(
            optax.clip(1e6),
            optax.partition(
                {"a": optax.apply_if_finite(_inject_chain(row), 3)}, every("a")
            ),
        ),
        every(True),
    ),
}


def zeros(tree):
    return jax.tree.map(lambda x: np.asarray(x) == 0, tree)


@functools.cache
def plain_structure(row):
    _, state = run(row.make(), start(), gradients(3))
    structured = rj.structured_params(state, row.regularizer)
    return structured, rj.structured_support(state, row.regularizer)


def check_structure(row, nesting):
    _, state = run(NESTINGS[nesting](row), start(), gradients(3))
    expected, support = plain_structure(row)
    extract = functools.partial(rj.structured_params, regularizer=row.regularizer)
    for structured in (extract(state), jax.jit(extract)(state)):
        assert_close(structured, expected, row.ulps(STEPS))
        assert_equal(zeros(structured), zeros(expected))
    assert_equal(rj.structured_support(state, row.regularizer), support)


@pytest.mark.parametrize("nesting", NESTINGS)
@first("structured")
def test_structured_params_are_found_in_any_nesting(row, nesting):
    check_structure(row, nesting)


@daily(lambda row: "the state is found, whatever it is", factories("structured"))
def test_structured_params_are_found_in_all_nestings_at_once(row):
    check_structure(row, "all of them")
