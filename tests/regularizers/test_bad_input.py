"""Wrong arguments, each with the message that tells what to do."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj

pytestmark = pytest.mark.costly

X = np.ones((3, 4), np.float32)


def call(factory, *args, **kwargs):
    """A call and how it reads in a test id."""
    words = [*map(str, args), *(f"{k}={v}" for k, v in kwargs.items())]
    build = functools.partial(getattr(rj.regularizers, factory), *args, **kwargs)
    return pytest.param(build, id=f"{factory}({', '.join(words)})")


def table(*rows):
    """Rows of (call, error, message) as parameters named after the call."""
    return [pytest.param(*c.values, *rest, id=c.id) for c, *rest in rows]


@pytest.mark.parametrize(
    ("build", "error", "message"),
    table(
        (call("elastic_net", 1.5), ValueError, "`l1_ratio` must be at most 1, got 1.5"),
        (call("elastic_net", -0.1), ValueError, "`l1_ratio` must be at least 0"),
        (call("elastic_net", np.nan), ValueError, "`l1_ratio` must be at least 0"),
        (call("elastic_net", "half"), TypeError, "must be a number, got 'half'"),
        (call("elastic_net", True), TypeError, "must be a number, got True"),
        (call("mcp", 0.0), ValueError, "`lam` must be greater than 0, got 0.0"),
        (call("mcp", 1.0, -1.0), ValueError, "`gamma` must be greater than 0"),
        (call("group_mcp", lam=-1.0), ValueError, "`lam` must be greater than 0"),
        (call("spectral_mcp", gamma=0), ValueError, "`gamma` must be greater than 0"),
        (call("scad", a=2.0), ValueError, "`a` must be greater than 2, got 2.0"),
        (call("scad", lam=np.nan), ValueError, "`lam` must be greater than 0, got nan"),
        (call("group_scad", a=1.0), ValueError, "`a` must be greater than 2"),
        (call("lq", 0.0), ValueError, "`q` must be greater than 0"),
        (call("lq", 1.0), ValueError, "`q` must be less than 1, got 1.0"),
        (call("group_lq", q=2.0), ValueError, "`q` must be less than 1"),
        (call("log_sum", 0.0), ValueError, "`eps` must be greater than 0"),
        (call("group_log_sum", eps=-1), ValueError, "`eps` must be greater than 0"),
        (call("box", 1.0, 0.5), ValueError, "`upper` must be at least 1.0, got 0.5"),
        (call("box", np.nan, 0.5), ValueError, "`upper` must be at least nan"),
        (call("boxed", rj.l1(), 1, 0.5), ValueError, "`upper` must be at least 1"),
        (
            call("boxed", rj.regularizers.l0(), -1.0, 1.0),
            ValueError,
            "`inner` must be convex",
        ),
        (
            call("boxed", rj.group_lasso(), -1.0, 1.0),
            ValueError,
            "must be convex and separable to be boxed, got group_lasso(group_axes=-2)",
        ),
        (call("binary", 0.0), ValueError, "`scale` must be greater than 0"),
        (call("binary", np.inf), ValueError, "`scale` must be finite, got inf"),
        (call("ternary", -1.0), ValueError, "`scale` must be greater than 0"),
        (call("uniform_levels", 0), ValueError, "`bits` must be an integer from 1 to"),
        (call("uniform_levels", 17), ValueError, "`bits` must be an integer from 1 to"),
        (call("uniform_levels", 2.0), ValueError, "`bits` must be an integer"),
        (call("uniform_levels", 2, 1.0, 1.0), ValueError, "`upper` must be greater"),
        (call("uniform_levels", 2, -np.inf), ValueError, "`lower` must be finite"),
        (call("l1_ball", 0.0), ValueError, "`radius` must be greater than 0"),
        (call("l2_ball", -1.0), ValueError, "`radius` must be greater than 0"),
        (call("simplex", np.nan), ValueError, "`radius` must be greater than 0"),
        (call("l_half_ball", 0), ValueError, "`radius` must be greater than 0"),
        (call("top_k", -1), ValueError, "`k` must be at least 0, got -1"),
        (call("top_k", 1.5), TypeError, "`k` must be an integer, got 1.5"),
        (call("top_groups", -1), ValueError, "`k` must be at least 0, got -1"),
        (call("top_groups", 0.0), ValueError, "or a share of them in (0, 1], got 0.0"),
        (call("top_groups", 1.5), ValueError, "which is an int, or a share of them"),
        (call("top_groups", np.nan), ValueError, "or a share of them in (0, 1], got"),
        (call("top_groups", True), TypeError, "`k` must be an integer, got True"),
        (call("top_groups", "all"), TypeError, "`k` must be an integer, got 'all'"),
        (call("top_groups", 1, block=0), ValueError, "`block` must hold one positive"),
        (call("max_rank", -1), ValueError, "`k` must be at least 0, got -1"),
        (call("max_rank", 0.5), TypeError, "`k` must be an integer, got 0.5"),
        (call("max_rank", 1, 0), ValueError, "must be rows and columns, got (0,)"),
        (call("n_m", -1, 4), ValueError, "`n` must be at least 0"),
        (call("n_m", 3, 2), ValueError, "`m` must be at least 3, got 2"),
        (call("n_m", 0, 0), ValueError, "`m` must be at least 1"),
        (call("n_m", 1.5, 4), TypeError, "`n` must be an integer"),
        (call("n_m", 2, 4, axis=0.5), TypeError, "`axis` must hold integers, got 0.5"),
        (call("fused_lasso", l1_ratio=1.1), ValueError, "`l1_ratio` must be at most 1"),
        (call("fused_lasso", "x"), TypeError, "`axis` must hold integers, got 'x'"),
        (call("sparse_group_lasso", l1_ratio=-1), ValueError, "at least 0, got -1"),
        (call("group_lasso", 1.0), TypeError, "`group_axes` must hold integers"),
        (call("group_lasso", (0, "a")), TypeError, "must hold integers, got (0, 'a')"),
        (call("group_lasso", 0, block=0), ValueError, "`block` must hold one positive"),
        (call("group_lasso", (0, 1), block=(2, -1)), ValueError, "one positive length"),
        (
            call("group_lasso", (0, 1), block=(2, 2, 2)),
            ValueError,
            "one positive length per group axis, got (2, 2, 2) for `group_axes` (0, 1)",
        ),
        (call("group_lasso", (), block=()), ValueError, "one positive length"),
        (call("group_lasso", 0, block=1.5), TypeError, "`block` must hold integers"),
        (call("nuclear_norm", (0, 1, 2)), ValueError, "must be rows and columns, got"),
        (call("nuclear_norm", 0), ValueError, "must be rows and columns, got (0,)"),
        (call("spectral_mcp", matrix_axes=(0, 0.5)), TypeError, "must hold integers"),
    ),
)
def test_factory_rejects(build, error, message):
    with pytest.raises(error, match=re.escape(message)):
        build()


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    table(
        (call("group_lasso", 2), (3, 4), "must lie in [-2, 2) for an array of shape"),
        (
            call("group_lasso", -3),
            (3, 4),
            "got -3. Use another axis, or leave the array",
        ),
        (call("group_lasso"), (4,), "`group_axes` must lie in [-1, 1)"),
        (call("group_lasso"), (), "`group_axes` must lie in [0, 0)"),
        (call("group_lasso", (0, -2)), (3, 4), "must name different axes, got (0, -2)"),
        (call("group_lasso", (1, 1), block=2), (3, 4), "must name different axes"),
        (call("sparse_group_lasso", 2), (3, 4), "`group_axes` must lie in"),
        (call("group_linf", 2), (3, 4), "`group_axes` must lie in"),
        (call("group_mcp", 2), (3, 4), "`group_axes` must lie in"),
        (call("l1_ball", group_axes=2), (3, 4), "`group_axes` must lie in"),
        (call("simplex", group_axes=(0, 0)), (3, 4), "must name different axes"),
        (call("top_k", 2, group_axes=2), (3, 4), "`group_axes` must lie in"),
        (call("top_groups", 2, 2), (3, 4), "`group_axes` must lie in"),
        (call("max_rank", 2), (4,), "`matrix_axes` must lie in [-1, 1)"),
        (call("nuclear_norm"), (4,), "`matrix_axes` must lie in [-1, 1)"),
        (call("nuclear_norm", (0, -2)), (3, 4), "`matrix_axes` must name different"),
        (call("n_m", 2, 4), (4, 3), "must be a multiple of `m` = 4, got 3 in shape"),
        (call("n_m", 2, 4, axis=2), (3, 4), "`axis` must lie in [-2, 2)"),
        (call("total_variation", 1), (4,), "`axis` must lie in [-1, 1)"),
        (call("fused_lasso"), (), "`axis` must lie in [0, 0)"),
    ),
)
@pytest.mark.parametrize(
    "use",
    [
        lambda r, x: r.prox(x, 1.0),
        lambda r, x: r.value(x),
        lambda r, x: r.support(x),
        lambda r, x: r.metric_prox(x, 1.0, 1.0),
        lambda r, x: r.unit_sizes(x.shape),
        lambda r, x: jax.jit(r.prox)(x, 1.0),
    ],
    ids=["prox", "value", "support", "metric_prox", "unit_sizes", "jit"],
)
def test_shape_that_does_not_fit_is_rejected(build, shape, message, use):
    regularizer = build()
    with pytest.raises(ValueError, match=re.escape(message)):
        use(regularizer, np.ones(shape, np.float32))


@pytest.mark.parametrize(
    "use",
    [
        lambda x: rj.l1().prox(x, 1.0),
        lambda x: rj.l1().prox_at(lambda y: y, (jnp.asarray(x),), 1.0),
        lambda x: rj.l1().value(x),
        lambda x: rj.l1().support(x),
        lambda x: rj.l1().prox_support(x, 1.0),
        lambda x: rj.l1().metric_prox(x, 1.0, 1.0),
        lambda x: rj.l1().snap(x),
        lambda x: rj.l1().subgradient_distance(x, x, 1.0),
        lambda x: rj.l1().margin(x, x, 1.0),
        lambda x: rj.l1().critical_strengths(x, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_array_that_is_not_real_floating_is_rejected(use, dtype):
    message = f"needs a real floating array, got dtype {dtype} and shape (3, 4)"
    with pytest.raises(TypeError, match=re.escape(message)):
        use(X.astype(dtype))


@pytest.mark.parametrize(
    "use",
    [
        lambda t: rj.l1().prox(X, t),
        lambda t: rj.l1().prox_at(lambda y: y, (jnp.asarray(X),), t),
        lambda t: rj.l1().prox_support(X, t),
        lambda t: rj.l1().metric_prox(X, t, 1.0),
        lambda t: rj.l1().subgradient_distance(X, X, t),
        lambda t: rj.l1().margin(X, X, t),
        lambda t: rj.l1().critical_strengths(X, t),
        lambda t: rj.box(-1.0, 1.0).prox(X, t),
    ],
)
@pytest.mark.parametrize(
    ("step_size", "message"),
    [
        (-1e-9, "`step_size` must be nonnegative, got -1e-09. It is the product"),
        (np.float32(-1), "`step_size` must be nonnegative, got -1.0"),
        (float("nan"), "`step_size` must be nonnegative, got nan"),
        (-float("inf"), "`step_size` must be nonnegative, got -inf"),
        (np.ones(4), "`step_size` must be one number, got shape (4,). Use `jax.vmap`"),
        (np.ones((3, 4)), "`step_size` must be one number, got shape (3, 4)"),
    ],
)
def test_step_size_is_checked(use, step_size, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        use(step_size)


@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 4)])
def test_metric_must_broadcast_to_the_array(shape):
    message = f"`metric` must broadcast to the array's shape (3, 4), got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        rj.group_lasso().metric_prox(X, 1.0, np.ones(shape, np.float32))


@pytest.mark.parametrize("metric", [2.0, np.full(4, 2.0), np.full((3, 1), 2.0)])
def test_metric_may_broadcast_to_the_array(metric):
    x = rj.l1().metric_prox(X, 1.0, metric)
    np.testing.assert_array_equal(x, np.full((3, 4), 0.5))


def test_margin_of_a_structure_without_zero_units_is_refused():
    with pytest.raises(NotImplementedError, match="has no nondegeneracy margin"):
        rj.regularizers.l1_ball().margin(X, X, 1.0)


def test_factories_take_integers_of_any_kind_and_lists():
    assert rj.group_lasso(np.int64(0)) == rj.group_lasso(0)
    assert rj.group_lasso([0, 1], block=[2, 2]) == rj.group_lasso((0, 1), block=2)
    assert rj.nuclear_norm([-2, -1]) == rj.nuclear_norm()
    assert rj.top_k(np.int32(3)) == rj.top_k(3)
    assert rj.regularizers.top_groups(np.int32(3)) == rj.regularizers.top_groups(3)


def test_one_group_and_all_of_them_are_not_the_same_regularizer():
    # Equal ones would share a compiled program.
    top_groups = rj.regularizers.top_groups
    assert top_groups(1) != top_groups(1.0)
    kept = [np.asarray(top_groups(k, 0).prox(X, 1.0)).any(1) for k in (1, 1.0)]
    np.testing.assert_array_equal(kept, [[True, False, False], [True, True, True]])


class Reduces(rj.Regularizer):
    """Sums where it must not, and does not where it must."""

    def _value(self, x):
        return jnp.abs(x)

    def _prox(self, x, t):
        return jnp.sum(x, axis=0)

    def _snap(self, x, eps):
        return jnp.sum(x)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda r: r.prox(X, 1.0), "`Reduces._prox` must return an array of its arg"),
        (lambda r: r.metric_prox(X, 1.0, X), "argument's shape (3, 4), got shape (4,)"),
        (lambda r: r.snap(X), "`Reduces._snap` must return an array of its argument's"),
        (
            lambda r: r.value(X),
            "`Reduces._value` must return a scalar, got shape (3, 4",
        ),
    ],
)
def test_hook_of_ones_own_that_returns_another_shape_is_named(use, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        use(Reduces())


def test_closed_metric_prox_of_another_shape_is_named():
    class Reduced(Reduces):
        def _metric_prox(self, x, t, d):
            return x[0]

    with pytest.raises(ValueError, match=r"`Reduced._metric_prox` must return an arr"):
        Reduced().metric_prox(X, 1.0, X)


@pytest.mark.parametrize("factory", [rj.rmda, rj.ramda, rj.proxsgd, rj.proxgen])
def test_no_training_with_a_prox_of_another_shape(factory):
    tx = factory(0.1, Reduces(), 0.1)
    with pytest.raises(ValueError, match=r"`Reduces._prox` must return an array"):
        tx.update({"w": X}, tx.init({"w": X}), {"w": X})
