"""What is measured before and after, and low rank."""

import contextlib
from collections import OrderedDict

import jax.numpy as jnp
import numpy as np
import pytest

from rmda_jax import shrink
from tests.shrink.test_apply import mlp, planned
from tests.shrink.test_trace import X, normal


def test_verify_finds_the_largest_difference():
    fn = lambda p, x: {"sum": p + x, "product": p * x}
    x = jnp.array([1.0, -4.0])
    found = shrink.verify(fn, jnp.array(2.0), jnp.array(2.5), x)
    assert (found.max_abs, found.scale, found.relative) == (2.0, 8.0, 0.25)
    assert str(found) == "max |old - new| = 2.0e+00, max |old| = 8.0e+00"
    other = shrink.verify(fn, 2.0, 2.0, x, small_fn=lambda p, x: fn(p + 1, x))
    assert other.max_abs == 4.0


def test_verify_does_not_overlook_nan():
    fn = lambda p, x: [p * x, x]
    found = shrink.verify(fn, 1.0, jnp.nan, jnp.array([1.0, 2.0]))
    assert np.isnan(found.max_abs)


def test_verify_wants_the_same_shapes():
    with pytest.raises(ValueError, match="must return the same shapes, got"):
        _ = shrink.verify(lambda p, x: p * x, jnp.ones(2), jnp.ones(3), 1.0)


def test_verify_compares_outputs_of_one_path():
    def ordered(p, x):
        return OrderedDict(b=3 * p * x, a=p * x)

    plain = lambda p, x: dict(ordered(p, x))
    found = shrink.verify(plain, 1.0, 1.0, jnp.ones(2), small_fn=ordered)
    assert (found.max_abs, found.scale) == (0.0, 3.0)


def test_report_counts_and_times():
    params, plan = planned()
    nested = lambda p, x: mlp(p["mlp"], x)
    params, small = {"mlp": params}, {"mlp": shrink.apply(plan, params)}
    found = shrink.report(nested, params, small, X, repeats=3)
    assert found.parameters == shrink.BeforeAfter(24 + 6 + 18 + 3, 16 + 4 + 12 + 3)
    assert found.disk_bytes.before == 4 * 51
    assert found.flops.ratio < 0.75
    assert found.seconds.before > 0
    assert found.difference.max_abs < 2e-6
    (layer,) = found.layers
    assert (layer.name, layer.before, layer.after) == ("mlp", (4, 6), (4, 4))
    table = str(found).splitlines()
    assert table[1].split() == "mlp 4x6 4x4 51 -> 35 0.69".split()
    assert "parameters: 51 -> 35, 0.69" in table


@pytest.mark.parametrize(
    ("small", "pays"), [([1.0, 1, 1, 3], True), ([1.0, 1, 3, 3], False)]
)
def test_report_says_whether_it_pays(small, pays):
    params, plan = planned()
    timer = lambda calls: np.array([[2.0] * 4, small])
    found = shrink.report(mlp, params, shrink.apply(plan, params), X, timer=timer)
    assert found.flops.ratio < 1
    assert (found.seconds.before, found.faster) == (2.0, np.mean(np.array(small) < 2))
    assert found.pays == pays
    assert ("it does not pay here: 0.6" in str(found)) != pays


def test_report_has_the_latency_of_a_model():
    params, plan = planned()
    rules = shrink.group_rules(mlp, params, X)
    per_unit = lambda calls: np.array([[1e-3 * sum(call.counts)] for call in calls])
    costs = shrink.latency(mlp, params, X, regularizer=rules, timer=per_unit)
    small = shrink.apply(plan, params)
    found = shrink.report(mlp, params, small, X, plan=plan, costs=costs, repeats=1)
    assert found.latency == shrink.BeforeAfter(
        costs.total("latency"), pytest.approx(4e-3, rel=0.2)
    )
    assert "seconds by the model: " in str(found)
    with pytest.raises(ValueError, match="`costs` need the `plan`"):
        _ = shrink.report(mlp, params, small, X, costs=costs, repeats=1)
    other = shrink.plan(lambda p, x: x @ p["in"], params, X)
    with pytest.raises(ValueError, match="`plan` must have the groups of units"):
        _ = costs.counts_of(other.cuts)


