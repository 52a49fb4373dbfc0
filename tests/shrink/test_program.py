"""The small program against the function itself: values, gradients, other batches."""

import gc
import re
import weakref

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import export, lax

from examples.shrink.models import LanguageModel, VisionTransformer
from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink.test_plan import dead
from tests.shrink.test_retrace import Heads, haiku_heads
from tests.shrink.test_trace import BY_NAME, IDS, MODELS

pytestmark = pytest.mark.costly

TOLERANCE = 1e-9  # of the largest entry, in float64


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).normal(size=shape))


def drawn(shapes):
    """Return params of these shapes; those of one shape differ."""
    items = enumerate(shapes.items())
    return {name: normal(*shape, seed=i) for i, (name, shape) in items}


def assert_close(found, wanted):
    """Compare two trees by the largest entry of each leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        scale = np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * scale)


def weighted(out):
    """Return a number that depends on every entry of every output."""
    waves = [jnp.sin(1.0 + jnp.arange(y.size)).reshape(y.shape) for y in out]
    return sum(jnp.sum(wave * y) for wave, y in zip(waves, out, strict=True))


def gradient(fn, params, *inputs):
    loss = lambda p: weighted(jax.tree.leaves(fn(p, *inputs)))
    return jax.jit(jax.grad(loss, allow_int=True))(params)


def check(fn, params, x, *, other=None, goes=True, differs=True):
    """Check value and gradient of a small program, and return it with its params."""
    plan = shrink.plan(fn, params, x, for_program=True)
    assert any(cut.removed.any() for cut in plan.cuts) == goes, str(plan)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, x)
    assert_close(small_fn(small, x), jax.jit(fn)(params, x))
    if differs:
        wanted = shrink.apply(plan, gradient(fn, params, x), folds=False)
        assert_close(gradient(small_fn, small, x), wanted)
    if other is not None:
        assert_close(small_fn(small, other), jax.jit(fn)(params, other))
    return small_fn, small


def with_dead_units(fn, params, x):
    for units in shrink.trace(fn, params, x).free:
        params = dead(params, units, 1)
    return jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize(("fn", "shapes", "x", "sizes"), MODELS, ids=IDS)
def test_models_of_all_kinds_with_other_batches_and_mapped(fn, shapes, x, sizes):
    is_integer = jnp.issubdtype(x.dtype, jnp.integer)
    x = x if is_integer else normal(*x.shape, seed=9)
    params = with_dead_units(fn, drawn(shapes), x)
    other = jnp.concatenate([x, x[:1]])
    small_fn, small = check(fn, params, x, other=other)
    stacked = jnp.stack([x, x[::-1]])
    mapped = jax.jit(jax.vmap(small_fn, (None, 0)))(small, stacked)
    assert_close(mapped, jax.vmap(fn, (None, 0))(params, stacked))


X = np.random.default_rng(0).normal(size=(5, 6))  # of NumPy: it stays float64
KEY = jax.random.key(3)
TWO = {"a": (6, 8), "b": (8,), "o": (8, 3)}  # two layers


def two_layers():
    """Return params of two layers, of which the second reads five units of eight."""
    params = drawn(TWO)
    return {**params, "o": params["o"].at[5:].set(0)}


def silent(**shapes):
    """Return params whose first layer makes five units; the other three are zero."""
    params = drawn({"a": (6, 8), **shapes})
    return {**params, "a": params["a"].at[:, 5:].set(0)}


def between(activation):
    """Return two layers with something between them."""
    return lambda p, x: activation(x @ p["a"] + p["b"], p) @ p["o"]


@jax.custom_jvp
def triple(h, n):
    return jnp.sin(h) * n


@triple.defjvp
def _(primals, tangents):
    return triple(*primals), 3 * tangents[0] * jnp.cos(primals[0])  # no true one


@jax.custom_vjp
def double(h, b):
    return jnp.sin(h) * b


double.defvjp(
    lambda h, b: (double(h, b), (h, b)),
    lambda kept, y: (2 * y * kept[0] * kept[1], (y * kept[0]).sum(0)),
)


def looped(h, p):
    condition = lambda carry: carry[0] < 3
    body = lambda carry: (carry[0] + 1, jnp.tanh(carry[1] + p["b"]))
    return lax.while_loop(condition, body, (0, h))[1]


def scanned(h, p):
    def body(carry, row):
        carry = jax.nn.relu(carry + p["b"] * row)
        return carry, carry * 2

    carry, rows = lax.scan(body, jnp.zeros_like(h), jnp.arange(3.0), unroll=2)
    return h * carry + rows.sum(0)


BETWEEN = {
    "custom_jvp": lambda h, p: triple(h, jnp.arange(1, 9)),
    "custom_vjp": lambda h, p: double(h, p["b"]),
    "custom_jvp of custom_vjp": lambda h, p: jax.nn.relu(double(h, p["b"])),
    "remat": lambda h, p: jax.checkpoint(
        lambda h: jnp.tanh(triple(h, 2)),
        policy=jax.checkpoint_policies.nothing_saveable,
    )(h),
    "jit": lambda h, p: jax.jit(lambda h: jax.nn.silu(h) + p["b"])(h),
    "cond": lambda h, p: lax.cond(
        jax.random.bernoulli(KEY), jnp.zeros_like, lambda h: h + p["b"], h
    ),
    "switch": lambda h, p: lax.switch(2, [jnp.tanh, jnp.sin, jax.nn.gelu], h),
    "fori": lambda h, p: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h + p["b"] * i), h),
    "scan": scanned,
    "dropout": lambda h, p: jnp.where(jax.random.bernoulli(KEY, 0.5, h.shape), h, 0),
    "numbers": lambda h, p: h * jnp.arange(1, 9),
    "constants": lambda h, p: jnp.tanh(h * np.arange(1.0, 9)),
    "gradient inside": lambda h, p: jax.grad(lambda h: jnp.sum(jnp.sin(h) ** 2))(h),
    "special functions": lambda h, p: jax.scipy.special.gammainc(1 + h**2, 2.0),
    "pieces": lambda h, p: jnp.concatenate([h[:, :2], h], 1)[:, 2:],
    "single unit": lambda h, p: h * h[:, 1:2],
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_is_between_layers_runs_small(name):
    _, small = check(between(BETWEEN[name]), two_layers(), X, other=normal(2, 6))
    assert small["a"].shape == (6, 5)


@jax.custom_batching.custom_vmap
def mapped(h):
    return jnp.sin(h) + 1


mapped.def_vmap(lambda size, is_mapped, h: (jnp.sin(h) + 1, is_mapped[0]))

CALLED = {"custom_vmap": mapped, "composite": lax.composite(jnp.sin, "test.sin")}


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_runs_small(name):
    fn = between(lambda h, p: CALLED[name](h))
    _, small = check(fn, two_layers(), X, other=normal(2, 6), differs=False)
    assert small["a"].shape == (6, 5)


def test_while_loops_run_small_and_refuse_to_be_differentiated_as_before():
    fn = between(looped)
    small_fn, small = check(fn, two_layers(), X, other=normal(2, 6), differs=False)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        gradient(small_fn, small, X)


def test_custom_derivatives_are_those_of_the_function():
    # relu's is 0 at 0, where that of max is 0.5.
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["o"]
    small_fn, small = check(fn, two_layers(), X)
    zero = jnp.zeros((1, 6))
    slope = jax.jacobian(lambda x: small_fn(small, x))(zero)
    np.testing.assert_array_equal(slope, np.zeros(slope.shape))
    slope = jax.jvp(lambda x: small_fn(small, x), [zero], [zero + 1])[1]
    np.testing.assert_array_equal(slope, np.zeros(slope.shape))


def test_second_derivatives():
    fn = between(lambda h, p: jnp.tanh(jax.nn.silu(h) * jax.nn.relu(h)))
    small_fn, small = check(fn, two_layers(), X)
    hessian = lambda f, p: jax.jit(jax.hessian(lambda x: f(p, x).sum()))(X[0])
    assert_close(hessian(small_fn, small), hessian(fn, two_layers()))


def test_dropout_and_shifted_masks_draw_the_same_by_key():
    def fn(p, key, x):
        first, second = jax.random.split(key)
        h = jax.nn.relu(x @ p["a"] + p["b"])
        h = jnp.where(jax.random.bernoulli(first, 0.5, h.shape), 2 * h, 0)
        shifted = jnp.roll(jax.random.normal(second, h.shape), 1, axis=1)
        return (h + shifted) @ p["o"]

    params = two_layers()
    plan = shrink.plan(fn, params, KEY, X, for_program=True)
    small = shrink.apply(plan, params)
    small_fn = shrink.program(plan, fn, params, KEY, X)
    assert small["o"].shape == (5, 3)
    for key in jax.random.split(KEY, 3):
        assert_close(small_fn(small, key, X), fn(params, key, X))
    assert "random_bits at test_program.py" in str(small_fn)
    assert "the full params are kept" not in str(small_fn)


def rms_norm(p, x):
    h = x @ p["a"]
    for gain, up, down in (("s", "u", "d"), ("t", "v", "e")):
        scaled = h * lax.rsqrt(jnp.mean(h * h, -1, keepdims=True) + 1e-6) * p[gain]
        h = h + jax.nn.silu(scaled @ p[up]) @ p[down]
    return h @ p["o"]


def stream():
    params = silent(s=(8,), u=(8, 7), d=(7, 8), t=(8,), v=(8, 7), e=(7, 8), o=(8, 3))
    return {**params, **{name: params[name].at[:, 5:].set(0) for name in "de"}}


AT_FULL_SIZE = {
    "cumsum": lambda p, x: jnp.cumsum(jnp.tanh(x @ p["a"]), -1) @ p["o"],
    "sort": lambda p, x: jnp.sort(jnp.tanh(x @ p["a"]), -1) @ p["o"],
    "fft": lambda p, x: jnp.abs(jnp.fft.fft(x @ p["a"])) @ p["o"],
    "rev": lambda p, x: jnp.tanh(x @ p["a"])[:, ::-1] @ p["o"],
    "reduce_max": lambda p, x: jnp.max(x @ p["a"], -1) + p["o"].sum(),
    "argmax": lambda p, x: jnp.tanh(x @ p["a"]).argmax(-1) + p["o"].sum(),
    "constants": lambda p, x: jnp.sort(jax.nn.sigmoid(x @ p["a"])) @ p["o"],
}


@pytest.mark.parametrize("name", AT_FULL_SIZE)
def test_what_reads_all_units_gets_known_values_of_the_removed_ones(name):
    fn = AT_FULL_SIZE[name]
    small_fn, small = check(fn, silent(o=(8, 3)), X, other=normal(7, 6))
    assert small["a"].shape == (6, 5)
    said = str(small_fn)
    if name != "constants":
        assert re.search(rf"  {name} at test_program.py:\d+: \d+ entries", said), said
    assert "the full params are kept" not in said  # but what is removed of them
    assert any(row.whole and row.after <= row.before for row in small_fn.report())


def test_sums_of_zeros_need_no_expanding():
    small_fn, small = check(rms_norm, stream(), X, other=normal(7, 6))
    assert small["d"].shape == (7, 5)
    assert "0 at full size" in str(small_fn)


def test_units_whose_values_are_not_known_where_all_are_read_stay():
    # The readers are zero, but the maximum sees what the units are.
    fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["o"] + (x @ p["a"]).max()
    plan = shrink.plan(fn, two_layers(), X, for_program=True)
    assert plan.widths["a"] == (6, 8)
    assert "8 not known to reduce_max at test_program.py:" in str(plan)


def test_params_that_are_read_whole_are_no_constants():
    # All of w is known, and no zero: it stays, and has a gradient.
    fn = lambda p, x: x @ jnp.sort(p["w"] * p["g"], axis=1) @ p["o"]
    params = drawn({"w": (6, 8), "g": (8,), "o": (8, 3)})
    check(fn, params, X, goes=False)
    params["w"] = params["w"].at[:, 2:].set(0)
    check(fn, params, X)


def heads(p, x):
    q, k, v = ((x @ p[n]).reshape(-1, 4, 3) for n in "qkv")  # 4 heads of 3
    weights = jax.nn.softmax(jnp.einsum("thc,shc->hts", q, k) / 3**0.5)
    return jnp.einsum("hts,shc->thc", weights, v).reshape(len(x), -1) @ p["o"]


def inferred_heads(p, x):
    q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(len(x), 3, 2, -1), 1, 0)
    context = jnp.einsum("thd,the->hde", jax.nn.softmax(k, 0), v)
    return jnp.einsum("hde,thd->the", context, q).reshape(len(x), -1) @ p["o"]


def value_dims(p, x):
    q, k, v = (x @ p[n] for n in "qkv")
    q, k, v = (y.reshape(len(x), -1, k.shape[-1]) for y in (q, k, v))  # one head
    weights = jax.nn.softmax(jnp.einsum("thc,shc->hts", q, k))
    return jnp.einsum("hts,shc->thc", weights, v).reshape(len(x), -1) @ p["o"]


def nothing_long(p, x):
    empty = jnp.zeros((len(x), 0))
    return jnp.concatenate([x @ p["a"], empty], -1) @ p["o"]


def scaled_by_width(p, x):
    h = x @ p["a"] / p["a"].shape[1] ** 0.5
    return (h @ p["o"]) * p["o"].shape[0]


OWN_SIZES = {
    "heads": (heads, {"q": (6, 12), "k": (6, 12), "v": (6, 12)}, (12, 6), 6, "q"),
    "inferred": (inferred_heads, {"qkv": (6, 24)}, (8, 6), 4, "qkv"),
    "values": (value_dims, {"q": (6, 4), "k": (6, 4), "v": (6, 4)}, (4, 6), 2, "v"),
    "nothing": (nothing_long, {"a": (6, 4)}, (4, 2), 2, "a"),
    "scale": (scaled_by_width, {"a": (6, 8)}, (8, 3), 5, "a"),
}


@pytest.mark.parametrize("name", OWN_SIZES)
def test_sizes_of_its_own_do_not_matter(name):
    fn, shapes, out, n_left, leaf = OWN_SIZES[name]
    params = {**drawn(shapes), "o": normal(*out).at[n_left:].set(0)}
    _, small = check(fn, params, X, other=normal(7, 6))
    assert small["o"].shape == (n_left, out[1])
    width = n_left * (3 if leaf == "qkv" else 1)
    assert small[leaf].shape == (6, width)


def test_a_plan_for_the_function_is_one_for_its_program():
    params = {**drawn({n: (6, 12) for n in "qkv"}), "o": normal(12, 6).at[6:].set(0)}
    x = normal(8, 6)
    plan = shrink.plan(heads, params, x)
    assert plan.conflicts
    small = shrink.apply(plan, params, rebuilt=True)
    small_fn = shrink.program(plan, heads, params, x)
    assert_close(small_fn(small, x), heads(params, x))
    found = shrink.verify(heads, params, small, x, small_fn=small_fn, plan=plan)
    assert found.relative < TOLERANCE


def test_linen():
    net = linen.Sequential([linen.Dense(32), linen.GroupNorm(8), linen.Dense(2)])
    params = net.init(KEY, X)
    kernel = params["params"]["layers_2"]["kernel"]
    params["params"]["layers_2"]["kernel"] = kernel.at[16:].set(0)
    _, small = check(net.apply, params, X, other=normal(2, 6))
    assert small["params"]["layers_0"]["kernel"].shape == (6, 16)
    params = Heads().init(KEY, X)
    kernel = params["params"]["Dense_1"]["kernel"]
    params["params"]["Dense_1"]["kernel"] = kernel.at[8:].set(0)
    _, small = check(Heads().apply, params, X, other=normal(2, 6))
    assert small["params"]["Dense_0"]["kernel"].shape == (6, 8)


def test_haiku():
    net = hk.without_apply_rng(hk.transform(haiku_heads))
    params = net.init(KEY, X)
    params["linear_1"]["w"] = params["linear_1"]["w"].at[8:].set(0)
    _, small = check(net.apply, params, X, other=normal(2, 6))
    assert small["linear"]["w"].shape == (6, 8)


def test_equinox():
    model = eqx.nn.MultiheadAttention(4, 24, key=KEY)
    weight = model.output_proj.weight
    zeros = weight.at[:, 12:].set(0)
    model = eqx.tree_at(lambda m: m.output_proj.weight, model, zeros)
    params, static = eqx.partition(model, eqx.is_inexact_array)
    fn = lambda p, x: eqx.combine(p, static)(x, x, x)
    _, small = check(fn, params, normal(5, 24), other=normal(7, 24))
    assert small.query_proj.weight.shape == (12, 24)


def imposed(fn, params, x):
    """Return params of which a third of every group of units is read by nothing."""
    names = shrink.plan(fn, params, x).shapes
    leaves = dict(zip(names, jax.tree.leaves(params), strict=True))
    for units in shrink.trace(fn, params, x).free:
        for m in units.members:
            if "consumes" in m.roles:
                at = (slice(None),) * m.axis + (m.positions[: units.size // 3].ravel(),)
                leaves[m.leaf] = jnp.asarray(leaves[m.leaf]).at[at].set(0)
    return jax.tree.unflatten(jax.tree.structure(params), list(leaves.values()))


EXAMPLES = {
    "vision": (lambda rngs: VisionTransformer(16, 2, 12, rngs=rngs), (2, 8, 8, 1)),
    "language": (lambda rngs: LanguageModel(7, 16, 2, 12, rngs=rngs), (2, 5)),
}


@pytest.mark.not_daily
@pytest.mark.parametrize("name", EXAMPLES)
def test_transformers_in_nnx(name):
    make, shape = EXAMPLES[name]
    graph, params = nnx.split(make(nnx.Rngs(0)))
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    x = normal(*shape) if name == "vision" else jnp.arange(10).reshape(2, 5) % 7
    fn = lambda p, x: nnx.merge(graph, p)(x)
    params = imposed(fn, params, x)
    check(fn, params, x, other=None if name == "vision" else x[:1])


def test_the_program_is_kept_in_a_file_without_the_params(tmp_path):
    _ = pytest.importorskip("flatbuffers", reason="jax.export serializes by it")
    fn, params = between(lambda h, p: jnp.tanh(h)), two_layers()
    plan = shrink.plan(fn, params, X, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    shrink.save(tmp_path / "small.safetensors", small)
    exported = export.export(jax.jit(small_fn))(small, X)
    (tmp_path / "small.stablehlo").write_bytes(exported.serialize())
    again = export.deserialize(bytearray((tmp_path / "small.stablehlo").read_bytes()))
    loaded, _ = shrink.load(tmp_path / "small.safetensors")
    assert_close(again.call(loaded, X), fn(params, X))
    sizes = [spec.size for spec in exported.in_avals]
    assert sizes == [30, 5, 15, 30]


def test_a_symbolic_batch_is_mapped_over():
    fn, params = between(lambda h, p: jnp.tanh(h)), two_layers()
    plan = shrink.plan(fn, params, X, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    any_size = jax.ShapeDtypeStruct(export.symbolic_shape("b, 6"), X.dtype)
    with pytest.raises(
        ValueError, match=r"shapes of numbers, got \(b, 6\)\. .*jax\.vmap"
    ):
        _ = export.export(jax.jit(small_fn))(small, any_size)

    def mapped(params, x):
        return jax.vmap(lambda x: small_fn(params, x[None])[0])(x)

    exported = export.export(jax.jit(mapped))(small, any_size)
    for x in (X, X[:2]):
        assert_close(exported.call(small, x), fn(params, x))


def test_the_full_params_are_not_kept():
    fn, params = between(lambda h, p: jnp.tanh(h)), two_layers()
    plan = shrink.plan(fn, params, X, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    wanted, gone = fn(params, X), weakref.ref(params["a"])
    del params
    gc.collect()
    assert gone() is None
    assert_close(small_fn(small, X), wanted)
    assert_close(small_fn(small, X[:2]), wanted[:2])


def test_abstract_params_are_refused():
    fn, params = between(lambda h, p: jnp.tanh(h)), two_layers()
    plan = shrink.plan(fn, params, X, for_program=True)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    with pytest.raises(TypeError, match="`params` must hold arrays with values"):
        _ = shrink.program(plan, fn, shapes, X)
    x = jax.ShapeDtypeStruct(X.shape, X.dtype)
    small_fn = shrink.program(plan, fn, params, x)
    assert_close(small_fn(shrink.apply(plan, params), X), fn(params, X))


def test_params_of_another_dtype_and_options():
    fn = lambda p, x, slope: jnp.tanh(slope * (x @ p["a"])) @ p["o"]
    params = two_layers()
    plan = shrink.plan(fn, params, X, for_program=True, slope=2)
    small, small_fn = (
        shrink.apply(plan, params),
        shrink.program(plan, fn, params, X, slope=2),
    )
    halved = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float16), tree)
    assert_close(small_fn(small, X), fn(params, X, 2))
    found = small_fn(halved(small), X.astype(jnp.float16))
    assert found.dtype == jnp.float16
    wanted = fn(halved(params), X.astype(jnp.float16), 2)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02)


def test_what_is_fixed_in_training_is_said():
    # Units of h are zero because the only weight that they depend on is; it stays.
    def fn(p, x):
        h = jnp.broadcast_to((x @ p["w"]) * p["zero"][0], (len(x), 8)) * p["s"]
        return jnp.cumsum(h, -1) @ p["o"]

    params = drawn({"w": (6, 1), "zero": (2,), "s": (8,), "o": (8, 3)})
    params["zero"] = jnp.zeros(2)
    with pytest.warns(UserWarning, match="all units are zero"):
        plan = shrink.plan(fn, params, X, for_program=True)
    small_fn = shrink.program(plan, fn, params, X)
    assert_close(small_fn(shrink.apply(plan, params), X), fn(params, X))
    assert "cumsum at test_program.py" in str(small_fn)
    assert "the full params are kept, for removed values follow" in str(small_fn)
    assert any(row.fixed for row in small_fn.report())
    assert "those of the params that were planned, also in training" in str(small_fn)


def test_constants_of_biases_that_are_fixed_in_training_are_said():
    # The first unit is a constant: "c" takes it. It is made of "b", which stays.
    def fn(p, x):
        return jax.nn.relu((x @ p["a"] + p["b"]) @ p["m"]) @ p["o"] + p["c"]

    shapes = {"a": (6, 3), "b": (3,), "m": (3, 4), "o": (4, 2), "c": (2,)}
    params = drawn(shapes) | {"b": jnp.ones(3)}
    params["a"] = params["a"].at[:, :2].set(0)
    params["m"] = params["m"].at[:, 0].set(jnp.array([1, 1, 0]))
    plan = shrink.plan(fn, params, X, for_program=True)
    assert plan.widths["o"] == (3, 2)
    small_fn = shrink.program(plan, fn, params, X)
    assert_close(small_fn(shrink.apply(plan, params), X), fn(params, X))
    said = "c takes constants which follow from params that stay: they are those of"
    assert said in str(small_fn)


OTHERS = {
    "a primitive": lambda h, n: jax.nn.sigmoid(h) if n > 5 else jax.nn.relu(h),
    "a number": lambda h, n: h + n // 6,
    "what is not known": lambda h, n: h + h.sum(-1, keepdims=True) * (n > 5),
    "a number of none": lambda h, n: jnp.exp(h) - (1.0 if n < 6 else 2.0),
    # The same equations, in which a mean over the batch is one for five samples.
    "a length": lambda h, n: (h + 1) - (h + 1).sum(0) / 5,
}
THERE = r"`plan` does not fit `fn` at inputs of shapes \(9, 6\)"


@pytest.mark.parametrize("name", OTHERS)
def test_a_function_that_needs_the_units_at_other_shapes_is_refused(name):
    fn = lambda p, x: OTHERS[name](x @ p["a"], len(x)) @ p["o"]
    params = silent(o=(8, 3))
    plan = shrink.plan(fn, params, X, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    assert small["o"].shape == (5, 3)
    assert_close(small_fn(small, X), fn(params, X))
    with pytest.raises(ValueError, match=f"{THERE}: o (sums constants|reads)"):
        _ = small_fn(small, normal(9, 6))
    with pytest.raises(ValueError, match=f"{THERE}: o (sums constants|reads)"):
        _ = shrink.program(plan, fn, params, normal(9, 6))


def test_random_keys_and_integers_among_the_params():
    def fn(p, x):
        h = x @ p["a"]
        h = jnp.where(jax.random.bernoulli(p["key"], 0.5, h.shape), h, 0) * p["n"]
        return h @ p["o"]

    params = {**silent(o=(8, 3)), "key": KEY, "n": jnp.arange(1, 9)}
    plan = shrink.plan(fn, params, X, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    assert small["n"].shape == (5,)
    for x in (X, normal(7, 6)):
        assert_close(small_fn(small, x), fn(params, x))


def test_constants_of_integers_are_compared_exactly():
    fn = lambda p, x: (x @ p["a"] + p["b"] * len(x)) @ p["o"] + p["c"]
    shapes = {"a": (6, 8), "b": (8,), "o": (8, 3), "c": (3,)}
    params = {name: jnp.ones(shape, jnp.int32) for name, shape in shapes.items()}
    params["a"] = params["a"].at[:, 5:].set(0)
    x = jnp.ones((5, 6), jnp.int32)
    plan = shrink.plan(fn, params, x)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, x)
    assert small["o"].shape == (5, 3)
    np.testing.assert_array_equal(small_fn(small, x), fn(params, x))
    with pytest.raises(ValueError, match="biases take other constants of removed"):
        _ = small_fn(small, x[:4])


def test_what_changes_with_the_batch_and_needs_no_removed_unit_is_no_matter():
    def fn(p, x):
        h = x @ p["a"] * len(x)
        h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-5)  # as in batch normalization
        return (jnp.tanh(h) if len(x) > 5 else jax.nn.relu(h)) @ p["o"]

    check(fn, silent(o=(8, 3)), X, other=normal(9, 6))


def test_constants_that_other_shapes_change_are_refused():
    fn = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"] * len(x)) @ p["o"] + p["c"]
    params = silent(b=(8,), o=(8, 3), c=(3,))
    plan = shrink.plan(fn, params, X)
    assert plan.folds["c"].any()
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    assert_close(small_fn(small, X), fn(params, X))
    with pytest.raises(ValueError, match="biases take other constants of removed"):
        _ = small_fn(small, X[:2])


def test_errors_name_what_is_wrong():
    fn, params = between(lambda h, p: jnp.tanh(h)), two_layers()
    plan = shrink.plan(fn, params, X, for_program=True)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, X)
    with pytest.raises(ValueError, match="`params` must be those that were planned"):
        _ = shrink.program(plan, fn, small, X)
    with pytest.raises(
        ValueError, match=r"the plan's shape \(6, 5\) of 'a', got \(6, 8\)"
    ):
        _ = small_fn(params, X)
    with pytest.raises(ValueError, match="must have the leaves a, b, o, got a"):
        _ = small_fn({"a": small["a"]}, X)
    crossed = lambda p, x: fn(p, x) + jnp.concatenate([p["b"][4:], p["b"][:4]]) @ p["o"]
    with pytest.raises(ValueError, match="it couples units that stay with"):
        _ = shrink.program(plan, crossed, params, X)
    with pytest.raises(ValueError, match="units must stay because of an output"):
        _ = shrink.program(plan, lambda p, x: (fn(p, x), x @ p["a"]), params, X)
    other = lambda p, x: fn(p, x) + jnp.max(x @ p["a"])
    with pytest.raises(
        ValueError, match=r"reduce_max at test_program.py:\d+ reads units"
    ):
        _ = shrink.program(plan, other, params, X)


def test_what_runs_the_function_itself_refuses_a_plan_for_programs():
    fn, params = between(lambda h, p: jnp.tanh(h)), two_layers()
    plan = shrink.plan(fn, params, X, for_program=True)
    small = shrink.apply(plan, params)
    with pytest.raises(ValueError, match="`small_fn` must be what `program` returns"):
        _ = shrink.verify(fn, params, small, X, plan=plan)
    with pytest.raises(ValueError, match="got one with `for_program=True`"):
        shrink.slice_module(plan, {"a": params["a"]})
    small_fn = shrink.program(plan, fn, params, X)
    found = shrink.verify(fn, params, small, X, plan=plan, small_fn=small_fn)
    assert found.relative < TOLERANCE


def test_a_module_that_checks_shapes_hears_of_programs():
    params = Heads().init(KEY, X)
    kernel = params["params"]["Dense_1"]["kernel"]
    params["params"]["Dense_1"]["kernel"] = kernel.at[8:].set(0)
    plan = shrink.plan(Heads().apply, params, X)
    small = shrink.apply(plan, params, rebuilt=True)
    with pytest.raises(Exception, match="shape") as caught:
        _ = shrink.verify(Heads().apply, params, small, X)
    assert "shrink.program" in "".join(caught.value.__notes__)


def test_the_report_counts_entries():
    fn = lambda p, x: jnp.tanh(x @ p["a"]) @ p["o"]
    small_fn, _ = check(fn, two_layers(), X)
    rows = small_fn.report()
    assert [row.primitive for row in rows] == ["dot_general", "dot_general", "tanh"]
    assert [row.before for row in rows] == [30 + 48 + 40, 40 + 24 + 15, 80]
    assert [row.after for row in rows] == [30 + 30 + 25, 25 + 15 + 15, 50]
    assert not any(row.whole for row in rows)
    assert str(small_fn) == (
        "3 equations run small, 0 at full size: 277 entries before, 190 after"
    )
    assert rows[0].where.startswith("test_program.py:")


@pytest.mark.parametrize("name", ["gated", "attention", "scanned"])
def test_it_costs_what_the_function_costs_that_follows(name):
    fn, shapes, x, _ = BY_NAME[name]
    x = normal(*x.shape)
    params = with_dead_units(fn, drawn(shapes), x)
    plan = shrink.plan(fn, params, x)
    small, small_fn = shrink.apply(plan, params), shrink.program(plan, fn, params, x)
    flops = [
        jax.jit(f).lower(p, x).compile().cost_analysis()["flops"]
        for f, p in ((small_fn, small), (fn, small), (fn, params))
    ]
    assert flops[0] == flops[1] < flops[2]


def test_what_the_context_asks_for_is_heard_at_every_call():
    fn = between(lambda h, p: jnp.tanh(h))
    small_fn, small = check(fn, two_layers(), X)
    with jax.default_matmul_precision("highest"):
        inside = str(jax.make_jaxpr(small_fn)(small, X))
    assert "HIGHEST" in inside
    assert "HIGHEST" not in str(jax.make_jaxpr(small_fn)(small, X))


@pytest.mark.filterwarnings("ignore:all units are zero:UserWarning")
def test_it_says_so_where_removed_units_are_zero_because_of_what_stays():
    """Their part of the derivative of what stays is left out."""
    params = {
        "stream": jnp.zeros((3, 2)),
        "up": jnp.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]),
        "down": jnp.ones((4, 2)),
    }

    def fn(params, x):
        stream = x @ params["stream"]
        stream = stream / jnp.sqrt(1 + jnp.mean(stream**2, axis=-1, keepdims=True))
        return jnp.tanh(stream @ params["up"]) @ params["down"]

    x = jnp.ones((2, 3))
    plan = shrink.plan(fn, params, x)
    assert len(plan.kept["up"][1]) == 1  # tanh(0) = 0
    small_fn, small = shrink.program(plan, fn, params, x), shrink.apply(plan, params)
    of_stream = lambda fn, params: jax.grad(lambda p: fn(p, x).sum())(params)["stream"]
    assert of_stream(fn, params).sum() > of_stream(small_fn, small).sum()
    assert "which stay: they are those of the params that were planned" in str(small_fn)
