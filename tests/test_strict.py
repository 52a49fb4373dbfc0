"""Everything runs where implicit promotion, NaN and leaked tracers are errors.

Equinox users forbid promotion as a rule. The whole suite under these flags is a job of
the CI workflow, and ``make strict``; here everything public is used once.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import rmda_jax as rj
from rmda_jax.testing import check_regularizer
from tests._daily import first_of_each, product
from tests._table import ARGUMENTS, kind, regularizer
from tests._x64 import float64
from tests.transforms._table import (
    GROUPS,
    by_mechanism,
    factories,
    gradients,
    rows,
    start,
    step_of,
)

pytestmark = pytest.mark.costly


@contextlib.contextmanager
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@contextlib.contextmanager
def strict_and_watched():
    """Search for leaks, too, for which nothing traced is used twice: take it rarely."""
    with strict(), jax.debug_nans(True), jax.checking_leaks():
        yield


@pytest.mark.not_daily
def test_strict_is_strict():
    one, wide = jnp.ones(3, jnp.bfloat16), jnp.ones((2, 3), jnp.bfloat16)
    with strict():
        with pytest.raises(Exception, match="no available implicit dtype promotion"):
            _ = one + jnp.ones(3, jnp.float32)
        with pytest.raises(ValueError, match="rank_promotion"):
            _ = one + wide
    leak = []
    with strict_and_watched():
        with pytest.raises(FloatingPointError, match="nan"):
            _ = jnp.zeros(3) / jnp.zeros(3)
        with pytest.raises(Exception, match="Leaked trace"):
            _ = jax.jit(leak.append)(1.0)


DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def questions(reg):
    """What a regularizer is asked: functions of an array, of a metric and a step."""
    return [
        lambda x, d, t: reg.value(x),
        lambda x, d, t: reg.prox(x, t),
        lambda x, d, t: reg.metric_prox(x, t, d),
        lambda x, d, t: reg.solve_metric_prox(x, t, d, start=x, max_iters=2),
        lambda x, d, t: reg.support(x),
        lambda x, d, t: reg.prox_support(x, t),
        lambda x, d, t: reg.snap(x),
        lambda x, d, t: reg.subgradient_distance(x, d, t),
        lambda x, d, t: reg.margin(x, d, t),
    ]


def of_kind(name, dtype="bfloat16"):
    return name if dtype == "float32" else kind(regularizer(name))


@product(of_kind, name=ARGUMENTS, dtype=["float32", "bfloat16"])
def test_regularizer_is_traced(name, dtype):
    """Promotion is seen in tracing."""
    x, t = jax.ShapeDtypeStruct((8, 12), dtype), jax.ShapeDtypeStruct((), "float32")
    for ask in questions(regularizer(name)):
        with strict(), contextlib.suppress(NotImplementedError):  # of `margin`
            _ = jax.eval_shape(ask, x, x, t)


@pytest.mark.parametrize("name", first_of_each(of_kind, ARGUMENTS))
def test_regularizer_of_zeros_is_free_of_nan(name):
    """Eagerly, what is computed and not used counts, too."""
    x, reg = jnp.zeros((8, 12)), regularizer(name)
    with jax.debug_nans(True), contextlib.suppress(NotImplementedError):
        _ = reg.prox(x, 0.1)
        _ = reg.margin(x, x, 0.1)


@DTYPES
@rows()
def test_transformation_is_traced(row, dtype):
    tx, params = row.make(), start(dtype)
    with strict():
        state = tx.init(params)
        params, state = jax.eval_shape(step_of(tx), params, state, params)
        if row.structured:
            read = functools.partial(rj.structured_params, regularizer=row.regularizer)
            _ = jax.eval_shape(lambda s, p: read(s, params=p), state, params)
            for read in (
                rj.structured_support,
                rj.metrics.stationarity,
                rj.metrics.margin,
            ):
                ask = functools.partial(read, regularizer=row.regularizer)
                _ = jax.eval_shape(ask, state)


@by_mechanism(factories())
def test_transformation_makes_an_update_without_nan_or_leak(row):
    params = jax.tree.map(jnp.zeros_like, start())
    tx = row.make()
    state = tx.init(params)
    with strict_and_watched():
        _ = jax.jit(step_of(tx))(params, state, gradients(1)[0])


IDS = (0, 0, 1, 1, 2, 2, -1, -1)
TIES = {
    "positions": rj.tied_group_lasso((-1, -1)),
    "groups": rj.tied_group_lasso((-1, -1), [IDS, IDS]),
}


@DTYPES
@pytest.mark.parametrize("tie", TIES)
def test_tie_is_traced(tie, dtype):
    rules = rj.RegularizerMap([(("conv/bias", "head/kernel"), TIES[tie])])
    params = start(dtype)
    with strict():
        for ask in (rules.value, rules.support, rules.snap):
            _ = jax.eval_shape(ask, params)
        for make in (rj.rmda, rj.ramda, rj.proxgen):
            tx = make(0.1, rules, 0.1)
            state = tx.init(params)
            _, state = jax.eval_shape(step_of(tx), params, state, params)
            if make is not rj.proxgen:
                for name in ("stationarity", "margin", "supported_size"):
                    read = getattr(rj.metrics, name)
                    _ = jax.eval_shape(lambda s, read=read: read(s, rules), state)
            measure = lambda s: rj.metrics.summary(s, rules, params)
            _ = jax.eval_shape(measure, state)


@pytest.mark.parametrize("grow", ["gradient", "random", None])
@pytest.mark.parametrize("gradual", [False, True])
def test_rigl_is_traced(grow, gradual):
    tx = rj.rigl(optax.sgd(0.1), 0.5, grow=grow, gradual=gradual, end_step=100)
    params = start()
    with strict():
        state = tx.init(params)
        _ = jax.eval_shape(step_of(tx), params, state, params)
        _ = rj.rigl_params(state, params)


@pytest.mark.parametrize("ramp", ["geometric", "sqrt"])
def test_stages_are_evaluated(ramp):
    with strict():
        recipe = rj.stages(0.1, [2, 4], averaging=0.1, ramp=ramp)
        for count in (3, jnp.int32(3)):
            _ = recipe["learning_rate"](count), recipe["averaging"](count)
        assert str(recipe)
        with float64():
            assert recipe["learning_rate"](jnp.int64(3)) > 0


def test_maps_and_metrics_are_evaluated():
    params = start()
    with strict():
        for weighting in ("unweighted", "size", "kernel"):
            _ = rj.metrics.group_sparsity(params, GROUPS, weighting)
        _ = rj.metrics.sparsity(params, GROUPS)
        support = GROUPS.support(params)
        _ = rj.metrics.rank(support), rj.metrics.support_distance(support, support)
        _ = rj.metrics.update_stable_since(support, support, 0, 3)
        history = jax.tree.map(lambda flags: jnp.stack([flags, flags]), support)
        _ = rj.metrics.stable_since(history)
        assert GROUPS.report(params)
        assert GROUPS.value(GROUPS.snap(GROUPS.prox(params, 0.1))) > 0


def test_model_is_shrunk():
    def mlp(params, x):
        hidden = jax.nn.relu(x @ params["in"]["kernel"] + params["in"]["bias"][None])
        return hidden @ params["out"]["kernel"]

    kernel = jnp.ones((4, 6)).at[:, 2:].set(0)
    params = {
        "in": {"kernel": kernel, "bias": jnp.ones(6).at[2:].set(0)},
        "out": {"kernel": jnp.ones((6, 2))},
    }
    x = jnp.ones((3, 4))
    with strict():
        assert rj.shrink.spec(mlp, params, x).support(params)
        plan = rj.shrink.plan(mlp, params, x)
        small = rj.shrink.apply(plan, params)
        assert small["in"]["kernel"].shape == (4, 2)
        assert rj.shrink.verify(mlp, params, small, x).max_abs == 0
        assert str(plan)


def test_fractions_of_nothing_are_no_nan_of_the_model():
    """Where an input is unknown a zero stands for it, and is divided by."""
    quotient = lambda params, x: (params["a"] / x) @ params["b"]
    params = {"a": jnp.zeros((1, 4)), "b": jnp.ones((4, 2))}
    with jax.debug_nans(True):
        assert rj.shrink.plan(quotient, params, jnp.ones((3, 4)))


def test_matrix_of_bfloat16_is_factored():
    with strict():
        left, right = rj.shrink.factors(jnp.ones((4, 3), jnp.bfloat16))
    assert left.dtype == right.dtype == jnp.bfloat16


def test_default_schedules_are_evaluated():
    tx, params = rj.proxsgd_adaptive(0.1, rj.l1(), 0.1), jnp.ones(3)
    with strict():
        _ = jax.eval_shape(step_of(tx), params, tx.init(params), params)


def test_tie_of_two_dtypes_is_traced():
    tie = rj.tied_group_lasso((0, 0))
    xs = jnp.ones(3, jnp.bfloat16), jnp.ones(3)
    with strict():
        out = jax.eval_shape(lambda *xs: tie.prox(xs, 0.1), *xs)
    assert [x.dtype for x in out] == [jnp.bfloat16, jnp.float32]


def test_laws_are_checked():
    with strict():
        check_regularizer(rj.l1(), jnp.array([3.0, -0.5]), 0.5)