def test_report_leaves_out_layers_of_which_nothing_goes():
    params, plan = planned()
    apart = lambda p: {name: {"leaf": x} for name, x in p.items()}
    fn = lambda p, x: mlp({name: x["leaf"] for name, x in p.items()}, x)
    small = shrink.apply(plan, params)
    with pytest.raises(
        ValueError, match=r"`params` must have leaves that `plan` names"
    ):
        _ = shrink.report(fn, apart(params), apart(small), X, plan=plan, repeats=1)
    plan = shrink.plan(fn, apart(params), X)
    found = shrink.report(fn, apart(params), apart(small), X, plan=plan, repeats=1)
    assert [layer.name for layer in found.layers] == ["bias", "in", "out"]


def test_report_finds_layers_by_name():
    params, plan = planned()
    model = lambda p, x: mlp({name: p[name]["w"] for name in params}, x)
    params = {name: {"w": x} for name, x in params.items()}
    small = shrink.apply(plan, {name: x["w"] for name, x in params.items()})
    small = OrderedDict((name, {"w": small[name]}) for name in reversed(params))
    found = shrink.report(model, params, small, X, repeats=1)
    pairs = {layer.name: (layer.before, layer.after) for layer in found.layers}
    assert pairs["in"] == ((4, 6), (4, 4))
    assert pairs["shift"] == ((3,), (3,))


def test_report_calls_out_a_network_of_zeros():
    params, _ = planned()
    called_out = "all units are zero in in: nothing passes through"
    for kernel in (jnp.zeros((4, 6)), params["in"]):
        expected = contextlib.nullcontext()
        if not kernel.any():
            expected = pytest.warns(UserWarning, match=f"{called_out}.*`at_least`")
        with expected:
            found = shrink.report(
                mlp, params | {"in": kernel}, params | {"in": kernel[:, :5]}, X,
                small_fn=lambda p, x: mlp(params, x), repeats=1,
            )  # fmt: skip
        assert (called_out in str(found)) == (not kernel.any())


def test_report_turns_down_what_cannot_be_compared():
    params, _ = planned()
    with pytest.raises(ValueError, match="`repeats` must be positive, got 0"):
        _ = shrink.report(mlp, params, params, X, repeats=0)
    with pytest.raises(ValueError, match="names of `params`; unexpected: more"):
        _ = shrink.report(mlp, params, params | {"more": jnp.ones(1)}, X)


def test_factors_multiply_to_the_kernel():
    factors = normal({"left": (2, 6, 3), "right": (2, 3, 5)})
    kernel = factors["left"] @ factors["right"]
    left, right = shrink.factors(kernel)
    assert (left.shape, right.shape) == ((2, 6, 3), (2, 3, 5))
    np.testing.assert_allclose(left @ right, kernel, rtol=0, atol=2e-6)
    norms = [jnp.linalg.norm(x, axis=axis) for x, axis in ((left, 1), (right, 2))]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_factors_of_a_lower_rank_are_the_best_ones():
    kernel = normal({"kernel": (6, 5)})["kernel"]
    left, right = shrink.factors(kernel, rank=2)
    s = np.linalg.svd(kernel, compute_uv=False)
    error = np.linalg.norm(left @ right - kernel)
    np.testing.assert_allclose(error, np.linalg.norm(s[2:]), rtol=1e-5)


def test_factors_keep_dtype_and_one_column_of_nothing():
    left, right = shrink.factors(jnp.zeros((4, 3), jnp.bfloat16))
    assert (left.shape, right.shape) == ((4, 1), (1, 3))
    assert left.dtype == right.dtype == jnp.bfloat16
    assert not left.any()


@pytest.mark.parametrize(
    ("kernel", "rank", "message"),
    [
        (np.ones(3), None, r"matrix or a batch of them, got shape \(3,\)"),
        (np.full((2, 2), np.nan), None, r"of shape \(2, 2\) must be finite"),
        (np.ones((3, 2)), 3, r"among 1, ..., 2 for a kernel of shape \(3, 2\), got 3"),
        (np.ones((3, 2)), 0, "got 0"),
    ],
)
def test_factors_turn_down_what_is_no_matrix(kernel, rank, message):
    with pytest.raises(ValueError, match=message):
        _ = shrink.factors(kernel, rank)
