"""RegularizerMap: what its rules match, and what its methods do on whole trees."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj

GROUPS = rj.group_lasso(group_axes=-2)


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


PARAMS = {
    "conv": {"kernel": normal(3, 3, 4, 5), "bias": np.ones(5, np.float32)},
    "head": {"kernel": normal(6, 7), "bias": np.ones(7, np.float32)},
}
PARAMS["head"]["kernel"][2] = 0


def bound(spec, params=PARAMS):
    """Name -> (regularizer, multiplier) of the regularized leaves."""
    found = [b for b in spec.resolve(params) if b.regularizer is not None]
    return {b.name: (b.regularizer, b.multiplier) for b in found}


def test_patterns_cross_slashes_and_need_no_parent():
    spec = rj.RegularizerMap([("*/kernel", GROUPS)])
    assert set(bound(spec)) == {"conv/kernel", "head/kernel"}
    assert set(bound(spec, {"kernel": jnp.ones((2, 2))})) == {"kernel"}
    deep = {"a": {"b": [{"kernel": jnp.ones((2, 2))}]}}
    assert set(bound(spec, deep)) == {"a/b/0/kernel"}


def test_patterns_do_not_match_parts_of_a_segment():
    tree = {"kernel": jnp.ones((2, 2)), "my_kernel": jnp.ones((2, 2))}
    assert set(bound(rj.RegularizerMap([("*/kernel", GROUPS)]), tree)) == {"kernel"}
    assert set(bound(rj.RegularizerMap([("*_kernel", GROUPS)]), tree)) == {"my_kernel"}


def test_first_match_wins_and_carries_its_multiplier():
    spec = rj.RegularizerMap(
        [
            ("head/*", None),
            ("conv/k*", rj.l1(), 0.5),
            ("*", rj.regularizers.squared_l2()),
        ]
    )
    assert bound(spec) == {
        "conv/kernel": (rj.l1(), 0.5),
        "conv/bias": (rj.regularizers.squared_l2(), 1.0),
    }


def test_map_equals_its_leaves():
    spec = rj.RegularizerMap([("conv/kernel", GROUPS, 2.0), ("head/kernel", rj.l1())])
    conv, head = PARAMS["conv"]["kernel"], PARAMS["head"]["kernel"]
    expected = 2 * GROUPS.value(conv) + rj.l1().value(head)
    np.testing.assert_allclose(spec.value(PARAMS), expected, rtol=1e-6)
    out = spec.prox(PARAMS, 0.3)
    np.testing.assert_array_equal(out["conv"]["kernel"], GROUPS.prox(conv, 0.6))
    np.testing.assert_array_equal(out["head"]["kernel"], rj.l1().prox(head, 0.3))
    assert out["conv"]["bias"] is PARAMS["conv"]["bias"]
    support = spec.support(PARAMS)
    assert support["conv"]["bias"] is None
    np.testing.assert_array_equal(support["head"]["kernel"], head != 0)


@pytest.mark.parametrize(
    "prefix",
    [
        {"conv": {"kernel": GROUPS, "bias": None}, "head": None},
        {
            "conv": {"kernel": GROUPS, "bias": None},
            "head": {"kernel": None, "bias": None},
        },
    ],
)
def test_pytree_prefix_is_a_spec(prefix):
    tx = rj.rmda(0.1, prefix, 100.0, averaging=1.0)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    structured = rj.structured_params(state, prefix)
    assert not jnp.any(structured["conv"]["kernel"])
    assert jnp.all(structured["head"]["bias"])
    same = rj.RegularizerMap([("conv/kernel", GROUPS)])
    np.testing.assert_array_equal(
        rj.structured_params(state, same)["conv"]["kernel"],
        structured["conv"]["kernel"],
    )


def test_bare_regularizer_acts_on_every_leaf():
    tx = rj.rmda(0.1, rj.l1(), 100.0, averaging=1.0)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert not any(map(jnp.any, jax.tree.leaves(rj.structured_params(state, rj.l1()))))


def test_map_is_hashable_picklable_and_a_static_argument():
    spec = rj.RegularizerMap([("*/kernel", GROUPS), ("*", rj.l1(), 0.1)])
    again = pickle.loads(pickle.dumps(spec))
    assert again == spec
    assert hash(again) == hash(spec)
    traces = []

    @jax.jit
    def prox(params, step_size):
        traces.append(step_size)
        return spec.prox(params, step_size)

    prox(PARAMS, 0.1)
    prox(PARAMS, 0.2)
    assert len(traces) == 1
    assert not callable(spec)
    with pytest.raises(AttributeError):
        spec.rules = ()


def test_snap_restores_levels_and_leaves_zeros_alone():
    spec = rj.RegularizerMap([("q", rj.regularizers.binary()), ("s", rj.l1())])
    q = jnp.float32(0.3) + (jnp.asarray([1.0, -1.0]) - jnp.float32(0.3))
    params = {"q": q * (1 + 2.0**-23), "s": jnp.asarray([0.0, 0.5])}
    out = spec.snap(params)
    np.testing.assert_array_equal(out["q"], [1.0, -1.0])
    np.testing.assert_array_equal(out["s"], params["s"])


def test_report_counts_units_and_zeros():
    spec = rj.RegularizerMap([("head/kernel", GROUPS), ("conv/kernel", rj.l1(), 0.5)])
    lines = spec.report(PARAMS).splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert "1 (16.7%)" in rows["head/kernel"]
    assert "group_lasso(group_axes=-2)" in rows["head/kernel"]
    assert "0.5 x " in rows["conv/kernel"]
    assert rows["conv/bias"].split()[-1] == "-"
    assert "1 (0.5%)" in rows["total"]
    assert "186" in rows["total"]
    assert len(lines) == 2 + 4 + 2


@pytest.mark.parametrize(
    ("name", "shape", "is_called_out"),
    [
        ("dense/kernel", (6, 8), True),
        ("norm/scale", (6,), True),
        ("dense/bias", (6,), False),  # as initialized
    ],
)
def test_report_calls_out_leaves_of_which_all_units_are_zero(
    name, shape, is_called_out
):
    spec = rj.RegularizerMap([("*", rj.l1())])
    line = f"all units are zero in {name}: nothing passes through"
    zeros = jnp.zeros(shape)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = spec.report({name: zeros, "other": jnp.ones((2, 2))})
    assert (line in report) == is_called_out
    remedy = "lower it, or set a budget with `at_least` units"
    assert (f"the strength is too large: {remedy}" in report) == is_called_out
    assert [w.filename for w in caught] == [__file__] * is_called_out
    assert all(str(w.message) in report for w in caught)
    alive = spec.report({name: zeros.at[0].set(1.0), "other": jnp.ones((2, 2))})
    assert "all units are zero" not in alive


def test_report_calls_out_ties_of_zeros():
    spec = rj.RegularizerMap([(("a", "b"), rj.tied_group_lasso([-1, -2]))])
    with pytest.warns(UserWarning, match="all units are zero in a: nothing"):
        report = spec.report({"a": jnp.zeros((3, 4)), "b": jnp.zeros((4, 2))})
    assert "all units are zero in a: nothing" in report


def test_report_shows_tiles_of_unequal_size():
    spec = rj.RegularizerMap([("w", rj.group_lasso((0, 1), block=(4, 4)))])
    report = spec.report({"w": jnp.zeros((6, 8)).at[0, 0].set(1)})
    assert "8-16" in report
    assert "3 (75.0%)" in report


def test_report_remarks_on_vectors_that_a_rule_takes_with_kernels():
    norm = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    params = {"conv": {"kernel": jnp.ones((2, 3))}, "bn": norm}
    report = rj.RegularizerMap([("*", rj.l1())]).report(params)
    remark = "rule '*' takes vectors, too: bn/bias, bn/scale. If biases and scales of "
    assert report.splitlines()[-1].startswith(remark)


def test_report_remarks_on_nothing_that_is_meant():
    norm = {"scale": jnp.ones(3), "bias": jnp.zeros(3)}
    params = {"conv": {"kernel": jnp.ones((2, 3))}, "bn": norm}
    for rules in (
        [("*/kernel", rj.l1())],
        [("bn/*", None), ("*", rj.l1())],
        [("bn/*", rj.l1()), ("*", rj.l1())],  # scales on purpose, by a rule of theirs
    ):
        report = rj.RegularizerMap(rules).report(params)
        assert report.splitlines()[-1].startswith("total")


@pytest.mark.parametrize("method", ["report", "value", "support", "snap"])
def test_leaf_that_is_no_array(method):
    params = {"w": jnp.ones(3), "activation": jax.nn.relu}
    message = (
        "parameters must be arrays, got .* for parameter 'activation'. .* with "
        r"Equinox, pass eqx.filter\(model, eqx.is_inexact_array\)"
    )
    with pytest.raises(TypeError, match=message):
        getattr(rj.RegularizerMap([("*", rj.l1())]), method)(params)
