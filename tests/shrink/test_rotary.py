"""Dimensions of queries and keys rotate in pairs: both of a pair go, by program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rmda_jax import shrink
from tests._x64 import float64

pytestmark = pytest.mark.costly

LENGTH, WIDTH, HEADS, SIZE = 5, 6, 2, 8
HALVES, PAIRS = [1, 2, 5, 6], [2, 3, 6, 7]  # two pairs: (i, i + 4), or (2i, 2i + 1)


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def drawn(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).normal(size=shape)


def tables(length):
    """Return cosines and sines, of shape (length, 1, pairs)."""
    frequencies = 100.0 ** (-jnp.arange(0, SIZE, 2) / SIZE)
    angles = jnp.arange(length)[:, None, None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def halves_rotated(x, cos, sin):
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = (jnp.concatenate([table, table], -1) for table in (cos, sin))
    return x * cos + jnp.concatenate([-second, first], -1) * sin


def halves_apart(x, cos, sin):
    first, second = x[..., : SIZE // 2], x[..., SIZE // 2 :]
    rotated = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(rotated, -1)


def halves_rolled(x, cos, sin):
    cos = jnp.concatenate([cos, cos], -1)
    return x * cos + jnp.roll(x, SIZE // 2, -1) * jnp.concatenate([-sin, sin], -1)


def pairs_reshaped(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    rotated = [first * cos - second * sin, first * sin + second * cos]
    return jnp.stack(rotated, -1).reshape(x.shape)


def pairs_strided(x, cos, sin):
    first, second = x[..., ::2], x[..., 1::2]
    rotated = [first * cos - second * sin, first * sin + second * cos]
    return jnp.stack(rotated, -1).reshape(x.shape)


def pairs_repeated(x, cos, sin):
    cos, sin = (jnp.repeat(table, 2, axis=-1) for table in (cos, sin))
    rotated = jnp.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * cos + rotated * sin


def pairs_complex(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    turned = lax.complex(pairs[..., 0], pairs[..., 1]) * (cos + 1j * sin)
    return jnp.stack([turned.real, turned.imag], -1).reshape(x.shape)


SPELLINGS = {
    halves_rotated: HALVES,
    halves_apart: HALVES,
    halves_rolled: HALVES,
    pairs_reshaped: PAIRS,
    pairs_strided: PAIRS,
    pairs_repeated: PAIRS,
    pairs_complex: PAIRS,
}


def attention(rotated, where="in the function"):
    """Return a function of params, a sequence and, as inputs, tables."""
    stored = [np.asarray(table) for table in tables(LENGTH)]

    def fn(params, x, *inputs):
        found = {"in the function": tables(len(x)), "constants": stored}
        cos, sin = found.get(where, inputs)
        q, k, v = (jnp.einsum("td,dhe->the", x, params[name]) for name in "qkv")
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        k, v = (jnp.repeat(y, HEADS // y.shape[1], axis=1) for y in (k, v))
        weights = jax.nn.softmax(jnp.einsum("the,she->hts", q, k) / SIZE**0.5)
        return jnp.einsum("hts,she,hed->td", weights, v, params["o"])

    return fn


def params_of(gone, *, leaf="q", kv_heads=HEADS):
    heads = {"q": HEADS, "k": kv_heads, "v": kv_heads}
    params = {
        name: drawn(WIDTH, n, SIZE, seed=i) for i, (name, n) in enumerate(heads.items())
    }
    params[leaf][..., gone] = 0
    return params | {"o": drawn(HEADS, SIZE, WIDTH)}


def sizes(plan):
    return plan.widths["q"][-1], plan.widths["k"][-1], plan.widths["v"][-1]


def check(fn, params, *inputs):
    """Plan for a program, and compare the program with the function."""
    plan = shrink.plan(fn, params, *inputs, for_program=True)
    small_fn = shrink.program(plan, fn, params, *inputs)
    found = small_fn(shrink.apply(plan, params), *inputs)
    wanted = jax.jit(fn)(params, *inputs)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
    return plan, small_fn


@pytest.mark.parametrize("kv_heads", [HEADS, 1])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pairs_go_that_are_zero_in_queries_or_keys(spelling, kv_heads):
    leaf = "q" if kv_heads == HEADS else "k"
    params = params_of(SPELLINGS[spelling], leaf=leaf, kv_heads=kv_heads)
    plan, small_fn = check(attention(spelling), params, drawn(LENGTH, WIDTH))
    assert sizes(plan) == (SIZE - 4, SIZE - 4, SIZE)
    assert not any(row.whole for row in small_fn.report())


@pytest.mark.parametrize("where", ["constants", "inputs"])
@pytest.mark.parametrize("spelling", [halves_apart, pairs_complex])
def test_tables_may_be_constants_or_inputs(spelling, where):
    inputs = tables(LENGTH) if where == "inputs" else ()
    params = params_of(SPELLINGS[spelling])
    fn = attention(spelling, where)
    plan, small_fn = check(fn, params, drawn(LENGTH, WIDTH), *inputs)
    assert sizes(plan) == (SIZE - 4, SIZE - 4, SIZE)
    if where == "inputs":  # of another length
        x, small = drawn(9, WIDTH), shrink.apply(plan, params)
        found, wanted = small_fn(small, x, *tables(9)), fn(params, x, *tables(9))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spelling", [halves_rotated, pairs_reshaped, pairs_strided])
def test_halves_of_pairs_stay(spelling):
    gone = SPELLINGS[spelling][:1]  # of one pair one of the two
    plan, _ = check(attention(spelling), params_of(gone), drawn(LENGTH, WIDTH))
    assert sizes(plan) == (SIZE, SIZE, SIZE)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("in the function", "iota"),
        ("constants", "a constant array"),
        ("inputs", "an input"),
    ],
)
def test_a_plan_for_the_function_itself_says_why_pairs_stay(where, reason):
    inputs = tables(LENGTH) if where == "inputs" else ()
    fn, params = attention(pairs_strided, where), params_of(PAIRS)
    plan = shrink.plan(fn, params, drawn(LENGTH, WIDTH), *inputs)
    assert sizes(plan) == (SIZE, SIZE, SIZE)
    (row,) = (row for row in str(plan).splitlines() if row.startswith("k[2] q[2]"))
    assert reason in row


def groups_of(rule):
    return rule.regularizer.geometry.groups


@pytest.mark.parametrize("spelling", [halves_rotated, pairs_strided, pairs_complex])
def test_rules_for_pairs(spelling):
    fn, x = attention(spelling), drawn(LENGTH, WIDTH)
    options = {"side": "producers", "for_program": True, "where": ["q", "k"]}
    rules = shrink.group_rules(fn, params_of([]), x, **options)
    (rule,) = rules.rules
    assert set(rule.patterns) == {"k", "q"}
    i = SPELLINGS[spelling][0]
    j = i + (SIZE // 2 if spelling is halves_rotated else 1)
    for ids in groups_of(rule):
        assert ids[i] == ids[j]
        assert sorted(set(ids)) == list(range(SIZE // 2))


def test_features_of_the_data_are_inputs_still():
    """Weights read them: they stay, also where a table has their axis."""

    def fn(params, x, table):
        h = x + jnp.tanh((x * table) @ params["in"]) @ params["out"]
        return h @ params["head"]

    shapes = {"in": (WIDTH, 3), "out": (3, WIDTH), "head": (WIDTH, 2)}
    params = {name: drawn(*shape) for name, shape in shapes.items()}
    params["in"][1], params["out"][:, 1], params["head"][1] = 0, 0, 0
    plan, _ = check(fn, params, drawn(LENGTH, WIDTH), drawn(WIDTH))
    assert plan.widths["in"] == (WIDTH, 3)


@pytest.mark.parametrize("start", [0, 1])
def test_strides_over_what_is_no_row_read_all(start):
    fn = lambda params, x: jnp.tanh(x @ params["in"])[:, start:6:2] @ params["out"]
    params = {"in": drawn(WIDTH, 7), "out": drawn(3, 2)}
    params["in"][:, 5 - start] = 0
    plan, _ = check(fn, params, drawn(LENGTH, WIDTH))
    assert plan.widths["in"] == (WIDTH, 6)
