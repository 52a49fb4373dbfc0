"""The oracles against certified minimisers, competitors and generic minimisers."""

import itertools
from math import inf, log, sqrt

import numpy as np
import pytest
from scipy.optimize import minimize

import rmda_jax as rj
from tests._daily import first_of_each
from tests._table import ORACLES, SMALL, WHOLE, make
from tests.fixtures import FOLDER, TRANSLATION, truth_cases
from tests.oracles._groups import groups

pytestmark = pytest.mark.costly

# Those that take minutes have a test of their own.
QUICK = [row for row in SMALL if row[0] != "l_half_ball"]


def kind(name, arguments):
    found = make(name, arguments)
    return "set" if found.is_indicator else found.is_convex


SETS = [row[:2] for row in QUICK if kind(*row[:2]) == "set"]
CONVEX = [row[:2] for row in QUICK if kind(*row[:2]) is True]
NONCONVEX = [row[:2] for row in QUICK if kind(*row[:2]) is False]


def samples(*tables):
    """Return a parameter for every row; by default the first of every oracle."""
    found = [
        pytest.param(name, arguments, id=f"{name}-{i}")
        for i, (name, arguments) in enumerate(itertools.chain(*tables))
    ]
    return first_of_each(lambda name, arguments: name, found)


def objective(name, arguments, v, step_size, metric=1.0):
    def evaluate(x):
        penalty = ORACLES[name].value(x, **arguments)
        return np.sum(metric * (x - v) ** 2) / 2 + step_size * penalty

    return evaluate


def problems(name, rng, shape=(4, 8), count=3):
    """Random (v, step, metric or None); v has zeros and equal magnitudes."""
    for i in range(count):
        v = rng.normal(size=shape) * 10 ** rng.uniform(-0.5, 0.5)
        v.flat[:2] = 0.0
        v.flat[2], v.flat[3] = 0.8, -0.8
        step_size = 10 ** rng.uniform(-1.3, 0.3)
        yield v, step_size, None
        if ORACLES[name].metric_prox and i:
            yield v, step_size, np.exp(rng.normal(size=shape) / 2)


def solve(name, arguments, v, step_size, metric):
    if metric is None:
        return ORACLES[name].prox(v, step_size, **arguments)
    return ORACLES[name].metric_prox(v, step_size, metric, **arguments)


def competitors(name, arguments, x, v, rng):
    """Points of the structure sought, near and far: other minimisers and rescalings."""
    yield from (v, np.zeros_like(v), x * (1 + 1e-6), x * (1 - 1e-6), 0.9 * x, 1.1 * x)
    for scale in 10.0 ** np.arange(-7, 1):
        noise = scale * rng.normal(size=v.shape)
        yield x + noise
        yield np.where(x != 0, x + noise, 0.0)
        yield np.where(rng.random(v.shape) < 0.1, x + noise, x)
        yield ORACLES[name].prox(v + noise, 1.0, **arguments)
        yield ORACLES[name].prox(x + noise, scale, **arguments)


def test_every_truth_file_is_used_and_every_oracle_sampled():
    assert set(TRANSLATION) == {path.stem for path in FOLDER.glob("*.npz")}
    assert set(ORACLES) == {name for name, *_ in SMALL}


@pytest.mark.parametrize("case", list(truth_cases()), ids=str)
def test_certified_minimisers(case):
    x = solve(case.factory, case.arguments, case.v, case.step_size, case.metric)
    assert x.shape == case.v.shape
    if case.convex:
        np.testing.assert_allclose(x, case.expected, rtol=0, atol=1e-13)
        return
    metric = 1.0 if case.metric is None else case.metric
    evaluate = objective(case.factory, case.arguments, case.v, case.step_size, metric)
    assert evaluate(x) <= evaluate(case.expected) + 1e-12
    unique = case.gap.ravel() > 1e-9
    got, expected = (a.reshape(case.gap.size, -1) for a in (x, case.expected))
    np.testing.assert_allclose(got[unique], expected[unique], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("name", "arguments"), samples(CONVEX))
def test_subgradient_inequality(name, arguments):
    # psi(y) >= psi(x) + <d (v-x)/t, y-x> for all y: exactly the optimality of x.
    rng = np.random.default_rng(0)
    for v, step_size, metric in problems(name, rng):
        x = solve(name, arguments, v, step_size, metric)
        dual = (v - x) * (1.0 if metric is None else metric)
        here = step_size * ORACLES[name].value(x, **arguments)
        for y in competitors(name, arguments, x, v, rng):
            y = np.clip(y, arguments.get("lower"), arguments.get("upper"))
            there = step_size * ORACLES[name].value(y, **arguments)
            assert there - here - np.sum(dual * (y - x)) >= -1e-12 * (1 + abs(here))


