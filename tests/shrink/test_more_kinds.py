"""LoRA on a closed-over base, fused q, k and v under norms, experts, shifts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink.test_program import check, drawn, normal
from tests.shrink.test_recomputed import by_variance, zeros

pytestmark = pytest.mark.costly

HEADS, SIZE = 4, 3
DEAD = np.r_[3:6, 9:12]  # the rows of two heads in the output projection


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


class Adapted(nnx.Module):
    """Two dense layers with LoRA."""

    def __init__(self, rngs):
        options = {"lora_rank": 2, "rngs": rngs, "param_dtype": jnp.float64}
        options["lora_param_dtype"] = jnp.float64
        self.up = nnx.LoRALinear(4, 6, **options)
        self.down = nnx.LoRALinear(6, 3, **options)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))


@pytest.mark.not_daily
def test_lora_of_nnx_goes_with_a_base_that_is_closed_over():
    module = Adapted(nnx.Rngs(0))
    for i, layer in enumerate((module.up, module.down)):
        layer.lora.lora_b[...] = normal(*layer.lora.lora_b.shape, seed=i)
    # Of the hidden units two are read neither by the base nor by LoRA, and one rank
    # is made of nothing.
    for x in (module.down.kernel, module.down.lora.lora_a):
        x[...] = x[...].at[1:3].set(0)
    module.up.lora.lora_a[...] = module.up.lora.lora_a[...].at[:, 1].set(0)
    graph, params, base = nnx.split(module, nnx.LoRAParam, ...)
    fn = lambda p, x: nnx.merge(graph, p, base)(x)
    _, small = check(fn, params, normal(7, 4), other=normal(2, 4))
    assert small["up"]["lora"]["lora_a"].shape == (4, 1)
    assert small["up"]["lora"]["lora_b"].shape == (1, 4)
    assert small["down"]["lora"]["lora_a"].shape == (4, 2)
    # What the base reads stays.
    module.down.kernel[...] = module.down.kernel[...].at[1].set(1)
    _, _, base = nnx.split(module, nnx.LoRAParam, ...)
    fn = lambda p, x: nnx.merge(graph, p, base)(x)
    plan = shrink.plan(fn, params, normal(7, 4), for_program=True)
    assert plan.widths["down/lora/lora_a"] == (5, 2)


def by_squares_alone(x):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def attention(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / SIZE**0.5)
    return jnp.einsum("hts,shd->thd", weights, v).reshape(len(q), HEADS * SIZE)


def stacked(p, x):
    y = (x @ p["qkv"] + p["bias"]).reshape(len(x), 3, HEADS, SIZE)
    q, k, v = jnp.moveaxis(y, 1, 0)
    return attention(by_squares_alone(q) * p["gain"], by_squares_alone(k), v) @ p["out"]


def side_by_side(p, x):
    y = (x @ p["qkv"] + p["bias"]).reshape(len(x), HEADS, 3 * SIZE)
    q, k, v = jnp.split(y, 3, axis=-1)
    return attention(by_variance(q) * p["gain"], by_variance(k), v) @ p["out"]


def over_all_heads(p, x):
    q, k, v = jnp.split(x @ p["qkv"] + p["bias"], 3, axis=-1)
    heads = (by_squares_alone(q), by_squares_alone(k), v)
    return attention(*(y.reshape(len(x), HEADS, SIZE) for y in heads)) @ p["out"]


FUSED = {"qkv": (4, 36), "bias": (36,), "gain": (3,), "out": (12, 5)}


@pytest.mark.parametrize("fn", [stacked, side_by_side])
def test_heads_go_whose_queries_and_keys_are_normalized(fn):
    params = zeros(drawn(FUSED), out=(0, DEAD))
    _, small = check(fn, params, normal(7, 4), other=normal(2, 4))
    assert small["qkv"].shape == (4, 18)
    assert small["gain"].shape == (3,)


def test_heads_stay_whose_queries_are_normalized_with_those_of_others():
    shapes = {name: FUSED[name] for name in ("qkv", "bias", "out")}
    params = zeros(drawn(shapes), out=(0, DEAD))
    x = normal(7, 4)
    plan = shrink.plan(over_all_heads, params, x, for_program=True)
    assert plan.widths["qkv"] == (4, 36)
    # They go if they add nothing to the sum of squares.
    of_both = np.concatenate([DEAD, 12 + DEAD])
    params = zeros(params, qkv=(1, of_both), bias=(0, of_both))
    _, small = check(over_all_heads, params, x)
    assert small["qkv"].shape == (4, 18)


def shuffled(p, x):
    h = jnp.tanh(x @ p["in"])
    return h.reshape(len(x), 2, 3).swapaxes(1, 2).reshape(len(x), 6) @ p["out"]


@pytest.mark.parametrize(("rows", "width"), [([2, 3], 4), ([2], 6)])
def test_a_kernel_that_is_shuffled_loses_whole_rows_of_the_reshape(rows, width):
    # Rows 2 and 3 of "out" read columns 1 and 4 of "in", of one place in either group.
    params = zeros(drawn({"in": (4, 6), "out": (6, 3)}), out=(0, rows))
    _, small = check(shuffled, params, normal(7, 4), goes=width < 6)
    assert small["in"].shape == (4, width)


def by_groups(p, x):
    """Multiply each row by the matrices of its expert; rows are sorted by experts."""
    sizes = jnp.array([1, 0, len(x) - 1])
    h = jnp.tanh(jax.lax.ragged_dot(x, p["up"], sizes))
    return jax.lax.ragged_dot(
        h * jax.lax.ragged_dot(x, p["gate"], sizes), p["down"], sizes
    )


EXPERTS = {"up": (3, 4, 6), "gate": (3, 4, 6), "down": (3, 6, 2)}


def test_hidden_units_of_experts_by_ragged_products():
    x, params = normal(5, 4), drawn(EXPERTS)
    (rule,) = shrink.group_rules(by_groups, params, x).rules
    assert rule.pattern == "down"
    # One unit that no expert reads, and one that none makes; a third has one reader.
    params["down"] = params["down"].at[:, 1].set(0).at[:2, 4].set(0)
    params["gate"] = params["gate"].at[:, :, 3].set(0)
    _, small = check(by_groups, params, x, other=normal(3, 4))
    assert small["down"].shape == (3, 4, 2)
    assert small["up"].shape == small["gate"].shape == (3, 4, 4)


def test_rows_of_experts_are_no_terms_of_a_bias():
    # Known rows times known matrices: what an expert adds depends on the group sizes.
    def fn(p, x):
        h = jax.lax.ragged_dot(
            jnp.tanh(x @ p["in"] + p["b"]), p["up"], jnp.array([2, 3])
        )
        return h + p["c"]

    params = drawn({"in": (4, 3), "b": (3,), "up": (2, 3, 2), "c": (2,)})
    params["in"] = params["in"].at[:, 1].set(0)
    plan = shrink.plan(fn, params, normal(5, 4), for_program=True)
    assert plan.widths["up"] == (2, 3, 2)
    assert not plan.folds


def test_zeros_that_two_concatenations_share_couple_nothing():
    """Channels move a step to the left, or to the right, and zeros follow."""

    def shifted(p, x):
        h = x @ p["in"]
        zeros = jnp.zeros_like(h[:, :1, :2])
        left = jnp.concatenate([h[:, 1:, :2], zeros], axis=1)
        right = jnp.concatenate([zeros, h[:, :-1, 2:4]], axis=1)
        return jnp.tanh(jnp.concatenate([left, right, h[..., 4:]], axis=2)) @ p["out"]

    params = drawn({"in": (4, 7), "out": (7, 2)})
    params["out"] = params["out"].at[jnp.array([1, 2, 6])].set(0)
    _, small = check(shifted, params, normal(2, 3, 4), other=normal(3, 3, 4))
    assert small["in"].shape == (4, 4)


@pytest.mark.parametrize("custom", [jax.custom_jvp, jax.custom_vjp])
def test_what_has_a_custom_derivative_may_close_over_an_array(custom):
    scale = jnp.arange(1.0, 7)

    def fn(p, x):
        @custom
        def scaled(h):
            return jnp.sin(h) * scale

        if custom is jax.custom_jvp:
            scaled.defjvp(lambda h, t: (scaled(*h), 3 * t[0] * scale))
        else:
            scaled.defvjp(lambda h: (scaled(h), None), lambda _, y: (3 * y * scale,))
        return scaled(x @ p["in"]) @ p["out"]

    params = drawn({"in": (4, 6), "out": (6, 2)})
    params["out"] = params["out"].at[1:3].set(0)
    check(fn, params, normal(3, 4), other=normal(5, 4))


@pytest.mark.filterwarnings("ignore:all units are zero")
def test_heads_stay_where_nothing_is_left_of_queries_and_keys():
    def fn(p, x):
        q, k, v = ((x @ p[name]).reshape(-1, 2, 3) for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k))
        return jnp.einsum("hts,shd->thd", weights, v).reshape(-1, 6) @ p["o"]

    params = drawn({"q": (4, 6), "k": (4, 6), "v": (4, 6), "o": (6, 2)})
    params["q"] = jnp.zeros_like(params["q"])
    params["o"] = params["o"].at[jnp.array([1, 3, 4, 5])].set(0)  # and a whole head
    _, small = check(fn, params, normal(5, 4), other=normal(3, 4))
    widths = {name: small[name].shape[1] for name in "qkv"}
    assert widths == {"q": 0, "k": 0, "v": 2}


@pytest.mark.filterwarnings("ignore:all units are zero")
@pytest.mark.parametrize("fn", [stacked, side_by_side])
def test_nothing_is_left_of_fused_heads_that_nothing_reads(fn):
    # Their kernel has an index, too, that tells queries from keys and must stay.
    params = zeros(drawn(FUSED), out=(0, np.arange(12)))
    _, small = check(fn, params, normal(7, 4), other=normal(2, 4))
    assert small["qkv"].shape == (4, 0)


@pytest.mark.filterwarnings("ignore:all units are zero")
def test_units_that_are_read_stay_where_nothing_is_left_of_the_rows_that_they_share():
    # Rows of "out" are positions times units: all positions go, and the units stay.
    def fn(p, x):
        h = jnp.tanh(x @ p["in"]).cumsum(-1)
        h = h * h.mean(-1, keepdims=True)
        return h[:, ::-1].reshape(len(x), -1) @ p["out"]

    params = drawn({"in": (4, 3), "out": (15, 2)})
    params["out"] = jnp.zeros_like(params["out"])
    _, small = check(fn, params, normal(2, 5, 4), other=normal(3, 5, 4))
    assert small["in"].shape == (4, 3)
    assert small["out"].shape == (0, 2)
