"""What is refused, and in which words."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests.transforms._table import (
    GROUPS,
    assert_equal,
    factories,
    gradients,
    run,
    start,
)

pytestmark = pytest.mark.costly

# --- hyperparameters --------------------------------------------------------------

NOT_A_NUMBER = [
    (True, "True"),
    ("0.1", "'0.1'"),
    (None, "None"),
    (1j, "1j"),
    ([0.1], "[0.1]"),
    (np.array([0.1, 0.2]), "array([0.1, 0.2])"),
    (jnp.array([0.5]), "Array([0.5]"),
]
NAN, INF = float("nan"), float("inf")
DOMAINS = {
    "[0, inf)": [-0.1, np.float32(-1), -INF, NAN, INF],
    "(0, inf)": [0, 0.0, -0.1, NAN, INF],
    "[0, 1)": [-0.1, 1, 1.0, 1.5, NAN, INF],
    "(0, 1]": [0, 0.0, -0.1, 1.5, NAN, INF],
}
DOMAIN_OF = {
    "learning_rate": "[0, inf)",
    "strength": "[0, inf)",
    "averaging": "(0, 1]",
    "b1": "[0, 1)",
    "b2": "[0, 1)",
    "eps": "(0, inf)",
    "weight_decay": "[0, inf)",
}


@factories("regularized")
def test_hyperparameter_that_is_no_number(row):
    for name in row.hyperparameters:
        for bad, shown in NOT_A_NUMBER:
            message = f"`{name}` must be a number, an array of rank 0 or a schedule, "
            with pytest.raises(TypeError, match=re.escape(f"{message}got {shown}")):
                row.make(**{name: bad})


@factories("regularized")
def test_hyperparameter_outside_its_domain(row):
    for name in row.hyperparameters:
        for bad in DOMAINS[DOMAIN_OF[name]]:
            message = f"`{name}` must lie in {DOMAIN_OF[name]}, got {bad}"
            with pytest.raises(ValueError, match=re.escape(message)):
                row.make(**{name: bad})


@factories("regularized")
def test_every_kind_of_number_is_a_hyperparameter(row):
    params, grads = jnp.array([1.0, -2.0]), [jnp.array([0.5, 0.25])]
    for name in row.hyperparameters:
        x = 0 if DOMAIN_OF[name] == "[0, 1)" else 1
        kinds = [
            x,
            float(x),
            np.float32(x),
            np.array(x),
            jnp.float32(x),
            lambda _, x=x: x,
        ]
        once = [
            run(
                row.make(regularizer=rj.l1(), **{name: kind}), params, grads, eager=True
            )
            for kind in kinds
        ]
        assert np.isfinite(once[0][0]).all()
        for other, _ in once[1:]:
            assert_equal(other, once[0][0])


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ((5, 2), ValueError, "nonnegative and strictly ascending, got (5, 2)"),
        ((2, 2), ValueError, "nonnegative and strictly ascending, got (2, 2)"),
        ((-1, 2), ValueError, "nonnegative and strictly ascending, got (-1, 2)"),
        ((2.0, 5), TypeError, "a sequence of integers, got (2.0, 5)"),
        ("25", TypeError, "a sequence of integers, got ('2', '5')"),
        (5, TypeError, "a sequence of integers, got 5"),
    ],
)
@factories("restarts")
def test_restart_steps_that_are_no_ascending_counts(row, bad, error, message):
    with pytest.raises(error, match=re.escape(f"`restart_steps` must be {message}")):
        row.make(restart_steps=bad)


# --- trees ------------------------------------------------------------------------


@factories()
def test_params_missing_in_update(row):
    tx = row.make()
    with pytest.raises(ValueError, match=r"`params` must be passed to `update`, got N"):
        tx.update(gradients(1)[0], tx.init(start()))


@factories("regularized")
def test_empty_tree(row):
    for empty in ({}, [], None, {"conv": {}, "head": (None,)}):
        for regularizer in (rj.l1(), GROUPS):
            tx = row.make(regularizer=regularizer)
            with pytest.raises(ValueError, match="the tree of params is empty, got"):
                tx.init(empty)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
@factories()
def test_leaf_that_is_not_real_floating(row, dtype):
    good = start()
    bad = {**good, "conv": {**good["conv"], "bias": jnp.zeros(8, dtype)}}
    tx = row.make()
    message = (
        f"must be real floating, got dtype {jnp.dtype(dtype).name} for parameter "
        "'conv/bias' of shape (8,). Keep such leaves out with optax.masked"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        tx.init(bad)
    state = tx.init(good)
    with pytest.raises(TypeError, match=re.escape(message)):
        tx.update(good, state, bad)


@factories()
def test_gradients_of_another_structure(row):
    tx, params = row.make(), start()
    state = tx.init(params)
    fewer = {**params, "conv": {"kernel": params["conv"]["kernel"]}}
    more = {**params, "tail": jnp.zeros(3)}
    for grads, leaf in (
        (fewer, "conv/bias"),
        (more, "tail"),
        (None, "conv/bias, conv/kernel, head/bias, head/kernel"),
        (jax.tree.leaves(params), "0, 1, 2, 3, conv/bias, conv/kernel"),
    ):
        message = "gradients and params must have the same tree structure"
        with pytest.raises(ValueError, match=message) as caught:
            tx.update(grads, state, params)
        assert f"Leaves in only one of them: {leaf}" in str(caught.value)


@factories()
def test_gradients_of_another_shape(row):
    tx, params = row.make(), start()
    state = tx.init(params)
    for shape in ((), (1,), (8, 1)):
        grads = {**params, "head": {**params["head"], "bias": jnp.zeros(shape)}}
        message = (
            "the gradient of parameter 'head/bias' must have its shape (8,), got "
            f"{shape}. Do not broadcast"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            tx.update(grads, state, params)
        with pytest.raises(ValueError, match=re.escape(message)):
            jax.jit(tx.update)(grads, state, params)


# --- regularizers and maps --------------------------------------------------------


@factories("regularized")
def test_regularizer_that_does_not_fit_its_leaf(row):
    tx = row.make(regularizer=rj.RegularizerMap([("conv/*", rj.group_lasso(-2))]))
    message = (
        "group_lasso(group_axes=-2) does not fit parameter 'conv/bias' of shape (8,): "
        "`group_axes` must lie in [-1, 1) for an array of shape (8,), got -2. Use "
        "another axis, or leave the array out of the rules."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tx.init(start())


@factories("regularized")
def test_rule_that_matches_nothing(row):
    tx = row.make(regularizer=rj.RegularizerMap([("conv/weight", rj.l1())]))
    message = (
        "rule 'conv/weight' matches no parameter. The names are: conv/bias, "
        "conv/kernel, head/bias, head/kernel. Patterns are shell globs"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tx.init(start())


@factories("regularized")
def test_rule_that_earlier_rules_hide(row):
    rules = [("conv/*", None), ("*/kernel", rj.l1()), ("conv/kernel", rj.l1())]
    tx = row.make(regularizer=rj.RegularizerMap(rules))
    message = (
        "rule 'conv/kernel' never acts: earlier rules take all it matches "
        "(conv/kernel). Put it first or remove it."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tx.init(start())


@factories("regularized")
def test_regularizer_that_is_none(row):
    message = (
        "`regularizer` must be a RegularizerMap, a Regularizer, or a pytree prefix"
    )
    for bad in (rj.l1, "l1", 0.1):
        with pytest.raises(TypeError, match=message):
            row.make(regularizer=bad).init(start())
    message = (
        "the pytree of regularizers is no prefix of the params, whose names are "
        "conv/bias, conv/kernel, head/bias, head/kernel: "
    )
    for bad in ({"conv": rj.l1()}, {"conv": rj.l1(), "tail": rj.l1()}):
        with pytest.raises(ValueError, match=message):
            row.make(regularizer=bad).init(start())


@pytest.mark.parametrize(
    "rule",
    [
        (),
        ("*",),
        ("*", rj.l1(), 1.0, 2.0),
        (r"*", rj.l1),
        (r"*", "l1"),
        (re.compile("a"), rj.l1()),
        "*",
        5,
        None,
    ],
)
def test_malformed_rule(rule):
    message = r"a rule must be \(pattern, regularizer\) or \(pattern, regularizer, mult"
    with pytest.raises(TypeError, match=message):
        rj.RegularizerMap([("*/kernel", rj.l1()), rule])


@pytest.mark.parametrize(
    ("multiplier", "error", "message"),
    [
        (-1.0, ValueError, "must be at least 0, got -1.0"),
        (float("nan"), ValueError, "must be at least 0, got nan"),
        ("2", TypeError, "must be a number, got '2'"),
        (True, TypeError, "must be a number, got True"),
    ],
)
def test_malformed_multiplier(multiplier, error, message):
    with pytest.raises(error, match=f"`multiplier of rule 'a/\\*'` {message}"):
        rj.RegularizerMap([("a/*", rj.l1(), multiplier)])


def test_map_without_rules():
    message = r"`rules` must hold at least one \(pattern, regularizer\), got none"
    with pytest.raises(ValueError, match=message):
        rj.RegularizerMap([])


# --- the structured iterate -------------------------------------------------------

READERS = [rj.structured_params, rj.structured_support, rj.metrics.stationarity]


@pytest.mark.parametrize("read", READERS)
def test_state_without_a_structured_iterate(read):
    for state in (optax.adam(0.1).init(start()), (), start()):
        with pytest.raises(
            TypeError,
            match="holds no state of a structured transformation such as rmda",
        ):
            read(state, rj.l1())


@functools.cache
def halfway(row):
    """MultiSteps has made one of its two steps: the inner optimizer has made none."""
    return run(optax.MultiSteps(row.make(), 2), start(), gradients(1))[1]


@pytest.mark.parametrize("read", READERS)
@factories("structured")
def test_structured_iterate_before_the_first_update(row, read):
    message = "no structured iterate before the first update: the state's count is 0"
    fresh = row.make().init(start())
    for state in (fresh, (optax.EmptyState(), fresh), halfway(row)):
        with pytest.raises(ValueError, match=message):
            read(state, row.regularizer)


@pytest.mark.parametrize("read", READERS)
@factories("structured")
def test_two_structured_states_on_one_leaf(row, read):
    _, state = run(row.make(), start(), gradients(1))
    message = "two states hold the same parameter: there are several structured iterat"
    with pytest.raises(ValueError, match=message):
        read((state, {"ema": state}), row.regularizer)


# --- schedules and metrics --------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, "`learning_rate` must be nonnegative"),
        ({"learning_rate": float("nan")}, ValueError, "be nonnegative, got nan"),
        ({"gamma": 0.0}, ValueError, r"`gamma` must lie in \(0, 1\], got 0.0"),
        ({"gamma": 1.5}, ValueError, r"`gamma` must lie in \(0, 1\], got 1.5"),
        ({"averaging": 0}, ValueError, r"`averaging` must lie in \(0, 1\], got 0"),
        ({"averaging": 2}, ValueError, r"`averaging` must lie in \(0, 1\], got 2"),
        ({"averaging": float("nan")}, ValueError, r"`averaging` must lie in .* nan"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch` must be positive"),
        ({"steps_per_epoch": 390.6}, TypeError, "must be integers, got .* and 390.6"),
        ({"milestones": (4, 2)}, ValueError, r"be positive and ascend, got \(4, 2\)"),
        ({"milestones": (0, 2)}, ValueError, r"be positive and ascend, got \(0, 2\)"),
        ({"milestones": (1.5,)}, TypeError, r"must be integers, got \(1.5,\) and 1"),
        ({"ramp": "linear"}, ValueError, "must be 'geometric' or 'sqrt', got 'linear'"),
    ],
    ids=repr,
)
def test_stages_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        rj.stages(**{"learning_rate": 0.1, "milestones": (2, 4), **arguments})


def test_group_sparsity_weighting():
    message = "`weighting` must be 'unweighted', 'size' or 'kernel', got 'entries'"
    with pytest.raises(ValueError, match=message):
        rj.metrics.group_sparsity(start(), GROUPS, "entries")


def test_metrics_with_nothing_to_count():
    nothing = rj.RegularizerMap([("*", None)])
    with pytest.raises(ValueError, match="no groups to count: no leaf is regularized"):
        rj.metrics.group_sparsity(start(), nothing)
    with pytest.raises(ValueError, match="no entries to count: no leaf is regularized"):
        rj.metrics.sparsity(start(), nothing)
    for nothing in ((), jnp.zeros((0, 3), bool)):
        with pytest.raises(ValueError, match="must hold at least one support, got non"):
            rj.metrics.stable_since(nothing)
