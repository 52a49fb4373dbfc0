"""What is compared is what was before with what is after."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from rmda_jax import shrink
from tests.shrink.test_apply import mlp, planned
from tests.shrink.test_trace import X, normal


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


def sliced(copied):
    """Slice a module in place; return what was split of it before, and is after."""
    net = Net(nnx.Rngs(0))
    net.head.kernel[...] = net.head.kernel[...].at[3:].set(0)
    graph, params = nnx.split(net)
    fn = lambda p, x: nnx.merge(graph, p)(x)
    plan = shrink.plan(fn, params, X)
    if copied:
        params = jax.tree.map(jnp.copy, params)
    shrink.slice_module(plan, net)
    net.hidden.kernel[...] *= 7  # a mistake that is to be found
    return fn, params, nnx.state(net), plan


def shares_variables():
    net = Net(nnx.Rngs(0))
    return nnx.split(net)[1].hidden.kernel is net.hidden.kernel


@pytest.mark.skipif(not shares_variables(), reason="Flax copied them until 0.12")
def test_variables_that_were_sliced_in_place_are_not_compared_with_themselves():
    fn, params, small, plan = sliced(copied=False)
    for given in (None, plan):
        with pytest.raises(ValueError, match=r"same Variables in both.*jnp.copy"):
            _ = shrink.verify(fn, params, small, X, plan=given)
    small = jax.tree.map(jnp.copy, small)
    message = (
        r"`params` must have the plan's shape \(6, 3\) of 'head/kernel', got \(3, 3\)"
    )
    with pytest.raises(ValueError, match=message):
        _ = shrink.verify(fn, params, small, X, plan=plan)
    with pytest.raises(ValueError, match=message):
        _ = shrink.report(fn, params, small, X, plan=plan)
    with pytest.warns(
        UserWarning, match="have the same shapes: either nothing was cut"
    ):
        _ = shrink.verify(fn, params, small, X)


def test_a_copy_finds_what_went_wrong():
    fn, params, small, plan = sliced(copied=True)
    assert shrink.verify(fn, params, small, X, plan=plan).relative > 1


def test_small_params_must_have_the_widths_of_the_plan():
    params, plan = planned()
    with pytest.raises(ValueError, match=r"`small_params` must have the plan's shape"):
        _ = shrink.verify(mlp, params, params, X, plan=plan)
    small = shrink.apply(plan, params)
    assert shrink.verify(mlp, params, small, X, plan=plan).max_abs < 2e-6


def test_a_plan_that_cuts_nothing_is_verified_without_a_word():
    params = normal({"in": (4, 6), "bias": (6,), "out": (6, 3), "shift": (3,)})
    plan = shrink.plan(mlp, params, X)
    small = shrink.apply(plan, params)
    assert shrink.verify(mlp, params, small, X, plan=plan).max_abs == 0