@pytest.mark.parametrize(("name", "arguments"), samples(NONCONVEX))
def test_no_competitor_is_better(name, arguments):
    rng = np.random.default_rng(1)
    for v, step_size, metric in problems(name, rng):
        x = solve(name, arguments, v, step_size, metric)
        metric = 1.0 if metric is None else metric
        evaluate = objective(name, arguments, v, step_size, metric)
        least = min(map(evaluate, competitors(name, arguments, x, v, rng)))
        assert evaluate(x) <= least + 1e-12 * (1 + abs(least))


@pytest.mark.parametrize(("name", "arguments"), samples(SETS))
def test_no_feasible_point_is_nearer(name, arguments):
    rng = np.random.default_rng(2)
    oracle = ORACLES[name]
    # It tries every choice of 4 entries: of 16 they are 1,820, of 32 would be 35,960.
    shape = (4, 4) if name == "top_k" else (4, 8)
    for v, _, metric in problems(name, rng, shape):
        x = solve(name, arguments, v, 1.0, metric)
        d = np.ones_like(v) if metric is None else metric
        assert oracle.value(x, **arguments) == 0
        np.testing.assert_allclose(
            solve(name, arguments, x, 1.0, metric), x, atol=1e-13, rtol=0
        )
        for scale in 10.0 ** np.arange(-7, 1):
            y = oracle.prox(x + scale * rng.normal(size=v.shape), 1.0, **arguments)
            assert np.sum(d * (x - v) ** 2) <= np.sum(d * (y - v) ** 2) + 1e-12
            if make(
                name, arguments
            ).is_convex:  # the variational inequality of a projection
                assert np.sum(d * (v - x) * (y - x)) <= 1e-12


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_l_half_ball_against_many_descents(size):
    # u = radius softmax(z) parametrises the boundary sum sqrt|x| = radius.
    rng = np.random.default_rng(3)
    for _ in range(3):
        v, radius = 2 * rng.normal(size=size), rng.uniform(0.3, 1.5)
        x = ORACLES["l_half_ball"].prox(v, 1.0, radius=radius)
        assert ORACLES["l_half_ball"].value(x, radius=radius) == 0
        if ORACLES["l_half_ball"].value(v, radius=radius) == 0:
            np.testing.assert_array_equal(x, v)
            continue

        def loss(z, v=v, radius=radius):
            share = np.exp(z - z.max())
            return np.sum(((radius * share / share.sum()) ** 2 - np.abs(v)) ** 2) / 2

        found = min(minimize(loss, rng.normal(size=size) * 3).fun for _ in range(10))
        assert np.sum((x - v) ** 2) / 2 <= found + 1e-12


@pytest.mark.parametrize(
    ("name", "arguments"),
    samples([row for row in NONCONVEX if row[0].startswith(("group", "spec"))]),
)
def test_full_vector_descents_find_nothing_better(name, arguments):
    # Quasi-Newton descents in all entries at once: no ray, no rotation, no SVD.
    rng = np.random.default_rng(4)
    for v, step_size, metric in problems(name, rng, (2, 3), 2):
        x = solve(name, arguments, v, step_size, metric)
        metric = 1.0 if metric is None else metric
        evaluate = objective(name, arguments, v, step_size, metric)

        def flat(y, shape=v.shape, evaluate=evaluate):
            return evaluate(y.reshape(shape))

        near, *far = rng.normal(size=(4, *v.shape))
        starts = [v, x + 0.1 * near, *far]
        found = min(minimize(flat, start.ravel()).fun for start in starts)
        assert evaluate(x) <= found + 1e-12


