"""Every penalty on groups that span leaves, against the same groups in one array."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from tests._daily import daily, product
from tests._table import LEAVES
from tests._x64 import float64

pytestmark = pytest.mark.costly

# Two positions per group in the second leaf, one of no group in the third.
POSITIONS = (None, (0, 1, 2, 3, 3, 2, 1, 0), (2, 1, -1, 0, 3))
TIE = {"group_axes": (0, -1, 1), "groups": POSITIONS}
PENALTIES = [
    rj.l1(),
    rj.elastic_net(0.7),
    rj.mcp(),
    rj.mcp(lam=0.5, gamma=0.7),
    rj.regularizers.scad(),
    rj.regularizers.l0(),
    rj.regularizers.lq(0.5),
    rj.regularizers.log_sum(1.0),
]
# Some groups vanish and others stay, at one of these at least.
STEPS = (0.0, *np.geomspace(0.3, 120.0, 40), 1000.0)
penalties = pytest.mark.parametrize("penalty", PENALTIES, ids=str)


def by_penalty(penalty, weighted):
    return type(penalty.penalty) if weighted else False


def by_convexity(penalty, weighted=True):
    return weighted and penalty.is_convex, weighted


@pytest.fixture(autouse=True)
def _double_precision():
    with float64():
        yield


def leaves(seed=0, shapes=LEAVES):
    generator = np.random.default_rng(seed)
    return tuple(jnp.asarray(generator.normal(size=shape)) for shape in shapes)


def side_by_side(several):
    """Return the groups as rows of one array, and what belongs to none."""
    a, b, *rest = several
    b = b.T.reshape(2, 4, 2)
    rows, free = [a, b[0], b[1, ::-1]], jnp.zeros(0)
    if rest:
        c = jnp.moveaxis(rest[0], 1, 0).reshape(5, 6)
        rows, free = [*rows, c[jnp.array([3, 1, 0, 4])]], c[2]
    return jnp.concatenate(rows, 1), free


def pair(penalty, weighted=True, n_leaves=3):
    """Return the penalty tied, and on the rows of one array."""
    axes, groups = TIE["group_axes"][:n_leaves], TIE["groups"][:n_leaves]
    tied = rj.regularizers.on_tied_groups(penalty, axes, groups, weighted=weighted)
    return tied, rj.regularizers.on_groups(penalty, 0, weighted=weighted)


def assert_same(found, expected, free, rtol=1e-12):
    rows, found_free = side_by_side(found)
    np.testing.assert_allclose(rows, expected, rtol, 1e-300)
    np.testing.assert_array_equal(rows == 0, expected == 0)
    np.testing.assert_array_equal(found_free, free)


def use(regularizer, x, step):
    y = regularizer.prox(x, step)
    return y, regularizer.prox_support(x, step), regularizer.support(y)


@product(by_penalty, penalty=PENALTIES, weighted=[True, False])
def test_prox_value_and_supports_are_those_of_one_array(penalty, weighted):
    tied, alone = pair(penalty, weighted)
    x = leaves()
    rows, free = side_by_side(x)
    np.testing.assert_allclose(tied.value(x), alone.value(rows), 1e-13)
    some = 0
    answers = jax.jit(use, static_argnums=0)
    for step in STEPS:
        (found, *flags), (expected, *row_flags) = (
            answers(tied, x, step),
            answers(alone, rows, step),
        )
        assert_same(found, expected, free)
        np.testing.assert_array_equal(flags, row_flags)
        some += 0 < flags[0].sum() < 4
    assert some > 0
    shapes = tuple(leaf.shape for leaf in x)
    np.testing.assert_array_equal(tied.unit_sizes(shapes), [13] * 4)


@penalties
def test_certificates_are_those_of_one_array(penalty):
    tied, alone = pair(penalty)
    v = leaves(1)
    v_rows, v_free = side_by_side(v)
    for x in (
        leaves(),
        rj.regularizers.on_tied_groups(rj.l1(), **TIE).prox(leaves(), 1.0),
    ):
        rows, _ = side_by_side(x)
        for strength in (0.1, 1.0):
            distance = alone.subgradient_distance(rows, v_rows, strength)
            # What belongs to no group is not regularized: its subgradient is 0.
            expected = jnp.hypot(distance, jnp.linalg.norm(v_free))
            found = tied.subgradient_distance(x, v, strength)
            np.testing.assert_allclose(found, expected, 1e-12)
            margin = alone.margin(rows, v_rows, strength)
            np.testing.assert_allclose(tied.margin(x, v, strength), margin, 1e-12)


AFFINE = [p for p in PENALTIES if p.penalty.affine_slope]


# By default one root of a convex and one of a nonconvex penalty, with weights.
@pytest.mark.not_daily
@product(by_convexity, penalty=AFFINE, weighted=[True, False])
def test_exact_metric_prox_and_derivative_are_those_of_one_array(penalty, weighted):
    tied, alone = pair(penalty, weighted)
    x, d = leaves(), jax.tree.map(jnp.exp, leaves(1))
    (rows, free), (d_rows, _) = side_by_side(x), side_by_side(d)
    of_tied = lambda s, t: tied.metric_prox(x, t, tuple(s * y for y in d))
    of_rows = lambda s, t: alone.metric_prox(rows, t, s * d_rows)

    def derivative(fn):
        return jax.jit(lambda t: jax.jvp(lambda s: fn(s, t), (1.0,), (1.0,)))

    both = derivative(of_tied), derivative(of_rows)
    some = 0
    for step in STEPS:
        (found, slope), (expected, row_slope) = (fn(step) for fn in both)
        assert_same(found, expected, free)
        found_slope, free_slope = side_by_side(slope)
        np.testing.assert_allclose(found_slope, row_slope, 1e-9, 1e-13)
        np.testing.assert_allclose(free_slope, 0, atol=1e-15)
        some += 0 < tied.support(found).sum() < 4
    assert some > 0


@daily(by_convexity, penalties)
def test_iterated_metric_prox_is_that_of_one_array(penalty):
    # Without free positions, whose metric would set the step of all.
    tied, alone = pair(penalty, n_leaves=2)
    x, d = leaves()[:2], jax.tree.map(lambda y: jnp.exp(y / 2), leaves(1)[:2])
    (rows, free), (d_rows, _) = side_by_side(x), side_by_side(d)
    options = {"rtol": 1e-9, "max_iters": 1000}
    found = jax.jit(functools.partial(tied.solve_metric_prox, **options))(x, 0.4, d)
    expected = jax.jit(functools.partial(alone.solve_metric_prox, **options))(
        rows, 0.4, d_rows
    )
    assert found.converged
    assert found.iterations == expected.iterations
    assert_same(found.x, expected.x, free, 1e-7)


TRANSFORMATIONS = {
    "rmda": lambda spec: rj.rmda(0.3, spec, 0.4, averaging=0.5),
    "ramda": lambda spec: rj.ramda(0.1, spec, 0.4, averaging=0.5),
    "proxgen": lambda spec: rj.proxgen(0.05, spec, 0.3),
}


@product(
    lambda name, penalty: name,
    name=TRANSFORMATIONS,
    penalty=[rj.mcp(), rj.regularizers.scad(), rj.regularizers.lq(0.5)],
)
def test_transformations_train_tied_penalties(name, penalty):
    make = TRANSFORMATIONS[name]
    tied, alone = pair(penalty, n_leaves=2)
    tx, one = make(rj.RegularizerMap([(("a", "b"), tied)])), make(alone)
    join = lambda tree: side_by_side((tree["a"], tree["b"]))[0]
    params = dict(zip("ab", leaves()[:2], strict=True))
    rows = join(params)
    state, one_state = tx.init(params), one.init(rows)
    update, one_update = jax.jit(tx.update), jax.jit(one.update)
    for i in range(5):
        grads = dict(zip("ab", leaves(i + 2)[:2], strict=True))
        grads = jax.tree.map(lambda p, t: p - t / 3, params, grads)
        updates, state = update(grads, state, params)
        one_updates, one_state = one_update(join(grads), one_state, rows)
        params = jax.tree.map(jnp.add, params, updates)
        rows = rows + one_updates
    np.testing.assert_allclose(join(params), rows, 1e-6, 1e-9)


def test_leaves_keep_their_dtypes_and_zeros_are_exact():
    a, b, c = (x.astype(jnp.float32) for x in leaves())
    b = b.astype(jnp.bfloat16)
    tied = rj.regularizers.on_tied_groups(rj.mcp(), **TIE)
    found = jax.jit(tied.prox)((a, b, c), 1.0)
    assert [x.dtype for x in found] == [a.dtype, b.dtype, c.dtype]
    alive = tied.support(found)
    assert 0 < alive.sum() < 4
    for g in np.flatnonzero(~alive):
        dead = found[0][g], found[1][:, g], found[1][:, 7 - g]
        assert all((x == 0).all() for x in dead)


def test_one_number_is_a_metric_for_all_leaves():
    tied, x = rj.tied_group_lasso(**TIE), leaves()
    found = jax.jit(tied.metric_prox)(x, 1.0, 2.0)
    for y, expected in zip(found, tied.prox(x, 0.5), strict=True):
        np.testing.assert_allclose(y, expected, 1e-12)


def test_a_number_of_arrays_that_does_not_fit_is_refused():
    tied = rj.tied_group_lasso(**TIE)
    for use in (tied.value, tied.support, lambda x: tied.prox(x, 1.0), tied.snap):
        with pytest.raises(ValueError, match="acts on 3 arrays together"):
            use(leaves()[:2])


def test_text_of_many_positions_is_short():
    tied = rj.tied_group_lasso((0, 0), (None, tuple(range(500)) * 2))
    for text in (str(tied), repr(tied), repr(tied.geometry)):
        assert "groups=(None, <1000 positions of 500 groups>)" in text
        assert len(text) < 100
    assert len(str(rj.RegularizerMap([(("a", "b"), tied)]))) < 150
    assert len(repr(rj.RegularizerMap([(("a", "b"), tied)]))) < 150
