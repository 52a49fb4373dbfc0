"""Functions that keep sizes of their own do not go wrong in silence."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from rmda_jax import shrink
from rmda_jax.shrink._retrace import retrace
from tests.shrink.test_trace import normal

X = normal({"x": (8, 6)}, seed=1)["x"]


def attention(p, x, heads):
    """Attend with a number of heads that the params do not tell."""
    q, k, v = ((x @ p[n]).reshape(*heads, 3) for n in "qkv")
    weights = jax.nn.softmax(jnp.einsum("thc,shc->hts", q, k) / 3**0.5)
    return jnp.einsum("hts,shc->thc", weights, v).reshape(len(x), -1) @ p["o"]


def params_of_attention():
    params = normal({"q": (6, 12), "k": (6, 12), "v": (6, 12), "o": (12, 6)})
    params["o"] = params["o"].at[6:].set(0)  # what reads the last two of four heads
    return params


def its_own(p, x):
    return attention(p, x, heads=(-1, 4))


def called(p, x):
    return jax.jit(jax.checkpoint(its_own))(p, x)


def scanned(p, x):
    return jax.lax.scan(lambda h, _: (its_own(p, h), None), x, length=2)[0]


def from_params(p, x):
    return attention(p, x, heads=(len(x), p["q"].shape[1] // 3))


def inferred(p, x):
    """Two heads of a size that is inferred, so that cutting one makes both smaller."""
    q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(len(x), 3, 2, -1), 1, 0)
    context = jnp.einsum("thd,the->hde", jax.nn.softmax(k, 0), v)
    return jnp.einsum("hde,thd->the", context, q).reshape(len(x), -1) @ p["o"]


@pytest.mark.parametrize("fn", [its_own, called, scanned])
def test_a_number_of_heads_of_its_own_is_an_error_with_its_line(fn):
    params = params_of_attention()
    plan = shrink.plan(fn, params, X)
    (conflict,) = set(plan.conflicts)
    line = its_own.__globals__["attention"].__code__.co_firstlineno + 2
    assert conflict.where == f"test_retrace.py:{line}"
    assert (conflict.foreseen, conflict.found) == ((8, 2, 3), (4, 4, 3))
    said = (
        rf"reshape at test_retrace.py:{line}: \(8, 2, 3\) foreseen, \(4, 4, 3\) found"
    )
    with pytest.raises(ValueError, match=said):
        shrink.apply(plan, params)
    assert "the function does not follow: reshape" in str(plan)


def test_a_size_of_heads_that_is_inferred_is_an_error():
    params = normal({"qkv": (6, 24), "o": (8, 6)})
    params["o"] = params["o"].at[4:].set(0)
    plan = shrink.plan(inferred, params, X)
    with pytest.raises(ValueError, match=r"\(8, 3, 1, 4\) foreseen, \(8, 3, 2, 2\)"):
        shrink.apply(plan, params)


def test_the_remedies_of_the_message_work():
    params = params_of_attention()
    plan = shrink.plan(its_own, params, X)
    # Keep the units:
    couplings = shrink.trace(its_own, params, X)
    (place,) = plan.conflicts[0].units
    couplings = couplings.keep(*couplings.find(*place))
    keeping = shrink.plan(its_own, params, X, couplings=couplings)
    kept = shrink.apply(keeping, params)
    assert shrink.verify(its_own, params, kept, X, plan=keeping).max_abs == 0
    # Build the function anew:
    small = shrink.apply(plan, params, rebuilt=True)
    anew = functools.partial(attention, heads=(-1, 2))
    assert shrink.verify(its_own, params, small, X, small_fn=anew).relative < 1e-6
    # Take the size from the params:
    plan = shrink.plan(from_params, params, X)
    assert not plan.conflicts
    small = shrink.apply(plan, params)
    assert small["q"].shape == (6, 6)
    assert shrink.verify(from_params, params, small, X).relative < 1e-6


def test_states_of_a_function_with_sizes_of_its_own_are_sliced():
    # They come after the params, of which the error has told.
    params = params_of_attention()
    plan = shrink.plan(its_own, params, X)
    assert shrink.apply(plan, {"mu": params}, folds=False)["mu"]["q"].shape == (6, 6)
    assert shrink.apply(plan, optax.adam(0.1).init(params))[0].mu["q"].shape == (6, 6)


class Heads(nn.Module):
    """As linen's users write it: sizes in attributes, and params of checked shapes."""

    heads: int = 4

    @nn.compact
    def __call__(self, x):
        v = nn.Dense(16)(x).reshape(len(x), self.heads, -1)
        v = v * self.param("gain", nn.initializers.ones, (16,)).reshape(self.heads, -1)
        return nn.Dense(6)(jnp.tanh(v).reshape(len(x), -1))


def haiku_heads(x):
    v = hk.Linear(16)(x).reshape(len(x), 4, -1)
    return hk.Linear(6)(jnp.tanh(v * jnp.ones((4, 1))).reshape(len(x), -1))


