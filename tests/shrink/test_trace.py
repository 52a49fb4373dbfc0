"""Couplings against brute force: a unit whose weights are zero may as well be cut.

Every model here takes its sizes from its params, so that it runs on what is left.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax import shrink

pytestmark = pytest.mark.costly


def numbers(shapes, seed=0):
    generator = np.random.default_rng(seed)
    draw = lambda shape: (generator.normal(size=shape) / 2).astype(np.float32)
    return {name: draw(shape) for name, shape in shapes.items()}


def normal(shapes, seed=0):
    return {name: jnp.asarray(x) for name, x in numbers(shapes, seed).items()}


def conv(x, kernel, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def mlp(p, x):
    return jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]


def gated(p, x):
    return (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]


def residual(p, x):
    h = x @ p["embed"]
    for i in range(2):
        h = h + jnp.tanh(h @ p[f"in{i}"]) @ p[f"out{i}"]
    return h @ p["head"]


def flattened(p, x):
    h = jax.nn.relu(conv(x, p["conv"]) + p["bias"])
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return h.reshape(len(h), -1) @ p["dense"]


def normalized(p, x):
    h = conv(x, p["conv"])
    h = (h - p["mean"]) * lax.rsqrt(p["var"] ** 2 + 1e-3) * p["scale"] + p["shift"]
    return jax.nn.relu(h).mean((1, 2)) @ p["head"]


def depthwise(p, x):
    h = conv(x, p["expand"])
    h = jax.nn.relu(conv(h, p["depthwise"], groups=h.shape[-1]))
    return conv(h, p["project"])


def concatenated(p, x):
    a, b = x @ p["a"], jnp.tanh(x @ p["b"])
    return jnp.concatenate([a, b, a], axis=-1) @ p["c"]


def split(p, x):
    width = p["down"].shape[0]
    a, b = jnp.split(x @ p["fused"], [width], axis=-1)
    return (jax.nn.gelu(a) * b) @ p["down"]


def embedded(p, tokens):
    h = jnp.tanh(p["table"][tokens] @ p["mix"])
    return h @ p["head"]


def attention(p, x):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[n]) for n in ("q", "k", "v"))
    weights = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k) / 2, axis=-1)
    return jnp.einsum("bhts,bshe,hed->btd", weights, v, p["out"])


def fused_heads(p, x):
    # As Flax has it: one matrix product, then a reshape into heads.
    d, heads, size = p["v"].shape
    v = (x @ p["v"].reshape(d, -1)).reshape(*x.shape[:-1], heads, size)
    v = v + p["bias"]
    return v.reshape(*x.shape[:-1], -1) @ p["out"].reshape(heads * size, -1)


def low_rank(p, x):
    return jax.nn.relu(x @ (p["u"] @ p["v"])) @ p["c"]


def tied(p, x):
    return jnp.tanh(x @ p["w"]) @ p["w"].T @ p["head"]


def scanned(p, x):
    def layer(h, w):
        return h + jnp.tanh(h @ w["in"]) @ w["out"], None

    layers = {"in": p["in"], "out": p["out"]}
    h, _ = lax.scan(layer, x @ p["embed"], layers)
    return h @ p["head"]


def checkpointed(p, x):
    return jax.checkpoint(mlp)(p, x)


def looked_up(p, tokens):
    h = jax.vmap(lambda i: p["table"][i])(tokens)
    return jnp.take_along_axis(h, tokens[:, :1, None] % 3, axis=1) @ p["head"]


def unrolled(p, x):
    h, states = 1.0, []
    for step in jnp.unstack(x, axis=1):
        h = jnp.tanh(step @ p["in"] * h)
        states.append(h)
    return jnp.stack(states, axis=1) @ p["head"]


def indexed(p, x):
    h = x @ p["embed"]
    for w in p["layers"]:
        h = h + jnp.tanh(h @ w)
    return h @ p["head"]


def ranked(p, x):
    h = jnp.sort(jnp.tanh(x @ p["in"]), axis=1)
    order = jnp.argsort(h @ p["score"], axis=1)
    return jnp.take_along_axis(h, order, axis=1) @ p["head"]


def tiled(p, x):
    return jnp.tile(jnp.tanh(x @ p["a"]), (1, 2)) @ p["c"]


def written(p, x):
    h = jnp.tanh(x @ p["a"])
    sums = jnp.zeros_like(h).at[:, jnp.array([1, 2, 0, 2, 2])].add(h)
    cache = jnp.zeros((len(x), 8, h.shape[2]))
    return lax.dynamic_update_slice(cache, sums, (0, 2, 0)) @ p["o"]


def transformed(p, x):
    spectrum = jnp.fft.rfft(x @ p["lift"], axis=1) @ p["mix"]
    return jnp.tanh(jnp.fft.irfft(spectrum, n=5, axis=1)) @ p["head"]


def ensemble(p, x):
    # A convolution of mapped kernels makes a reshape that permutes.
    return jax.vmap(lambda a, b: conv(jnp.tanh(conv(x, a)), b))(p["a"], p["b"]).sum(0)


X, IMAGE = jnp.ones((3, 4)), jnp.ones((2, 4, 4, 3))
SEQUENCE, TOKENS = jnp.ones((2, 5, 4)), jnp.arange(6).reshape(2, 3)


class Model(NamedTuple):
    fn: Callable
    shapes: dict[str, tuple[int, ...]]  # of its params
    x: jax.Array
    sizes: list[int]  # of the groups of units that can be removed


MODELS = [
    Model(mlp, {"a": (4, 7), "b": (7,), "c": (7, 2)}, X, [7]),
    Model(gated, {"gate": (4, 6), "up": (4, 6), "down": (6, 2)}, X, [6]),
    Model(
        residual,
        {
            "embed": (4, 6),
            "in0": (6, 5),
            "out0": (5, 6),
            "in1": (6, 3),
            "out1": (3, 6),
            "head": (6, 2),
        },
        X,
        [6, 5, 3],
    ),
    Model(
        flattened, {"conv": (3, 3, 3, 5), "bias": (5,), "dense": (20, 2)}, IMAGE, [5]
    ),
    Model(
        normalized,
        {
            "conv": (3, 3, 3, 5),
            "mean": (5,),
            "var": (5,),
            "scale": (5,),
            "shift": (5,),
            "head": (5, 2),
        },
        IMAGE,
        [5],
    ),
    Model(
        depthwise,
        {"expand": (1, 1, 3, 6), "depthwise": (3, 3, 1, 6), "project": (1, 1, 6, 2)},
        IMAGE,
        [6],
    ),
    Model(concatenated, {"a": (4, 3), "b": (4, 5), "c": (11, 2)}, X, [5, 3]),
    Model(split, {"fused": (4, 12), "down": (6, 2)}, X, [6]),
    Model(embedded, {"table": (9, 5), "mix": (5, 4), "head": (4, 2)}, TOKENS, [5, 4]),
    Model(
        attention,
        {"q": (4, 3, 5), "k": (4, 3, 5), "v": (4, 3, 6), "out": (3, 6, 4)},
        SEQUENCE,
        [6, 5, 3],
    ),
    Model(
        fused_heads,
        {"v": (4, 3, 5), "bias": (3, 5), "out": (3, 5, 2)},
        SEQUENCE,
        [5, 3],
    ),
    Model(low_rank, {"u": (4, 3), "v": (3, 6), "c": (6, 2)}, X, [6, 3]),
    Model(tied, {"w": (4, 6), "head": (4, 2)}, X, [6]),
    Model(
        scanned,
        {"embed": (4, 6), "in": (2, 6, 5), "out": (2, 5, 6), "head": (6, 2)},
        X,
        [6, 5],
    ),
    Model(looked_up, {"table": (9, 5), "head": (5, 2)}, TOKENS, [5]),
    Model(unrolled, {"in": (4, 6), "head": (6, 2)}, SEQUENCE, [6]),
    Model(indexed, {"embed": (4, 6), "layers": (3, 6, 6), "head": (6, 2)}, X, [6]),
    Model(tiled, {"a": (4, 5), "c": (10, 2)}, X, [5]),
    Model(ranked, {"in": (4, 6), "score": (6, 1), "head": (6, 2)}, SEQUENCE, [6]),
    Model(written, {"a": (4, 5), "o": (5, 2)}, SEQUENCE, [5]),
    Model(
        transformed,
        {"lift": (4, 6), "mix": (6, 5), "head": (5, 2)},
        SEQUENCE,
        [6, 5],
    ),
    Model(ensemble, {"a": (2, 3, 3, 3, 5), "b": (2, 3, 3, 5, 2)}, IMAGE, [5]),
    Model(checkpointed, {"a": (4, 7), "b": (7,), "c": (7, 2)}, X, [7]),
]
IDS = [model.fn.__name__ for model in MODELS]
BY_NAME = dict(zip(IDS, MODELS, strict=True))


def without(params, units, index, cut):
    """Return the params with one unit cut, or set to zero."""
    params = dict(params)
    for member in units.members:
        where = member.positions[index]
        x = params[member.leaf]
        if cut:
            params[member.leaf] = jnp.delete(x, where, axis=member.axis)
        else:
            at = (slice(None),) * member.axis + (where,)
            params[member.leaf] = x.at[at].set(0)
    return params


@pytest.mark.parametrize(("model", "shapes", "x", "sizes"), MODELS, ids=IDS)
def test_units_are_found(model, shapes, x, sizes):
    couplings = shrink.trace(model, normal(shapes), x)
    assert [units.size for units in couplings.free] == sizes


@pytest.mark.parametrize(("model", "shapes", "x", "sizes"), MODELS, ids=IDS)
def test_a_unit_of_zeros_may_as_well_be_cut(model, shapes, x, sizes):
    params, run = normal(shapes), jax.jit(model)
    if x.dtype != jnp.int32:
        x = normal({"x": x.shape}, seed=1)["x"]
    for units in shrink.trace(model, params, x).free:
        mattered = 0.0
        for index in {0, units.size - 1}:
            zeroed = run(without(params, units, index, cut=False), x)
            smaller = run(without(params, units, index, cut=True), x)
            np.testing.assert_allclose(smaller, zeroed, rtol=0, atol=2e-6)
            mattered = max(mattered, np.abs(zeroed - run(params, x)).max())
        assert mattered > 1e-3


@pytest.mark.parametrize(("model", "shapes", "x", "sizes"), MODELS, ids=IDS)
def test_no_member_can_be_left_out(model, shapes, x, sizes):
    params = normal(shapes)
    for units in shrink.trace(model, params, x).free:
        if len(units.members) == 1:
            continue
        for left_out in range(len(units.members)):
            members = [m for i, m in enumerate(units.members) if i != left_out]
            some = shrink.UnitGroup(units.size, tuple(members), units.frozen)
            try:
                out = jax.eval_shape(model, without(params, some, 0, cut=True), x)
            except (TypeError, ValueError):
                continue
            assert out.shape != jax.eval_shape(model, params, x).shape


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda h: h - h.mean(-1, keepdims=True), "reduce_sum"),
        (jnp.sort, "sort"),
        (lambda h: jnp.cumsum(h, axis=-1), "cumsum"),
        (lambda h: h * jnp.arange(7.0), "iota"),
        (lambda h: h * np.linspace(0, 1, 7, dtype=np.float32), "a constant array"),
        (lambda h: h + np.zeros(7, np.float32), "pass it in params"),
        (lambda h: jnp.where(np.ones((3, 7), bool), h, 0), "a constant array"),
        (lambda h: h[..., ::-1], "rev"),
        (lambda h: jnp.fft.fft(h).real, "fft"),
        (lambda h: h - h @ jnp.full((h.shape[-1], 1), 1 / 7), "dot_general"),
        (lambda h: h * h[..., -1:], "an index"),
        (lambda h: lax.slice(h, (0, 0), h.shape, (1, 2)), "a slice with strides"),
    ],
)
def test_what_mixes_units_or_is_not_understood_freezes_them(fn, reason):
    def model(p, x):
        h = fn(x @ p["a"])
        return h @ p["c"][: h.shape[-1]]

    params = normal({"a": (4, 7), "c": (7, 2)})
    units = shrink.trace(model, params, X).find("a", 1)
    assert units
    assert all(any(reason in why for why in u.frozen) for u in units)


def test_what_reads_a_constant_cannot_be_cut():
    padded = lambda p, x: jnp.concatenate([x @ p["a"], jnp.ones((3, 2))], 1) @ p["c"]
    couplings = shrink.trace(padded, normal({"a": (4, 7), "c": (9, 2)}), X)
    hidden, constant = couplings.find("c", 0)
    assert (hidden.size, hidden.frozen) == (7, set())
    assert (constant.size, constant.frozen) == (2, {"concatenate"})


def test_fresh_statistics_by_closure_freeze_what_they_normalize():
    mean, var = jnp.zeros(7), jnp.ones(7)

    def model(p, x):
        h = (x @ p["a"] - mean) * lax.rsqrt(var + 1e-3)
        return jax.nn.relu(h) @ p["c"]

    params = normal({"a": (4, 7), "c": (7, 2)})
    params["c"] = params["c"].at[2:].set(0)
    (units,) = shrink.trace(model, params, X).find("a", 1)
    assert units.frozen == {"a constant array: pass it in params"}
    small = shrink.apply(shrink.plan(model, params, X), params)
    assert model(small, X).shape == (3, 2)


def test_what_the_function_makes_of_a_length_is_no_constant_array():
    model = lambda p, x: ((h := x @ p["a"]) + jnp.zeros(h.shape[-1])) @ p["c"]
    (units,) = shrink.trace(model, normal({"a": (4, 7), "c": (7, 2)}), X).find("a", 1)
    assert not units.frozen


def test_inputs_and_outputs_are_frozen():
    couplings = shrink.trace(mlp, normal({"a": (4, 7), "b": (7,), "c": (7, 2)}), X)
    (inputs,), (outputs,) = couplings.find("a", 0), couplings.find("c", 1)
    assert (inputs.frozen, outputs.frozen) == ({"an input"}, {"an output"})


def test_roles_tell_what_a_leaf_does():
    couplings = shrink.trace(normalized, normal(BY_NAME["normalized"].shapes), IMAGE)
    roles = {m.leaf: set(m.roles) for m in couplings.free[0].members}
    assert roles["conv"] == {"produces"}
    assert roles["head"] == {"consumes"}
    assert roles["mean"] == roles["shift"] == {"shifts"}
    assert roles["scale"] == {"scales"}


def test_shapes_are_enough():
    shapes = {"a": (4, 7), "b": (7,), "c": (7, 2)}
    spec = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    abstract = {name: spec(shape) for name, shape in shapes.items()}
    couplings = shrink.trace(mlp, abstract, spec((3, 4)))
    assert str(couplings) == str(shrink.trace(mlp, normal(shapes), X))
