"""Plans against brute force: what goes is not missed, and what stays would be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax import shrink
from tests.shrink import test_trace as models
from tests.shrink.test_trace import (
    BY_NAME,
    IDS,
    IMAGE,
    MODELS,
    SEQUENCE,
    X,
    normal,
    numbers,
)

pytestmark = pytest.mark.costly

ROUNDING = 4e-6


jitted = functools.cache(jax.jit)  # cases of one model share its programs


def assert_same(model, params, small, x):
    out = jitted(model)(params, x)
    np.testing.assert_allclose(jitted(model)(small, x), out, rtol=0, atol=ROUNDING)


def dead(params, units, index):
    """Return the params with one unit set to zero."""
    params = {name: np.array(x) for name, x in params.items()}
    for m in units.members:
        np.moveaxis(params[m.leaf], m.axis, 0)[m.positions[index]] = 0
    return params


def drawn(x):
    # Many inputs: a unit that is off on some of them is not dead.
    shape = (32, *x.shape[1:]) if x.ndim == 2 else x.shape
    return x if x.dtype == jnp.int32 else normal({"x": shape}, seed=1)["x"]


@pytest.mark.parametrize(("model", "shapes", "x", "sizes"), MODELS, ids=IDS)
def test_units_of_zeros_go_and_no_others(model, shapes, x, sizes):
    x, params, run = drawn(x), normal(shapes), jitted(model)
    free = shrink.trace(model, params, x).free
    for units in free:
        params = dead(params, units, 1)
    plan = shrink.plan(model, params, x)
    for cut in plan.cuts:
        gone = [] if cut.units.frozen else [1]
        assert np.flatnonzero(cut.removed).tolist() == gone
    assert_same(model, params, shrink.apply(plan, params), x)
    out = run(params, x)
    for units in free:
        for index in {0, *range(2, units.size)}:
            changed = run(dead(params, units, index), x)
            assert np.abs(changed - out).max() > 1e-4


# Whole layers, channels, heads and a loop.
@pytest.mark.parametrize("name", ["mlp", "depthwise", "fused_heads", "unrolled"])
def test_one_unit_of_every_set_stays(name):
    model, shapes, x, sizes = BY_NAME[name]
    params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.warns(UserWarning, match="all units are zero in .* lower it"):
        plan = shrink.plan(model, params, drawn(x))
    free = [cut for cut in plan.cuts if not cut.units.frozen]
    assert all(cut.all_zero for cut in free)
    names = ", ".join(cut.name for cut in free)
    assert f"all units are zero in {names}: nothing passes through" in str(plan)
    assert [cut.left for cut in plan.cuts if not cut.units.frozen] == [1] * len(sizes)
    assert "1 stays as the last" in str(plan)


def dense(p, x):
    h = jax.nn.sigmoid(x @ p["a"] + p["b"])
    return jnp.tanh(h @ p["c"] + p["d"]) @ p["e"]


def no_bias(p, x):
    return jnp.tanh(jax.nn.sigmoid(x @ p["a"]) @ p["c"]) @ p["e"]


def subtracted(p, x):
    h = jax.nn.sigmoid(x @ p["a"])
    return jnp.tanh(p["d"].astype(jnp.float32).reshape(1, -1) - h @ p["c"]) @ p["e"]


def bias_read_twice(p, x):
    return dense(p, x) + p["d"].sum()


def product_read_twice(p, x):
    product = jax.nn.sigmoid(x @ p["a"]) @ p["c"]
    return (jnp.tanh(product + p["d"]) + product) @ p["e"]


def in_a_loop(p, x):
    step = lambda _, h: jnp.tanh(jax.nn.sigmoid(h @ p["a"]) @ p["c"] + p["d"])
    return lax.fori_loop(0, 2, step, x)


DENSE = {"a": (4, 6), "b": (6,), "c": (6, 5), "d": (5,), "e": (5, 2)}


@pytest.mark.parametrize(
    ("model", "shapes", "hidden", "why"),
    [
        (dense, DENSE, 5, ""),
        (subtracted, DENSE, 5, ""),
        (no_bias, DENSE, 6, "1 constant, but no bias takes it behind c"),
        (bias_read_twice, DENSE, 6, "1 constant, but no bias takes it behind c"),
        (product_read_twice, DENSE, 6, "1 constant, but no bias takes it behind c"),
        (in_a_loop, {"a": (4, 6), "c": (6, 4), "d": (4,)}, 6, "no bias takes it"),
    ],
)
def test_constants_go_into_a_bias(model, shapes, hidden, why):
    params, x = zeroed(shapes, a=np.s_[:, 2]), drawn(X)
    plan = shrink.plan(model, params, x)
    assert plan.widths["a"] == (4, hidden)
    assert (set(plan.folds) == {"d"}) == (hidden == 5)
    assert why in str(plan)
    assert_same(model, params, shrink.apply(plan, params), x)


def convolved(padding, mean):
    def model(p, x):
        conv = lambda x, kernel, padding: lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        h = jax.nn.sigmoid(conv(x, p["first"], "SAME") + p["bias"])
        h = conv(h, p["second"], padding)
        h = (h - p["shift"]) * lax.rsqrt(p["var"] ** 2 + 1e-3) if mean else h
        h = h if mean else h + p["shift"].reshape(1, 1, 1, -1)
        return jax.nn.relu(h).mean((1, 2)) @ p["head"]

    return model


@pytest.mark.parametrize("mean", [False, True], ids=["bias", "mean"])
@pytest.mark.parametrize(("padding", "channels"), [("VALID", 4), ("SAME", 5)])
def test_constant_channels_go_unless_borders_differ(padding, channels, mean):
    shapes = {
        "first": (3, 3, 3, 5),
        "bias": (5,),
        "second": (2, 2, 5, 4),
        "shift": (4,),
        "var": (4,),
        "head": (4, 2),
    }
    params, x = zeroed(shapes, first=np.s_[..., 1]), drawn(IMAGE)
    model = convolved(padding, mean)
    plan = shrink.plan(model, params, x)
    assert plan.widths["second"] == (2, 2, channels, 4)
    assert_same(model, params, shrink.apply(plan, params), x)


def layered(p, x):
    for name in "abc":
        x = jax.nn.relu(x @ p[name])
    return x @ p["d"]


def fed_back(p, x):
    layer = lambda h, w: (h + jnp.tanh(h @ w["in"]) @ w["out"], None)
    h, _ = lax.scan(layer, x @ p["embed"], {"in": p["in"], "out": p["out"]})
    return h @ p["head"]


def branching(p, x):
    h = jnp.tanh(x @ p["a"])
    plus = lambda h: jnp.where(h > 0, h, 2 * h) @ p["b"]
    return lax.cond(x.sum() > 0, plus, lambda h: h @ p["c"], h)


def scaled(power):
    def model(p, x):
        q, k = x @ p["q"], x @ p["k"]
        return (q @ k.T) * q.shape[-1] ** power

    return model


def zeroed(shapes, **where):
    params = numbers(shapes)
    for name, at in where.items():
        params[name][at] = 0
    return params


LAYERED = {"a": (4, 5), "b": (5, 6), "c": (6, 5), "d": (5, 2)}
FED_BACK = {"embed": (4, 6), "in": (2, 6, 5), "out": (2, 5, 6), "head": (6, 2)}
HEADS = {"q": (4, 3, 5), "k": (4, 3, 5), "v": (4, 3, 6), "out": (3, 6, 4)}
GATED = {"gate": (4, 6), "up": (4, 6), "down": (6, 2)}
ALL = np.s_[:]
EMBEDDED = {"table": (9, 5), "mix": (5, 4), "head": (4, 2)}
SCALED = {"q": (4, 6), "k": (4, 6)}
RESIDUAL = dict(BY_NAME["residual"].shapes)
BRANCHING = {"a": (4, 6), "b": (6, 2), "c": (6, 2)}

# Model, params with zeros, input, shapes of some leaves afterwards.
CASES = {
    "forwards": (layered, zeroed(LAYERED, a=np.s_[:, 1:4]), X, {"b": (2, 6)}),
    "backwards": (
        layered,
        # Units of b that only dead units of c read are dead, and so on.
        zeroed(LAYERED, d=np.s_[:3], c=np.s_[:4, 3:], b=np.s_[:3, 4:]),
        X,
        {"a": (4, 2), "b": (2, 2), "c": (2, 2)},
    ),
    "both ways": (
        layered,
        zeroed(LAYERED, a=np.s_[:, 0], b=np.s_[1:, 2], d=np.s_[4]),
        X,
        {"b": (4, 5), "c": (5, 4)},
    ),
    "gate": (models.gated, zeroed(GATED, gate=np.s_[:, :2]), X, {"down": (4, 2)}),
    "up": (models.gated, zeroed(GATED, up=np.s_[:, :2]), X, {"down": (4, 2)}),
    "stream": (
        models.residual,
        zeroed(RESIDUAL, in0=0, in1=0, head=0),
        X,
        {"embed": (4, 5), "out1": (3, 5)},
    ),
    "stream still read": (
        models.residual,
        zeroed(RESIDUAL, in0=0, in1=0),
        X,
        {"embed": (4, 6)},
    ),
    "stream never written": (
        models.residual,
        zeroed(RESIDUAL, **{k: np.s_[:, 2] for k in ("embed", "out0", "out1")}),
        X,
        {"head": (5, 2)},
    ),
    "heads without values": (
        models.attention,
        zeroed(HEADS, v=np.s_[:, 1]),
        SEQUENCE,
        {"q": (4, 2, 5), "out": (2, 6, 4)},
    ),
    "heads that are not read": (
        models.attention,
        zeroed(HEADS, out=np.s_[1:]),
        SEQUENCE,
        {"k": (4, 1, 5), "v": (4, 1, 6)},
    ),
    "head dimensions of values": (
        models.attention,
        zeroed(HEADS, v=np.s_[..., 1], out=np.s_[:, 2]),
        SEQUENCE,
        {"v": (4, 3, 4), "out": (3, 4, 4)},
    ),
    "head dimensions of either": (
        models.attention,
        zeroed(HEADS, q=np.s_[..., 1], k=np.s_[..., 3]),
        SEQUENCE,
        {"q": (4, 3, 3), "k": (4, 3, 3)},
    ),
    "head dimensions mixed": (
        models.attention,
        # For each head another of the two factors is zero.
        zeroed(HEADS, q=np.s_[:, 0, 1], k=np.s_[:, 1:, 1]),
        SEQUENCE,
        {"q": (4, 3, 4)},
    ),
    "layers of a scan": (
        fed_back,
        zeroed(FED_BACK, out=np.s_[:, 1], **{"in": np.s_[:, :, 3]}),
        X,
        {"in": (2, 6, 3)},
    ),
    "one layer of a scan": (
        fed_back,
        zeroed(FED_BACK, out=np.s_[0, 1]),
        X,
        {"in": (2, 6, 5)},
    ),
    "stream of a scan": (
        fed_back,
        zeroed(FED_BACK, head=0, embed=np.s_[:, 2], out=np.s_[..., 2], **{"in": ALL}),
        X,
        {"in": (1, 4, 1), "head": (4, 2)},
    ),
    "embeddings": (
        models.embedded,
        zeroed(EMBEDDED, table=np.s_[:, 3]),
        models.TOKENS,
        {"table": (9, 4)},
    ),
    "tied": (models.tied, zeroed({"w": (4, 6), "head": (4, 2)}, w=np.s_[:, 1]), X, {
        "w": (4, 5)
    }),
    "branches": (branching, zeroed(BRANCHING, b=1, c=1), X, {"a": (4, 5)}),
    "one branch": (branching, zeroed(BRANCHING, b=1), X, {"a": (4, 6)}),
    "into branches": (branching, zeroed(BRANCHING, a=np.s_[:, 2]), X, {"b": (5, 2)}),
    "scaled": (scaled(0), zeroed(SCALED, q=np.s_[:, 1]), X, {"q": (4, 5)}),
    "scaled by width": (scaled(-0.5), zeroed(SCALED, q=np.s_[:, 1]), X, {"q": (4, 6)}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:all units are zero:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_units_go_that_nothing_needs(case):
    model, params, x, widths = CASES[case]
    x = drawn(x)
    plan = shrink.plan(model, params, x)
    assert {name: plan.widths[name] for name in widths} == widths
    small = shrink.apply(plan, params)
    assert jax.tree.map(jnp.shape, small) == plan.widths
    assert_same(model, params, small, x)


def test_the_table_says_why_units_stay():
    assert "the function computes with their number" in str(
        shrink.plan(*CASES["scaled by width"][:3])
    )
    params = zeroed(LAYERED, a=ALL)
    params["b"][0, 0] = np.nan
    with pytest.warns(UserWarning, match="all units are zero in"):
        plan = shrink.plan(layered, params, X)
    table = str(plan).splitlines()
    assert table[0].split() == "units before after the others stay because".split()
    (row,) = (row for row in table if row.startswith("a[1] b[0]"))
    assert row.split()[2:] == ["5", "1", "1", "not", "finite"]


def test_units_of_which_some_are_read_are_not_called_out():
    params = zeroed(LAYERED, a=np.s_[:, 1:])
    plan = shrink.plan(layered, params, X)
    assert plan.widths["a"] == (4, 1)
    assert "all units are zero" not in str(plan)


def test_what_does_not_trace_anew_is_judged_by_its_numbers():
    def model(p, x):
        q, k = ((x @ p[name]).reshape(3, 6) for name in "qk")
        return (q @ k.T) / np.sqrt(6)

    params = zeroed(SCALED, q=np.s_[:, 1])
    assert shrink.plan(model, params, X).widths["q"] == (4, 6)
    half = lambda p, x: model(p, x) * np.sqrt(6) / 2
    assert shrink.plan(model, params, X).widths == shrink.plan(half, params, X).widths


def test_couplings_choose_what_may_go():
    params, x = zeroed(LAYERED, a=np.s_[:, 0], b=np.s_[:, 0]), drawn(X)
    couplings = shrink.trace(layered, params, x)
    kept = couplings.keep(*couplings.find("b", 1), reason="mine")
    plan = shrink.plan(layered, params, x, couplings=kept)
    assert (plan.widths["a"], plan.widths["b"]) == ((4, 4), (4, 6))
    assert "mine" in str(plan)
    none = shrink.plan(layered, params, x, couplings=shrink.Couplings(()))
    assert none.widths == none.shapes
    assert "not among the couplings" in str(none)


def test_units_that_nothing_reads_stay():
    plan = shrink.plan(lambda p, x: x @ p["a"], zeroed({"a": (4, 2), "b": (3,)}), X)
    assert plan.widths["b"] == (3,)
    assert "nothing reads them" in str(plan)


def test_params_must_have_values():
    spec = {"a": jax.ShapeDtypeStruct((4, 7), jnp.float32)}
    with pytest.raises(TypeError, match="must hold arrays with values, got Shape"):
        _ = shrink.plan(lambda p, x: x @ p["a"], spec, X)
