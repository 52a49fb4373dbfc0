"""Depth: branches of which nothing is left, and layers of a scan that go as a whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export, lax

import rmda_jax as rj
from rmda_jax import shrink
from tests._x64 import float64

pytestmark = [
    pytest.mark.costly,
    pytest.mark.filterwarnings("ignore:all units are zero:UserWarning"),
]
FEED_FORWARD = ("up", "inner", "down", "outer")
TOLERANCE = 1e-12  # of the largest entry, in float64
WIDTH, HEADS, SIZE, HIDDEN, LAYERS = 6, 2, 3, 5, 4
X = (4, WIDTH)


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def drawn(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def normalized(x, scale):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def attention(p, x):
    q, k, v = (jnp.einsum("td,dhe->the", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("the,she->hts", q, k) / SIZE**0.5)
    return jnp.einsum("hts,she,hed->td", weights, v, p["o"])


def feed_forward(p, x):
    return jnp.tanh(x @ p["up"] + p["inner"]) @ p["down"] + p["outer"]


def transformer_block(p, x):
    x = x + attention(p, normalized(x, p["first"]))
    return x + feed_forward(p, normalized(x, p["second"]))


def unrolled(params, x):
    for p in params["blocks"]:
        x = transformer_block(p, x)
    return x @ params["head"]


def scanned(params, x):
    layer = lambda h, p: (transformer_block(p, h), None)
    return lax.scan(layer, x, params["blocks"])[0] @ params["head"]


def block(p, x):
    return x + feed_forward(p, x)


def of_block(seed):
    inner = (WIDTH, HEADS, SIZE)
    shapes = {"q": inner, "k": inner, "v": inner, "o": (HEADS, SIZE, WIDTH)}
    shapes |= {"up": (WIDTH, HIDDEN), "inner": (HIDDEN,), "down": (HIDDEN, WIDTH)}
    shapes |= {name: (WIDTH,) for name in ("first", "second", "outer")}
    items = enumerate(shapes.items())
    return {name: drawn(*shape, seed=9 * seed + i) for i, (name, shape) in items}


def stacked(dead=(), names=("o", "down", "outer"), n_layers=LAYERS):
    """Return params of scanned layers, some of which have zeros in some leaves."""
    blocks = [of_block(seed) for seed in range(n_layers)]
    for i in dead:
        for name in names:
            blocks[i][name][...] = 0
    return {
        "blocks": jax.tree.map(lambda *xs: np.stack(xs), *blocks),
        "head": drawn(WIDTH, 2),
    }


def assert_close(found, wanted):
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * scale)


def shrunk(fn, params, x, *, for_program):
    """Return a plan, its params and their function, which computes the same."""
    plan = shrink.plan(fn, params, x, for_program=for_program)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, x)
    run = jax.jit(fn)
    for inputs in (x, drawn(7, *np.shape(x)[1:])):
        assert_close(small_fn(small, inputs), run(params, inputs))
    if not for_program:
        assert_close(run(small, x), run(params, x))
    return plan, small, small_fn


@pytest.mark.not_daily
def test_nothing_is_left_of_branches_that_are_zero():
    params = {"blocks": [of_block(i) for i in range(3)], "head": drawn(WIDTH, 2)}
    for name in ("o", "down"):
        params["blocks"][1][name][...] = 0
    params["blocks"][2]["down"][...] = 0
    x = drawn(*X)
    plan, small, small_fn = shrunk(unrolled, params, x, for_program=True)
    _, dead, half = small["blocks"]
    left = {name for name, leaf in dead.items() if leaf.size}
    assert left == {"first", "second", "outer"}  # as wide as the stream
    assert half["q"].shape == (WIDTH, HEADS, SIZE)
    assert not half["down"].size
    for line in ("blocks/1: down, inner, k, o, q, up, v", "blocks/2: down, inner, up"):
        assert f"nothing is left of {line}" in str(plan)
    report = shrink.report(
        unrolled, params, small, x, plan=plan, small_fn=small_fn, repeats=1
    )
    assert "nothing is left of blocks/1: down" in str(report)
    # The compiler drops what is computed for nothing: the norms of the dead block, too.
    live = {"blocks": small["blocks"][::2], "head": params["head"]}

    def alone(params, x):
        first, last = params["blocks"]
        x = transformer_block(first, x)
        x = x + attention(last, normalized(x, last["first"])) + last["outer"]
        return x @ params["head"]

    compiled = lambda fn, p: str(jax.jit(fn).lower(p, x).compile().as_text())
    texts = compiled(small_fn, small), compiled(alone, live)
    for name in ("dot(", "rsqrt("):
        found, wanted = (text.count(f" {name}") for text in texts)
        assert found == wanted > 0


@pytest.mark.not_daily
def test_leaves_of_no_entries_are_trained_and_kept_in_files(tmp_path):
    params = {"blocks": [of_block(i) for i in range(2)], "head": drawn(WIDTH, 2)}
    for name in ("o", "down"):
        params["blocks"][1][name][...] = 0
    x = drawn(*X)
    _, small, small_fn = shrunk(unrolled, params, x, for_program=True)
    shrink.save(tmp_path / "small.safetensors", small)
    loaded, _ = shrink.load(tmp_path / "small.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded, small)
    kernels = ("*/o", "*/down", "*/up")
    rules = rj.RegularizerMap([(name, rj.group_lasso(-2)) for name in kernels])
    tx = rj.rmda(0.1, rules, 1e-3)
    grads = jax.jit(jax.grad(lambda p: jnp.mean(small_fn(p, x) ** 2)))(small)
    updates, _ = jax.jit(tx.update)(grads, tx.init(small), small)
    trained = optax.apply_updates(small, updates)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))
    assert "all units are zero" not in rules.report(trained)


def test_a_plan_for_the_function_itself_leaves_one_unit():
    params = {"blocks": [of_block(0)], "head": drawn(WIDTH, 2)}
    params["blocks"][0]["down"][...] = 0
    plan, small, _ = shrunk(unrolled, params, drawn(*X), for_program=False)
    assert small["blocks"][0]["down"].shape == (1, WIDTH)
    assert not plan.gone


# All but for one, and all.
@pytest.mark.parametrize("for_program", [True, False])
@pytest.mark.parametrize("dead", [(0, 1, 3), tuple(range(LAYERS))])
def test_layers_of_a_scan_go_that_are_the_identity(dead, for_program):
    params = stacked(dead)
    plan, small, small_fn = shrunk(scanned, params, drawn(*X), for_program=for_program)
    if not for_program and len(dead) == LAYERS:
        dead = dead[1:] if plan.kept["blocks/o"][0].tolist() == [0] else dead[:-1]
    n_left = LAYERS - len(dead)
    assert {len(leaf) for leaf in small["blocks"].values()} == {n_left}
    numbers = ", ".join(map(str, dead))
    line = f"layers {numbers} of {LAYERS} are the identity, and go from blocks/"
    assert line in str(plan)
    loops = [e for e in jax.make_jaxpr(small_fn)(small, drawn(*X)).eqns]
    (loops,) = (e.params["jaxpr"].eqns for e in loops if "jaxpr" in e.params)
    lengths = [e.params["length"] for e in loops if e.primitive.name == "scan"]
    assert lengths == [n_left]


@pytest.mark.not_daily
def test_units_and_layers_go_together_and_training_goes_on():
    params = stacked((1, 2))
    params["blocks"]["down"][:, 2] = 0
    params["blocks"]["q"][..., 1] = 0
    x = drawn(*X)
    _, small, small_fn = shrunk(scanned, params, x, for_program=True)
    assert small["blocks"]["up"].shape == (2, WIDTH, HIDDEN - 1)
    assert small["blocks"]["k"].shape == (2, WIDTH, HEADS, SIZE - 1)
    loss = lambda fn: lambda p: jnp.sum(jnp.sin(fn(p, x)))
    wanted = jax.grad(loss(scanned))(params)["blocks"]["o"][np.array([0, 3])]
    found = jax.grad(loss(small_fn))(small)["blocks"]["o"]
    assert_close(found, wanted)


def test_layers_are_no_width_to_be_a_multiple():
    params = stacked((1,))
    params["blocks"]["down"][:, 2] = 0
    options = {"for_program": True, "multiple_of": 5}
    plan = shrink.plan(scanned, params, drawn(*X), **options)
    assert plan.widths["blocks/up"] == (LAYERS - 1, WIDTH, HIDDEN)


def test_the_moments_of_an_optimizer_lose_the_same_layers():
    params = stacked((1,))
    plan = shrink.plan(scanned, params, drawn(*X))
    state = shrink.apply(plan, optax.adam(1e-3).init(params))
    assert state[0].mu["blocks"]["up"].shape == (LAYERS - 1, WIDTH, HIDDEN)


def test_a_program_without_some_layers_is_exported():
    params, x = stacked((0, 1, 3)), drawn(*X)
    _, small, small_fn = shrunk(scanned, params, x, for_program=True)
    exported = export.export(jax.jit(small_fn))(small, x)
    assert_close(exported.call(small, x), scanned(params, x))


def weighing(params, x):
    layer = lambda h, row: (h + row[1] * feed_forward(row[0], h), None)
    rows = params["blocks"], jnp.arange(1.0, LAYERS + 1)
    return lax.scan(layer, x, rows)[0] @ params["head"]


def scaling(params, x):
    n_layers = len(params["blocks"]["up"])
    layer = lambda h, p: (h + feed_forward(p, h) / n_layers, None)
    return lax.scan(layer, x, params["blocks"])[0] @ params["head"]


def with_rates(params, x):
    layer = lambda h, row: (h + row[1] * feed_forward(row[0], h), None)
    rows = params["blocks"], np.linspace(0.5, 1.0, LAYERS)
    return lax.scan(layer, x, rows)[0] @ params["head"]


def of_own_length(params, x):
    layer = lambda h, p: (block(p, h), None)
    return lax.scan(layer, x, params["blocks"], length=LAYERS)[0] @ params["head"]


def reading_all(params, x):
    x, rows = lax.scan(lambda h, p: (block(p, h), h[0]), x, params["blocks"])
    return x @ params["head"] + jnp.max(rows)


def returning_all(params, x):
    return lax.scan(lambda h, p: (block(p, h), h[0]), x, params["blocks"])


def normalizing(params, x):
    layer = lambda h, p: (normalized(block(p, h), 1.0), None)
    return lax.scan(layer, x, params["blocks"])[0] @ params["head"]


def with_a_counter(params, x):
    layer = lambda carry, p: ((block(p, carry[0]), carry[1] + 1), None)
    (x, n), _ = lax.scan(layer, (x, 0.0), params["blocks"])
    return x @ params["head"] / n


def rounding(params, x):
    layer = lambda h, p: (block(p, h).astype(jnp.float32).astype(h.dtype), None)
    return lax.scan(layer, x, params["blocks"])[0] @ params["head"]


def exchanging(params, x):
    layer = lambda carry, p: ((carry[1], block(p, carry[0])), None)
    (x, y), _ = lax.scan(layer, (x, 2 * x), params["blocks"])
    return (x + 3 * y) @ params["head"]


def transposing(params, x):
    layer = lambda h, p: (block(p, h)[:, ::-1], None)
    return lax.scan(layer, x, params["blocks"])[0] @ params["head"]


def widening(params, x):
    """Compute in double precision what is carried in single."""
    layer = lambda h, p: (block(p, h.astype(jnp.float64)).astype(h.dtype), None)
    x, _ = lax.scan(layer, x.astype(jnp.float32), params["blocks"])
    return x.astype(jnp.float64) @ params["head"]


def checkpointed(params, x):
    layer = jax.checkpoint(lambda h, p: (jax.jit(block)(p, h), None))
    return lax.scan(layer, x, params["blocks"], reverse=True, unroll=3)[0]


# Function, then how many layers stay for a program, and for the function itself.
CASES = {
    "numbers of layers": (weighing, 2, LAYERS),
    "a scale by their number": (scaling, 2, LAYERS),
    "constants of layers": (with_rates, 2, LAYERS),
    "a length of its own": (of_own_length, 2, LAYERS),
    "all layers are read": (reading_all, LAYERS, LAYERS),
    "all layers are returned": (returning_all, LAYERS, LAYERS),
    "a norm behind the sum": (normalizing, LAYERS, LAYERS),
    "a counter": (with_a_counter, LAYERS, LAYERS),
    "rounding": (rounding, LAYERS, LAYERS),
    "two streams that change places": (exchanging, LAYERS, LAYERS),
    "a stream that is reversed": (transposing, LAYERS, LAYERS),
    "rounding that is undone": (widening, 2, 2),
    "checkpoints, calls, in reverse, unrolled": (checkpointed, 2, 2),
}


@pytest.mark.parametrize("for_program", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_which_layers_go(case, for_program):
    fn, *left = CASES[case]
    params, x = stacked((1, 2)), drawn(*X)
    params["blocks"] = {name: params["blocks"][name] for name in FEED_FORWARD}
    plan = shrink.plan(fn, params, x, for_program=for_program)
    assert len(plan.kept["blocks/down"][0]) == left[not for_program]
    small = shrink.apply(plan, params)
    small_fn = shrink.program(plan, fn, params, x)
    wanted = jax.jit(fn)(params, x)
    jax.tree.map(assert_close, small_fn(small, x), wanted)
    if not for_program:
        jax.tree.map(assert_close, jax.jit(fn)(small, x), wanted)


@pytest.mark.parametrize("for_program", [True, False])
def test_a_map_carries_nothing(for_program):
    """What it computes may go where nothing reads it."""

    def fn(params, x):
        rows = lax.map(lambda p: feed_forward(p, x), params["blocks"])
        return jnp.einsum("l,ltd->td", params["mix"], rows)

    params = {"blocks": stacked()["blocks"], "mix": np.array([0.5, 0, 2, 0])}
    params["blocks"] = {name: params["blocks"][name] for name in FEED_FORWARD}
    _, small, _ = shrunk(fn, params, drawn(*X), for_program=for_program)
    assert small["blocks"]["up"].shape == (2, WIDTH, HIDDEN)


def test_layers_with_a_bias_or_half_of_their_branches_stay():
    for names in (("o", "down"), ("o", "outer"), ("down", "outer")):
        plan = shrink.plan(scanned, stacked((1,), names), drawn(*X), for_program=True)
        assert plan.widths["blocks/o"][0] == LAYERS
        assert "scan" in str(plan)


def test_layers_that_are_kept_stay():
    params, x = stacked((1,)), drawn(*X)
    couplings = shrink.trace(scanned, params, x)
    kept = couplings.keep(*couplings.find("blocks/up", 0))
    assert shrink.plan(scanned, params, x, couplings=kept).widths["blocks/o"][0] == 4


def test_a_scan_inside_of_a_scan():
    def fn(params, x):
        layer = lambda h, p: (block(p, h), None)
        stage = lambda h, ps: (lax.scan(layer, h, ps)[0], None)
        return lax.scan(stage, x, params["blocks"])[0] @ params["head"]

    params = stacked((1, 3, 4, 5), n_layers=6)
    params["blocks"] = {name: params["blocks"][name] for name in FEED_FORWARD}
    fold = lambda leaf: leaf.reshape(2, 3, *leaf.shape[1:])
    params["blocks"] = {name: fold(leaf) for name, leaf in params["blocks"].items()}
    # Layers 3, 4 and 5 are the second stage, and 1 and 4 the second layer of each.
    _, small, _ = shrunk(fn, params, drawn(*X), for_program=True)
    assert small["blocks"]["up"].shape == (1, 2, WIDTH, HIDDEN)


def test_a_program_refuses_layers_that_it_cannot_prove():
    params, x = stacked((1,)), drawn(*X)
    plan = shrink.plan(scanned, params, x, for_program=True)
    others = stacked((2,))
    with pytest.raises(ValueError, match=r"scan at test_depth.* not the identity"):
        _ = shrink.program(plan, scanned, others, x)


def test_grouped_convolutions_keep_a_channel():
    def fn(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        conv = lambda y, w, n: lax.conv_general_dilated(
            y, w, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=n
        )
        h = jax.nn.relu(conv(x, params["in"], 1))
        return x + conv(conv(h, params["depth"], 4), params["out"], 1)

    params = {"in": drawn(1, 1, 3, 4), "depth": drawn(3, 3, 1, 4)}
    params["out"] = np.zeros((1, 1, 4, 3))
    x = drawn(2, 5, 5, 3)
    plan = shrink.plan(fn, params, x, for_program=True)
    small = shrink.apply(plan, params)
    assert small["in"].shape[-1] == 1
    assert_close(shrink.program(plan, fn, params, x)(small, x), fn(params, x))


def test_a_convolution_of_no_channels_and_its_gradient():
    def fn(params, x):
        conv = lambda y, w: lax.conv_general_dilated(
            y, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x + conv(jax.nn.relu(conv(x, params["in"])), params["out"])

    params = {"in": drawn(3, 3, 2, 4), "out": np.zeros((3, 3, 4, 2))}
    x = drawn(2, 5, 5, 2)
    plan = shrink.plan(fn, params, x, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, x)
    assert {leaf.size for leaf in small.values()} == {0}
    assert_close(small_fn(small, x), fn(params, x))
    grads = jax.grad(lambda p: small_fn(p, x).sum())(small)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, small)


def test_rules_of_branches():
    params = {"blocks": [of_block(i) for i in range(2)], "head": drawn(WIDTH, 2)}
    x = drawn(*X)
    rules = shrink.group_rules(unrolled, params, x, depth=True, for_program=True)
    names = [f"blocks/{i}/{name}" for i in (0, 1) for name in ("down", "o")]
    assert [rule.pattern for rule in rules.rules] == names
    units = jax.tree.leaves(rules.support(params))
    assert [unit.size for unit in units if unit.size] == [1] * 4
    params["blocks"][1]["o"][...] = 0
    _, small, _ = shrunk(unrolled, params, x, for_program=True)
    assert not small["blocks"][1]["q"].size


@pytest.mark.not_daily
@pytest.mark.parametrize("for_program", [True, False])
def test_rules_of_layers(for_program):
    params, x = stacked(), drawn(*X)
    options = {"depth": True, "for_program": for_program}
    (rule,) = shrink.group_rules(scanned, params, x, **options).rules
    assert rule.patterns == ("blocks/down", "blocks/o", "blocks/outer")
    assert rule.regularizer == rj.tied_group_lasso(group_axes=(-3, -4, -2))
    # Zero groups go: `stacked` has zeros in these leaves.
    _, small, _ = shrunk(scanned, stacked((2,)), x, for_program=for_program)
    assert small["blocks"]["o"].shape[0] == LAYERS - 1


def test_layers_whose_outputs_are_read_have_no_rule():
    with pytest.raises(ValueError, match="no branch or layer"):
        _ = shrink.group_rules(
            reading_all, stacked(), drawn(*X), depth=True, for_program=True
        )


def test_rules_for_depth_say_why_there_are_none():
    chain = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
    params = {"a": drawn(WIDTH, 3), "b": drawn(3, 2)}
    with pytest.raises(ValueError, match=r"no branch or layer .* output is constant"):
        _ = shrink.group_rules(chain, params, drawn(*X), depth=True)
    with pytest.raises(ValueError, match="zeros in all of their weights do not make"):
        _ = shrink.group_rules(normalizing, stacked(), drawn(*X), depth=True)
    with pytest.raises(ValueError, match="must be 'consumers' with `depth`"):
        _ = shrink.group_rules(chain, params, drawn(*X), depth=True, side="all")