def dead_tail(params, module):
    kernel = params[module]["w" if "w" in params[module] else "kernel"]
    return {
        **params,
        module: {
            name: x.at[len(x) // 2 :].set(0) if x is kernel else x
            for name, x in params[module].items()
        },
    }


def test_linen_whose_checks_of_shapes_refuse_small_params_is_compared():
    params = dead_tail(Heads().init(jax.random.key(0), X)["params"], "Dense_1")
    fn = lambda p, x: Heads().apply({"params": p}, x)
    plan = shrink.plan(fn, params, X)
    assert plan.error.startswith("ScopeParamShapeError: ")
    assert "reshape at test_retrace.py" in str(plan.conflicts[0])
    assert plan.conflicts[0].foreseen == (8, 2, 4)
    with pytest.raises(ValueError, match=r"\(8, 2, 4\) foreseen, \(8, 4, 2\)"):
        shrink.apply(plan, params)


def test_haiku_whose_checks_of_shapes_refuse_small_params_is_compared():
    net = hk.without_apply_rng(hk.transform(haiku_heads))
    params = dead_tail(net.init(jax.random.key(0), X), "linear_1")
    plan = shrink.plan(net.apply, params, X)
    assert "must match" in plan.error or "shape" in plan.error
    assert "reshape at test_retrace.py" in str(plan.conflicts[0])
    with pytest.raises(ValueError, match=r"foreseen, \(8, 4, "):
        shrink.apply(plan, params)


def test_linen_whose_sizes_are_its_layers_alone_has_no_conflict():
    model = nn.Sequential([nn.Dense(12), nn.LayerNorm(), nn.Dense(9), nn.relu])
    model = nn.Sequential([*model.layers, nn.Dense(6)])
    params = dead_tail(model.init(jax.random.key(0), X)["params"], "layers_4")
    fn = lambda p, x: model.apply({"params": p}, x)
    plan = shrink.plan(fn, params, X)
    assert plan.error.startswith("ScopeParamShapeError: ")
    assert plan.conflicts == ()
    assert plan.widths["layers_4/kernel"] == (4, 6)
    assert shrink.apply(plan, params)["layers_4"]["kernel"].shape == (4, 6)


def test_groups_of_linens_group_norm_stay():
    # Its eight groups would become smaller ones, with other means.
    net = nn.Sequential([nn.Dense(32), nn.GroupNorm(8), nn.Dense(2)])
    params = net.init(jax.random.key(0), X)["params"]
    kernel = params["layers_2"]["kernel"]
    params["layers_2"]["kernel"] = kernel.at[16:].set(0)
    fn = lambda p, x: net.apply({"params": p}, x)
    plan = shrink.plan(fn, params, X)
    small = shrink.apply(plan, params)
    assert plan.widths["layers_0/kernel"] == (6, 32)
    assert "the function computes with their number" in str(plan)
    assert shrink.verify(fn, params, small, X, plan=plan).max_abs == 0


class Module:
    """A module whose function takes the number of heads from an attribute."""

    def __init__(self, params, **sizes):
        self.q, self.k, self.v, self.o = (jnp.asarray(params[n]) for n in "qkvo")
        self.__dict__.update(sizes)


def test_slice_module_raises_if_no_attribute_is_the_size():
    params = params_of_attention()
    plan = shrink.plan(its_own, params, X)
    module = Module(params, n_heads=4)
    with pytest.raises(ValueError, match=r"give the size an attribute.*num_heads"):
        shrink.slice_module(plan, module)
    assert module.q.shape == (6, 12)  # and nothing was changed


def test_slice_module_takes_an_attribute_that_becomes_the_size():
    class Scaled:
        def __init__(self, params):
            self.a, self.scale, self.o = params["a"], params["scale"], params["o"]
            self.num_groups = 4

        def __call__(self, x):
            h = (x @ self.a * self.scale).reshape(len(x), self.num_groups, -1)
            return jnp.cumsum(h, -1).reshape(len(x), -1) @ self.o

    def fn(p, x):
        return Scaled(p)(x)

    params = normal({"a": (6, 16), "scale": (16,), "o": (16, 6)})
    params["o"] = params["o"].at[8:].set(0)
    plan, module = shrink.plan(fn, params, X), Scaled(params)
    assert plan.conflicts[0].sizes == {(4, 2), (2, 4)}
    before = module(X)
    shrink.slice_module(plan, module)
    assert module.num_groups == 2
    np.testing.assert_allclose(module(X), before, rtol=0, atol=4e-7)


def test_what_a_function_raises_on_small_params_is_said_in_the_plan():
    def fn(p, x):
        return (x @ p["in"]).reshape(len(x), 4, 3).reshape(len(x), -1) @ p["out"]

    params = normal({"in": (6, 12), "out": (12, 2)})
    params["out"] = params["out"].at[6:].set(0)
    plan = shrink.plan(fn, params, X)
    assert plan.error.startswith("TypeError: cannot reshape")
    assert "the function refuses the sliced params: TypeError" in str(plan)


def test_retrace_passes_small_params_for_old_ones_where_shapes_are_compared():
    def fn(p, x):
        kernel = p["kernel"]
        if kernel.shape != (6, 12):
            raise ValueError("not the shape that I initialize")
        y = (x @ kernel) * (2 * kernel[0]) + jnp.dot(x, kernel) - kernel.sum(0)
        return y / (1 + abs(kernel)[1] ** 2) @ kernel.T

    params = {"kernel": np.ones((6, 12), np.float32)}
    closed, error = retrace(fn, params, [(6, 5)], X)
    assert closed.out_avals[0].shape == (8, 6)
    assert error == "ValueError: not the shape that I initialize"
