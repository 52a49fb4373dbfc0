"""Rules made from couplings: their groups are the units that can be cut."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import rmda_jax as rj
from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink import test_trace as models
from tests.shrink.test_trace import MODELS, X, normal

pytestmark = pytest.mark.costly

BY_NAME = {fn.__name__: (fn, normal(shapes), x) for fn, shapes, x, *_ in MODELS}


def rules(model, **options):
    """Return leaves and their axes, rule by rule."""
    fn, params, x = BY_NAME[model]
    return axes_of(shrink.group_rules(fn, params, x, **options))


def axes_of(spec):
    found = []
    for rule in spec.rules:
        axes = rule.regularizer.geometry.group_axes
        found.append(dict(zip(rule.patterns, axes, strict=True)))
    return found


@pytest.mark.parametrize(
    ("model", "side", "expected"),
    [
        ("mlp", "consumers", [{"c": -2}]),
        ("mlp", "producers", [{"a": -1, "b": -1}]),
        ("gated", "consumers", [{"down": -2}]),
        ("gated", "all", [{"down": -2, "gate": -1, "up": -1}]),
        (
            "residual",
            "consumers",
            [{"head": -2, "in0": -2, "in1": -2}, {"out0": -2}, {"out1": -2}],
        ),
        ("embedded", "consumers", [{"head": -2}, {"mix": -2}]),
        # The stream of the layers is wider than what is inside them.
        ("scanned", "consumers", [{"head": -2, "in": -2}, {"out": -2}]),
        ("fused_heads", "consumers", [{"out": -3}]),
        ("split", "all", [{"down": -2, "fused": -1}]),
        # The leaf of layers has the stream along two axes.
        ("indexed", "consumers", [{"head": -2, "layers": -2}]),
        # Both sets of units are read by one leaf, so one rule has both.
        ("concatenated", "consumers", [{"c": -2}]),
    ],
)
def test_leaves_and_axes(model, side, expected):
    assert rules(model, side=side) == expected


def test_positions_of_a_flattened_channel_and_of_a_concatenation():
    fn, params, x = BY_NAME["flattened"]
    (rule,) = shrink.group_rules(fn, params, x).rules
    assert rule.regularizer.geometry.groups == ((0, 1, 2, 3, 4) * 4,)
    fn, params, x = BY_NAME["concatenated"]
    (rule,) = shrink.group_rules(fn, params, x).rules
    (ids,) = rule.regularizer.geometry.groups
    # The first operand comes again as the third.
    width = params["a"].shape[1]
    assert ids[:width] == ids[-width:]
    assert sorted(set(ids)) == list(range(width + params["b"].shape[1]))
    sizes = rule.regularizer.unit_sizes((params["c"].shape,))
    assert sorted(set(sizes)) == [2, 4]


def test_a_channel_whose_pixels_lie_together_is_a_tile():
    def fn(params, x):
        h = models.conv(x, params["conv"])
        return jnp.moveaxis(h, -1, 1).reshape(len(x), -1) @ params["dense"]

    params = normal({"conv": (3, 3, 3, 5), "dense": (80, 2)})
    (rule,) = shrink.group_rules(fn, params, models.IMAGE).rules
    assert rule == ("dense", rj.group_lasso(-2, block=16), 1.0)


def pruned_by_rule(spec, params):
    """Yield params with one group of zeros, the last of each rule."""
    leaves, treedef = jax.tree.flatten(params)
    for bound in {b.leaves: b for b in spec.resolve(params) if b.regularizer}.values():
        # Keep all groups but the last: shrink nothing else than that.
        several = [leaves[i] for i in bound.leaves]
        acting = bound.regularizer
        if not bound.is_tied:
            several = several[:1]
            (axis,), (block,) = (
                acting.geometry.group_axes,
                acting.geometry.block or (1,),
            )
            ids = np.arange(several[0].shape[axis]) // block
            acting = rj.tied_group_lasso((axis,), (ids.tolist(),))
        shapes = tuple(x.shape for x in several)
        n_groups = acting.unit_sizes(shapes).size
        kept = acting.geometry.expand(jnp.arange(n_groups) < n_groups - 1, shapes, True)
        zeroed = list(leaves)
        for i, leaf, keep in zip(bound.leaves, several, kept, strict=True):
            zeroed[i] = jnp.where(keep, leaf, 0)
        yield treedef.unflatten(zeroed)


@pytest.mark.parametrize("model", sorted(BY_NAME))
def test_a_group_of_zeros_is_a_unit_that_goes_and_only_that(model):
    fn, params, x = BY_NAME[model]
    spec = shrink.group_rules(fn, params, x)
    assert not sum(cut.removed.sum() for cut in shrink.plan(fn, params, x).cuts)
    for pruned in pruned_by_rule(spec, params):
        plan = shrink.plan(fn, pruned, x)
        assert sum(cut.removed.sum() for cut in plan.cuts) == 1
        small = shrink.apply(plan, pruned)
        np.testing.assert_allclose(fn(small, x), fn(pruned, x), 1e-5, 1e-5)


def test_training_with_the_spec_ends_in_a_smaller_model():
    fn, params, _ = BY_NAME["gated"]
    x = jnp.asarray(np.random.default_rng(1).normal(size=(64, 4)), jnp.float32)
    teacher = jax.tree.map(lambda w: 2 * w, params)
    teacher["down"] = teacher["down"].at[2:].set(0)
    y = fn(teacher, x)
    spec = shrink.group_rules(fn, params, x, side="all")
    tx = rj.rmda(0.1, spec, 0.02, averaging=0.1)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda p: jnp.mean((fn(p, x) - y) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, length=1000)[0])
    _, state = train((params, tx.init(params)))
    trained = rj.structured_params(state, spec)
    alive = spec.support(trained)["down"]
    assert 0 < alive.sum() < alive.size
    plan = shrink.plan(fn, trained, x)
    small = shrink.apply(plan, trained)
    assert small["down"].shape[0] == small["gate"].shape[1] == alive.sum()
    np.testing.assert_allclose(fn(small, x), fn(trained, x), 1e-5, 1e-6)


def recurrent(p, x):
    step = lambda h, x: (jnp.tanh(x @ p["i"] + h @ p["h"]), None)
    state = jnp.zeros((x.shape[1], len(p["h"])))
    return jax.lax.scan(step, state, x)[0] @ p["o"]


def two_ways(p, x):
    # The state is read along both axes of `h`.
    step = lambda h, x: (jnp.tanh(x @ p["i"] + h @ p["h"] + h @ p["h"].T), None)
    state = jnp.zeros((x.shape[1], len(p["h"])))
    return jax.lax.scan(step, state, x)[0] @ p["o"]


def gates(p, x):
    h = jnp.tanh(x @ p["a"])
    i, f = jnp.split(h @ jnp.concatenate([p["i"], p["f"]], 1), 2, axis=-1)
    return (jnp.tanh(i) * f) @ p["o"] + h @ p["r"]


def lstm(p, x):
    def step(state, x):
        h, c = state
        kernels = jnp.concatenate([p["i"], p["f"], p["g"], p["o"]], 1)
        i, f, g, o = jnp.split(x @ p["in"] + h @ kernels, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

    zeros = jnp.zeros((x.shape[1], len(p["i"])))
    return jax.lax.scan(step, (zeros, zeros), x)[0][0] @ p["head"]


def gain(p, x):
    return jnp.tanh(x @ p["in"]) @ (p["w"] * p["gain"])


def lora(p, x):
    return jnp.tanh(x @ p["in"]) @ (p["w"] + p["a"] @ p["b"])


def lora_in_a_scan(p, x):
    def layer(h, w):
        return h + jnp.tanh(h @ (w["w"] + w["a"] @ w["b"])) @ w["out"], None

    layers = {name: p[name] for name in ("w", "a", "b", "out")}
    return jax.lax.scan(layer, x @ p["in"], layers)[0] @ p["head"]


def weight_normalized(p, x):
    v = p["v"]
    return jnp.tanh(x @ p["in"]) @ (p["g"] * v / jnp.linalg.norm(v, axis=0))


def weight_standardized(p, x):
    v = p["v"]
    return jnp.tanh(x @ p["in"]) @ (v - v.mean(0))


def state_space(p, x):
    return jnp.einsum("tn,sn->ts", x @ p["b"], x @ p["c"]) @ x


def one_head(p, x):
    q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(len(x), 3, -1), 1, 0)
    return jax.nn.softmax(q @ k.T) @ v @ p["o"]


def normalized_stream(p, x):
    h = x @ p["in"]
    for name in ("1", "2"):
        n = h * jax.lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6)
        h = h + jnp.tanh((n * p["g" + name]) @ p["up" + name]) @ p["down" + name]
    return h @ p["head"]


ADAPTED = {"in": (4, 6), "w": (6, 5), "a": (6, 2), "b": (2, 5)}
KINDS = {
    # The rows of `h` read the state, its columns make it.
    "recurrent": (
        recurrent,
        {"i": (4, 5), "h": (5, 5), "o": (5, 2)},
        {"consumers": [{"h": -2, "o": -2}], "producers": [{"h": -1, "i": -1}]},
    ),
    "gates": (
        gates,
        {"a": (4, 6), "i": (6, 3), "f": (6, 3), "o": (3, 2), "r": (6, 2)},
        {"consumers": [{"f": -2, "i": -2, "r": -2}, {"o": -2}]},
    ),
    # The same, of kernels that are put together.
    "lstm": (
        lstm,
        {"in": (4, 20), "head": (5, 2)} | dict.fromkeys("ifgo", (5, 5)),
        {"consumers": [{"f": -2, "g": -2, "head": -2, "i": -2, "o": -2}]},
    ),
    "gain": (
        gain,
        {"in": (4, 6), "w": (6, 2), "gain": (2,)},
        {"consumers": [{"w": -2}], "producers": [{"in": -1}]},
    ),
    "lora": (lora, ADAPTED, {"consumers": [{"a": -2, "w": -2}]}),
    "lora_in_a_scan": (
        lora_in_a_scan,
        {"in": (4, 6), "w": (2, 6, 5), "a": (2, 6, 2), "b": (2, 2, 5)}
        | {"out": (2, 5, 6), "head": (6, 2)},
        {"consumers": [{"a": -2, "head": -2, "w": -2}, {"out": -2}]},
    ),
    "state_space": (
        state_space,
        {"b": (4, 3), "c": (4, 3)},
        {"producers": [{"b": -1, "c": -1}]},
    ),
    "one_head": (
        one_head,
        {"qkv": (4, 15), "o": (5, 4)},
        {"producers": [{"qkv": -1}], "all": [{"o": -2, "qkv": -1}]},
    ),
}
FOR_PROGRAM = {
    # Rows of zeros stay zero, for the norms of the columns do not matter to them.
    "weight_normalized": (
        weight_normalized,
        {"in": (4, 6), "v": (6, 2), "g": (2,)},
        {"consumers": [{"v": -2}]},
    ),
    # The mean over the stream needs the values of its units.
    "normalized_stream": (
        normalized_stream,
        {"in": (4, 6), "g1": (6,), "up1": (6, 3), "down1": (3, 6)}
        | {"g2": (6,), "up2": (6, 5), "down2": (5, 6), "head": (6, 2)},
        {
            "producers": [
                {"down1": -1, "down2": -1, "g1": -1, "g2": -1, "in": -1},
                {"up1": -1},
                {"up2": -1},
            ]
        },
    ),
}


def assert_zero_groups_go(fn, params, x, spec, *, for_program):
    """Compare the small programs with the function, for a zero group of each rule."""
    for pruned in pruned_by_rule(spec, params):
        plan = shrink.plan(fn, pruned, x, for_program=for_program)
        assert sum(cut.removed.sum() for cut in plan.cuts) == 1
        small = shrink.program(plan, fn, pruned, x)
        both = jax.jit(lambda small, p, q: (small(p, x), fn(q, x)), static_argnums=0)
        found, wanted = both(small, shrink.apply(plan, pruned), pruned)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(
    ("kind", "side", "for_program"),
    [(kind, side, False) for kind, row in KINDS.items() for side in row[2]]
    + [(kind, side, True) for kind, row in FOR_PROGRAM.items() for side in row[2]],
)
def test_the_rules_of_a_kind_and_that_its_zero_groups_go(kind, side, for_program):
    fn, shapes, expected = (KINDS | FOR_PROGRAM)[kind]
    with float64():
        params = {k: draw(*s, seed=i) for i, (k, s) in enumerate(shapes.items())}
        x = draw(3, 2, 4) if fn in (recurrent, lstm) else draw(3, 4)
        options = {"side": side, "for_program": for_program}
        spec = shrink.group_rules(fn, params, x, **options)
        assert axes_of(spec) == expected[side]
        assert_zero_groups_go(fn, params, x, spec, for_program=for_program)


def scanned(cell, head, carry, x):
    """Return the last output of a cell over a sequence, through a layer."""
    return head(jax.lax.scan(cell, carry, x)[1][-1])


def nnx_cell(kind):
    rngs, dtypes = nnx.Rngs(0), {"param_dtype": jnp.float64, "dtype": jnp.float64}
    cell = kind(4, 5, rngs=rngs, **dtypes)
    layers = nnx.List([cell, nnx.Linear(5, 2, rngs=rngs, **dtypes)])
    graph, params, others = nnx.split(layers, nnx.Param, ...)

    def fn(params, x):
        cell, head = nnx.merge(graph, params, others)
        h = jnp.zeros((x.shape[1], 5))
        return scanned(cell, head, (h, h) if "LSTM" in kind.__name__ else h, x)

    return fn, params


def linen_cell(kind):
    cell = kind(5, param_dtype=jnp.float64, dtype=jnp.float64)
    h = jnp.zeros((2, 5))
    params = {"cell": cell.init(jax.random.key(0), (h, h), jnp.zeros((2, 4)))}
    params["head"] = draw(5, 2)

    def fn(params, x):
        h = jnp.zeros((x.shape[1], 5))
        run = lambda h, x: cell.apply(params["cell"], h, x)
        return scanned(run, lambda h: h @ params["head"], (h, h), x)

    return fn, params


def equinox_cell(kind):
    keys = jax.random.split(jax.random.key(0))
    layers = kind(4, 5, key=keys[0]), eqx.nn.Linear(5, 2, key=keys[1])
    params, static = eqx.partition(layers, eqx.is_inexact_array)

    def fn(params, x):
        cell, head = eqx.combine(params, static)
        h = jnp.zeros(5)
        state = (h, h) if kind is eqx.nn.LSTMCell else h
        run = lambda h, x: (cell(x, h), None)
        state, _ = jax.lax.scan(run, state, x[:, 0])
        return head(jax.tree.leaves(state)[0])

    return fn, params


@pytest.mark.parametrize("kind", ["lora", "lstm"])
def test_costs_know_the_rules_of_kernels_that_are_put_together(kind):
    fn, shapes, _ = KINDS[kind]
    params, x = normal(shapes), jnp.ones((3, 2, 4) if fn is lstm else (3, 4))
    spec = shrink.group_rules(fn, params, x)
    (pruned,) = pruned_by_rule(spec, params)
    small = shrink.apply(shrink.plan(fn, pruned, x), pruned)
    costs = shrink.costs(fn, params, x, regularizer=spec)
    alive = costs.alive(jax.tree.leaves(spec.support(pruned)))
    assert costs.weights(alive) == sum(leaf.size for leaf in small.values())


def long(*row):
    return pytest.param(*row, marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("made", "kind", "patterns"),
    [
        (nnx_cell, nnx.GRUCell, ["0/dense_h/kernel", "1/kernel"]),
        (equinox_cell, eqx.nn.LSTMCell, ["0/weight_hh", "1/weight"]),
        long(nnx_cell, nnx.OptimizedLSTMCell, ["0/dense_h/kernel", "1/kernel"]),
        # It puts the kernels of its gates together before it uses them.
        long(
            linen_cell,
            linen.OptimizedLSTMCell,
            [*(f"cell/params/h{gate}/kernel" for gate in "fgio"), "head"],
        ),
        long(equinox_cell, eqx.nn.GRUCell, ["0/weight_hh", "1/weight"]),
    ],
)
def test_the_state_of_a_recurrent_cell_is_a_unit(made, kind, patterns):
    with float64():
        fn, params = made(kind)
        x = draw(3, 2, 4)
        spec = shrink.group_rules(fn, params, x)
        (rule,) = spec.rules
        assert list(rule.patterns) == patterns
        # Kernels have what they read along the first axis, those of Equinox the last.
        reading = -1 if made is equinox_cell else -2
        assert set(rule.regularizer.geometry.group_axes) == {reading}
        assert_zero_groups_go(fn, params, x, spec, for_program=False)


def test_heads_of_a_module_that_keeps_their_number_go_in_a_program():
    with float64():
        module = eqx.nn.MultiheadAttention(3, 12, key=jax.random.key(0))
        params, static = eqx.partition(module, eqx.is_inexact_array)
        fn = lambda p, x: eqx.combine(p, static)(x, x, x)
        x = draw(5, 12)
        spec = shrink.group_rules(fn, params, x)
        assert [rule.regularizer for rule in spec.rules] == [
            rj.group_lasso(-1, block=4)
        ]
        assert_zero_groups_go(fn, params, x, spec, for_program=True)


@pytest.mark.parametrize(
    ("fn", "shapes", "message"),
    [
        (state_space, {"b": (4, 3), "c": (4, 3)}, "side='producers' has some"),
        (
            one_head,
            {"qkv": (4, 15), "o": (5, 4)},
            "5 units o.0. qkv.1.: read by a prod",
        ),
        (weight_standardized, {"in": (4, 6), "v": (6, 2)}, "6 units .*: reduce_sum"),
    ],
)
def test_what_zero_consumers_do_not_remove_is_left_out(fn, shapes, message):
    with pytest.raises(ValueError, match=message):
        shrink.group_rules(fn, normal(shapes), jnp.ones((3, 4)))


def test_a_kernel_without_its_mean_has_no_rows_of_zeros():
    params = normal({"in": (4, 6), "v": (6, 2)})
    with pytest.raises(ValueError, match=r"6 units .*: read by"):
        shrink.group_rules(weight_standardized, params, X, for_program=True)


def test_a_state_that_is_read_along_both_axes_of_a_leaf_is_left_out():
    params = normal({"i": (4, 5), "h": (5, 5), "o": (5, 2)})
    with pytest.raises(ValueError, match=r"5 units .*: read by h"):
        shrink.group_rules(two_ways, params, models.SEQUENCE)


def test_the_report_says_which_units_have_no_rule():
    params = normal(ADAPTED)
    spec = shrink.group_rules(lora, params, X)
    line = "2 units a[1] b[0]: they share weights with units that have one"
    assert spec.left_out == (line,)
    assert f"no rule for {line}" in spec.report(params)
    assert str(spec) == f"{spec!r}\nno rule for {line}"


def test_shapes_are_enough_also_of_keys():
    def fn(p, x):
        h = jnp.tanh(x @ p["a"])
        return h @ p["c"]  # a module keeps the key for its training

    params = normal({"a": (4, 6), "c": (6, 2)}) | {"key": jax.random.key(0)}
    abstract = jax.eval_shape(lambda: params)
    (rule,) = shrink.group_rules(fn, abstract, X).rules
    assert rule == ("c", rj.group_lasso(-2), 1.0)
    rules = shrink.group_rules(fn, params, X)
    assert rules.rules == (rule,)
    assert shrink.costs(fn, params, X, regularizer=rules).units[0].size == 6


def test_units_that_the_couplings_keep_have_no_rule():
    fn, params, x = BY_NAME["residual"]
    found = shrink.trace(fn, params, x)
    kept = found.keep(*found.find("head", 0), reason="the stream of others")
    spec = shrink.group_rules(fn, params, x, couplings=kept)
    assert [rule.pattern for rule in spec.rules] == ["out0", "out1"]
    (line,) = spec.left_out
    assert line == "6 units embed[1] head[0] in0[0] ...: the stream of others"


def test_where_must_allow_all_that_reads_a_unit():
    fn, params, x = BY_NAME["residual"]
    spec = shrink.group_rules(fn, params, x, where=("in*", "out*"))
    assert [rule.pattern for rule in spec.rules] == ["out0", "out1"]
    assert spec.left_out == ("6 units embed[1] head[0] in0[0] ...: read by head",)


def test_leaves_that_no_regularizer_takes_have_no_rule():
    def fn(params, x):
        h = jax.nn.relu(x @ (params["quantized"] * params["scales"]))
        return jax.nn.relu(h @ params["up"]) @ params["down"]

    params = {
        "quantized": jnp.ones((3, 6), jnp.int8),
        "scales": jnp.ones(6),
        "up": jnp.ones((6, 4), jnp.int8),
        "down": jnp.ones((4, 2)),
    }
    rules = shrink.group_rules(fn, params, jnp.ones((2, 3)))
    assert [rule.pattern for rule in rules.rules] == ["down"]
    assert rules.resolve(params)
    assert "6 units" in rules.left_out[0]


def test_leaves_that_the_function_does_not_read_are_no_units():
    fn = lambda params, x: jnp.tanh(x @ params["a"]) @ params["b"]
    params = {"a": jnp.ones((3, 6)), "b": jnp.ones((6, 2)), "average": jnp.ones((3, 6))}
    assert shrink.group_rules(fn, params, jnp.ones((2, 3))).left_out == ()


def test_where_leaves_statistics_out():
    found = rules("normalized", side="producers", where=("conv", "s*"))
    assert found == [{"conv": -1, "scale": -1, "shift": -1}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "both"}, "`side` must be 'consumers', 'producers' or 'all'"),
        ({"where": "kernel"}, "`where` matches no parameter with 'kernel'. The names"),
        ({"where": "b"}, "no unit whose consumers could be regularized"),
    ],
)
def test_errors(options, message):
    fn, params, x = BY_NAME["mlp"]
    with pytest.raises(ValueError, match=message):
        shrink.group_rules(fn, params, x, **options)


def test_spec_is_an_alias_of_group_rules():
    assert shrink.spec is shrink.group_rules
