"""The networks of the examples by `program`: zeros go, and outputs are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rmda_jax as rj
from examples.poster.models import VGG19, ResNet50, SmallLeNet5
from examples.shrink import cases
from examples.shrink.models import LanguageModel, VisionTransformer
from examples.zoo.measure import zeroed
from tests._x64 import float64

pytestmark = pytest.mark.costly


class SmallVGG(VGG19):
    stages = ((4, 1), (4, 2), (6, 1), (6, 1), (6, 1))


class SmallResNet(ResNet50):
    stages = ((4, 1, 1), (4, 2, 2))


NETWORKS = {
    "lenet5": (SmallLeNet5, (2, 28, 28, 1)),
    "vgg": (SmallVGG, (1, 32, 32, 3)),
    "resnet": (SmallResNet, (1, 8, 8, 3)),
    "vit": (lambda rngs: VisionTransformer(16, 2, 12, rngs=rngs), (2, 8, 8, 1)),
    "lm": (lambda rngs: LanguageModel(7, 16, 2, 12, rngs=rngs), (2, 5)),
}
OUTSIDE = {
    "an input",
    "an output",
    "the window of a convolution",
    "the space of a convolution",
    "an index",  # of the pairs that RoPE turns, and of positions
}


DAILY = "vit"


@pytest.mark.not_daily
@pytest.mark.parametrize(
    "name",
    [
        name if name == DAILY else pytest.param(name, marks=pytest.mark.long)
        for name in NETWORKS
    ],
)
def test_all_that_is_zero_goes_by_program_with_equal_outputs(name):
    make, shape = NETWORKS[name]
    fn, params = cases.function_of(make(rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=shape)
    x = np.arange(10).reshape(shape) % 7 if name == "lm" else x
    with float64():
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), params)
        params, chosen = zeroed(fn, params, x)
        plan = rj.shrink.plan(fn, params, x, for_program=True)
        small = rj.shrink.apply(plan, params)
        small_fn = rj.shrink.program(plan, fn, params, x)
        found = rj.shrink.verify(fn, params, small, x, small_fn=small_fn)
    assert found.max_abs <= 1e-9 * found.scale
    removed = sum(cut.removed.sum() for cut in plan.cuts)
    assert removed >= sum(mask.sum() for mask in chosen.values()) > 0
    frozen = set().union(*(cut.units.frozen for cut in plan.cuts))
    assert frozen <= OUTSIDE
