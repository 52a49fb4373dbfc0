"""A CNN and a vision transformer, with zeros in half their units, made smaller."""

import jax
from flax import nnx

import rmda_jax as rj
from examples.carry.small import Small
from examples.shrink.cases import SEED, Fn, Options, function_of, imposed, lenet5
from examples.shrink.models import VisionTransformer

BATCH = 64


def of_zeros(title: str, fn: Fn, zeros: nnx.State, x: jax.Array) -> Small:
    """Return the model without its zeros, for any batch size."""
    plan = rj.shrink.plan(fn, zeros, x)
    sizes = ", ".join(map(str, ("b", *x.shape[1:])))
    params = rj.shrink.apply(plan, zeros)
    return Small(title, fn, params, dict(plan.widths), x, sizes, sizes)


def cnn() -> Small:
    """Return LeNet-5 of images of 28x28."""
    case = lenet5(Options())
    return of_zeros(case.title, case.fn, case.params, case.inputs[:BATCH])


def vit() -> Small:
    """Return the vision transformer of images of 8x8."""
    fn, params = function_of(VisionTransformer(rngs=nnx.Rngs(SEED)))
    x = jax.random.normal(jax.random.key(SEED), (BATCH, 8, 8, 1))
    zeros = imposed(fn, params, x, share=0.5)
    return of_zeros("vision transformer", fn, zeros, x)


CASES = {"cnn": cnn, "vit": vit}