@pytest.mark.parametrize(
    ("name", "arguments"),
    [p for p in samples(CONVEX, NONCONVEX) if ORACLES[p.values[0]].metric_prox],
)
def test_constant_metric_rescales_the_step(name, arguments):
    rng = np.random.default_rng(5)
    for v, step_size, _ in problems(name, rng):
        metric = np.full_like(v, 1.7)
        x = ORACLES[name].metric_prox(v, step_size, metric, **arguments)
        y = ORACLES[name].prox(v, step_size / 1.7, **arguments)
        unique = (v != 0) | ("soft" not in arguments)  # levels on both sides of 0
        np.testing.assert_allclose(x[unique], y[unique], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"),
    samples([row for row in CONVEX + NONCONVEX if row[0] != "boxed"]),
)
def test_no_step_and_no_input(name, arguments):
    v = np.linspace(0.05, 0.65, 24).reshape(2, 3, 4)
    free = ORACLES[name].prox(v, 0.0, **arguments)
    np.testing.assert_allclose(free, v, rtol=0, atol=1e-14)
    if not arguments.get("soft"):
        at_zero = ORACLES[name].prox(np.zeros((4, 8)), 0.7, **arguments)
        np.testing.assert_array_equal(at_zero, 0.0)


X = np.array([[3.0, -4.0], [0.0, 0.5]])


@pytest.mark.parametrize(
    ("name", "arguments", "value"),
    [
        ("l1", {}, 7.5),
        ("squared_l2", {}, 12.625),
        ("elastic_net", {"l1_ratio": 0.2}, 0.2 * 7.5 + 0.8 * 12.625),
        ("mcp", {"lam": 1.0, "gamma": 3.0}, 1.5 + 1.5 + 0.5 - 0.25 / 6),
        ("scad", {"lam": 1.0, "a": 3.0}, 2.0 + 2.0 + 0.5),
        ("l0", {}, 3),
        ("lq", {"q": 1 / 2}, sqrt(3) + 2 + sqrt(0.5)),
        ("lq", {"q": 2 / 3}, 3 ** (2 / 3) + 4 ** (2 / 3) + 0.5 ** (2 / 3)),
        ("log_sum", {"eps": 0.5}, log(7) + log(9) + log(2)),
        ("binary", {"scale": 3.5, "soft": True}, 0.5 + 0.5 + 3.5 + 3.0),
        ("ternary", {"scale": 3.5, "soft": True}, 0.5 + 0.5 + 0.0 + 0.5),
        ("group_lasso", {}, sqrt(2) * 5.5),
        ("group_lasso", {"group_axes": 1, "weighted": False}, 3 + sqrt(16.25)),
        ("group_lasso", {"group_axes": (0, 1), "block": (2, 1)}, sqrt(18) + sqrt(32.5)),
        ("group_lasso", WHOLE, sqrt(25.25)),
        ("sparse_group_lasso", {"l1_ratio": 0.5}, 3.75 + sqrt(2) * 2.75),
        ("group_linf", {}, sqrt(2) * 4.5),
        ("group_linf", WHOLE, 4.0),
        ("group_mcp", {"lam": 1.0, "gamma": 3.0}, sqrt(2) * (2 - 0.25 / 6)),
        ("group_l0", {"weighted": False}, 2),
        ("total_variation", {}, 7.5),
        ("total_variation", {"axis": 0}, 7.5),
        ("fused_lasso", {"l1_ratio": 0.2}, 7.5),
        ("nuclear_norm", {}, sqrt(25.25 + 2 * 1.5)),
        ("box", {"lower": -4, "upper": 2}, inf),
        ("box", {"lower": -4, "upper": 3}, 0),
        ("boxed", {"inner": rj.l1(), "lower": 0.0, "upper": inf}, inf),
        ("l1_ball", {"radius": 7.5}, 0),
        ("l1_ball", {"radius": 7.4}, inf),
        ("l2_ball", {"radius": 5.0, "group_axes": 0}, 0),
        ("l2_ball", {"radius": 5.0}, inf),
        ("l_half_ball", {"radius": 4.4}, inf),
        ("l_half_ball", {"radius": 4.5}, 0),
        ("top_k", {"k": 3}, 0),
        ("top_k", {"k": 1, "group_axes": 0}, inf),
        ("n_m", {"n": 1, "m": 2}, inf),
        ("n_m", {"n": 1, "m": 2, "axis": 0}, inf),
        ("n_m", {"n": 2, "m": 2}, 0),
        ("ternary", {"scale": 4.0}, inf),
    ],
)
def test_values_by_hand(name, arguments, value):
    assert ORACLES[name].value(X, **arguments) == pytest.approx(value, rel=1e-14)


def test_groups_by_hand():
    sizes = [len(g) for g in groups((5, 2, 7), (0, 2), block=(3, 4))]
    assert sizes == [24, 18, 16, 12]
    assert [list(g) for g in groups((2, 3), -1)] == [[0, 3], [1, 4], [2, 5]]
    assert [len(g) for g in groups((2, 3), ())] == [6]
