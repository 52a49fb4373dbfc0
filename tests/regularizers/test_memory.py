"""Temporaries grow like the array, on every platform and whatever is asked.

Programs are lowered for accelerators that need not be there, and read, not run.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from tests._daily import first_of_each
from tests._table import ARGUMENTS, kind, regularizer

pytestmark = pytest.mark.costly

PLATFORMS = ("cpu", "cuda", "tpu")
# One axis grows, from where the solvers for large matrices take over. A Gram matrix has
# the side of the other one.
LENGTHS = 2048, 8192
SHAPES = {"l_half_ball": lambda n: (n,)}


def everything(regularizer):
    """Return a function of array and step size that asks all there is to ask."""

    def answers(x, t):
        return (
            regularizer.prox(x, t),
            regularizer.metric_prox(x, t, jnp.exp(x)),
            regularizer.value(x),
            regularizer.snap(x),
            regularizer.support(x),
            regularizer.prox_support(x, t),
            regularizer.subgradient_distance(x, x, t),
        )

    return answers


def largest_array(function, shape) -> int:
    """Return the size of the largest array that the lowered program mentions."""
    lowered = export.export(jax.jit(function), platforms=PLATFORMS)
    text = lowered(
        jax.ShapeDtypeStruct(shape, jnp.float32), np.float32(1)
    ).mlir_module()
    sizes = re.findall(r"tensor<((?:\d+x)+)\w+>", text)
    return max(math.prod(map(int, size[:-1].split("x"))) for size in sizes)


@pytest.mark.parametrize(
    "name", first_of_each(lambda name: kind(regularizer(name)), ARGUMENTS)
)
def test_no_array_grows_faster_than_the_argument(name):
    shape = SHAPES.get(name, lambda n: (8, n))
    small, large = (
        largest_array(everything(regularizer(name)), shape(n)) for n in LENGTHS
    )
    assert large <= 4 * small


def test_a_square_of_the_argument_is_found():
    square = lambda x, t: t * jnp.sum(jnp.abs(x[:, None] - x[None]))
    assert largest_array(square, (128,)) == 128**2


def test_the_l_half_ball_takes_its_samples_one_at_a_time():
    n = 4096
    x, t = jax.ShapeDtypeStruct((n,), jnp.float32), np.float32(1)
    program = jax.jit(regularizer("l_half_ball").prox).lower(x, t).compile()
    assert program.memory_analysis().temp_size_in_bytes <= 64 * n
