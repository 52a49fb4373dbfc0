"""Groups that span leaves, against the same groups side by side in one array."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import rmda_jax as rj
from tests._daily import product, these
from tests._x64 import float64
from tests.transforms.test_sharding import KINDS, by_layout, mesh_of

pytestmark = pytest.mark.costly

# Three leaves, tied along their first, last and middle axis. The second has two
# positions per group, the third one of no group.
SHAPES = {"a": (4, 3), "b": (2, 8), "c": (2, 5, 3)}
TIE = rj.tied_group_lasso(
    (0, -1, 1), [None, (0, 1, 2, 3, 3, 2, 1, 0), (2, 1, -1, 0, 3)]
)
RULES = rj.RegularizerMap([(("a", "b", "c"), TIE, 0.5)])


@pytest.fixture(autouse=True)
def _double_precision():
    with float64():
        yield


def leaves(seed=0, shapes=SHAPES, dtype=None):
    generator = np.random.default_rng(seed)
    return {
        name: jnp.asarray(generator.normal(size=shape), dtype)
        for name, shape in shapes.items()
    }


def side_by_side(tree):
    """Return one array, a row per group, and what belongs to none."""
    b = tree["b"].T.reshape(2, 4, 2)
    c = jnp.moveaxis(tree["c"], 1, 0).reshape(5, 6)
    rows = [tree["a"], b[0], b[1, ::-1], c[jnp.array([3, 1, 0, 4])]]
    return {"groups": jnp.concatenate(rows, 1), "rest": c[2]}


ONE = rj.RegularizerMap([("groups", rj.group_lasso(0), 0.5)])


def assert_same(tied, one, rtol=1e-13):
    expected = side_by_side(tied)
    for name in expected:
        np.testing.assert_allclose(expected[name], one[name], rtol, 1e-300)
        np.testing.assert_array_equal(expected[name] == 0, one[name] == 0)


@pytest.mark.not_daily
@pytest.mark.parametrize("step", [0.0, 0.3, 0.9, 100.0])
def test_prox_value_and_support_are_those_of_one_array(step):
    tree = leaves()
    one = side_by_side(tree)
    np.testing.assert_allclose(RULES.value(tree), ONE.value(one), 1e-14)
    shrunk = RULES.prox(tree, step)
    assert_same(shrunk, ONE.prox(one, step))
    flags = RULES.support(shrunk)
    np.testing.assert_array_equal(
        flags["a"], ONE.support(ONE.prox(one, step))["groups"]
    )
    assert flags["b"] is flags["c"] is None


TRANSFORMATIONS = {
    "rmda": lambda spec: rj.rmda(0.3, spec, 0.4, averaging=0.5, restart_steps=(5,)),
    "ramda": lambda spec: rj.ramda(0.1, spec, 0.4, averaging=0.5, restart_steps=(5,)),
    "proxsgd": lambda spec: rj.proxsgd(0.1, spec, 0.3),
    "proxgen": lambda spec: rj.proxgen(0.05, spec, 0.3),
}
# By default one that has an iterate, and one whose prox is in a metric.
EVERY_DAY = ("rmda", "proxgen")


@pytest.mark.not_daily
@pytest.mark.parametrize("name", these(EVERY_DAY, TRANSFORMATIONS))
def test_every_transformation_trains_as_with_one_array(name):
    make = TRANSFORMATIONS[name]
    tied, alone = make(RULES), make(ONE)
    params = leaves()
    one = side_by_side(params)
    state, one_state = tied.init(params), alone.init(one)
    update, one_update = jax.jit(tied.update), jax.jit(alone.update)
    for i in range(10):
        target = leaves(i)
        grads = jax.tree.map(lambda p, t: p - t / 3, params, target)
        updates, state = update(grads, state, params)
        one_updates, one_state = one_update(side_by_side(grads), one_state, one)
        params = jax.tree.map(jnp.add, params, updates)
        one = jax.tree.map(jnp.add, one, one_updates)
    assert_same(params, one, 1e-10)
    if hasattr(state, "prox_arguments"):
        structured = rj.structured_params(state, RULES)
        assert 0 < rj.metrics.group_sparsity(structured, RULES) < 1
        assert_same(structured, rj.structured_params(one_state, ONE), 1e-10)
        for metric in (rj.metrics.stationarity, rj.metrics.margin):
            expected = metric(one_state, ONE)
            np.testing.assert_allclose(metric(state, RULES), expected, 1e-9)
        flags = rj.structured_support(state, RULES)["a"]
        expected = rj.structured_support(one_state, ONE)["groups"]
        np.testing.assert_array_equal(flags, expected)


LAYOUTS = {
    "groups on different devices": (P(None, "x"), P("x", None), P("x", None)),
    "groups across devices": (P("x", None), P("x", None), P(None, "x")),
}


@pytest.mark.not_daily
@product(by_layout, layout=LAYOUTS, kind=KINDS)
def test_sharded_leaves_stay_where_they_are(layout, kind):
    shapes = {"a": (8, 16), "b": (16, 8), "c": (64, 8)}
    tie = rj.tied_group_lasso((-1, -2, -2), [None, None, (*range(16),) * 4])
    tx = rj.rmda(0.1, rj.RegularizerMap([(tuple(shapes), tie)]), 10.0, averaging=1.0)
    tree = leaves(0, shapes, jnp.float32)
    expected, _ = tx.update(tree, tx.init(tree), tree)
    with mesh_of((8,), kind) as mesh:
        places = [NamedSharding(mesh, spec) for spec in LAYOUTS[layout]]
        params = dict(
            zip(tree, map(jax.device_put, tree.values(), places), strict=True)
        )
        update = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
        found, _ = update(params, tx.init(params), params)
    moved = [
        np.prod([int(n) for n in shape.split(",") if n])
        for line in update.as_text().splitlines()
        if re.search(r"= .*(all|collective|reduce)-[a-z-]+\(", line)
        for shape in re.findall(r"\w+\[([\d,]*)\]", line.split("(%")[0])
    ]
    assert max(moved) <= 64  # a number per position, never the weights
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, 1e-6, 1e-7)
        np.testing.assert_array_equal(found[name] == -tree[name], x == -tree[name])


def test_metrics_and_report_count_a_tie_once():
    tree = leaves() | {"a": jnp.zeros((4, 3)), "b": jnp.zeros((2, 8))}
    tree["c"] = tree["c"].at[:, 3].set(0)  # the position of group 0
    assert rj.metrics.group_sparsity(tree, RULES) == 1 / 4
    assert rj.metrics.group_sparsity(tree, RULES, "size") == 1 / 4
    rows = [line.split("  ") for line in RULES.report(tree).splitlines()[2:]]
    rows = [[cell.strip() for cell in row if cell] for row in rows]
    name = f"0.5 x {TIE}"
    assert rows[:3] == [
        ["a", "(4, 3)", name, "4", "13", "1 (25.0%)"],
        ["b", "(2, 8)", name, "with a"],
        ["c", "(2, 5, 3)", name, "with a"],
    ]
    assert rows[-1] == ["total", "4", "1 (25.0%)"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rj.tied_group_lasso(()), "one entry per axis"),
        (lambda: rj.tied_group_lasso((0, 0), [None]), "one entry per axis"),
        (lambda: rj.tied_group_lasso((0,), [(0, 2)]), r"without gaps, got \[0, 2\]"),
        (
            lambda: rj.tied_group_lasso((0, 0), [None, (0, -2)]),
            r"without gaps, got \[-2, 0\]",
        ),
        (
            lambda: rj.RegularizerMap([(("a",), TIE)]),
            "as many patterns as it ties",
        ),
        (
            lambda: rj.RegularizerMap([(("a", "b", "*"), TIE)]).value(
                leaves() | {"d": jnp.ones(2)}
            ),
            r"pattern '\*' of a tie must match one parameter, got c, d",
        ),
        (
            lambda: rj.RegularizerMap([(("a", "b", "x"), TIE)]).value(leaves()),
            "'x' matches no parameter",
        ),
        (
            lambda: RULES.value(leaves() | {"b": jnp.ones((2, 7))}),
            r"parameter 'a', 'b', 'c'.*lengths \[4, 7, 5\].*8 belong",
        ),
        (
            lambda: RULES.value(leaves() | {"b": jnp.ones(())}),
            r"`group_axes` must lie in",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("pattern", ["a", ("a", 1)])
def test_wrong_patterns(pattern):
    with pytest.raises(TypeError, match="a tuple of patterns for a tie"):
        rj.RegularizerMap([(pattern, TIE)])


@pytest.mark.parametrize("spec", [TIE, {"a": TIE, "b": None, "c": None}])
def test_a_tie_outside_a_map_is_refused(spec):
    with pytest.raises(TypeError, match="needs a pattern for each: put it into a Reg"):
        rj.rmda(0.1, spec, 1.0, averaging=1.0).init(leaves())
