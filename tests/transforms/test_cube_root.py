"""RAMDA's cube root against NumPy's in double precision, over all of float32."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmda_jax.transforms._cube_root import cube_root

SMALLEST, LARGEST = 0x00800000, 0x7F7FFFFF  # bits of the normal floats


@pytest.mark.parametrize(("least", "ulps"), [(0.0, 4), (1e-30, 1)])
def test_cube_root_is_right_to_the_last_place(least, ulps):
    bits = np.arange(SMALLEST, LARGEST, 997, dtype=np.uint32)
    x = bits.view(np.float32)
    x = x[x > least]
    truth = np.cbrt(x.astype(np.float64))
    error = np.abs(np.asarray(jax.jit(cube_root)(x), np.float64) - truth)
    # Measured: 3.3 units, and 0.74 where no remainder is subnormal.
    assert np.max(error / np.spacing(truth.astype(np.float32))) < ulps


def test_cube_root_of_what_is_no_number_of_the_middle():
    x = jnp.array([0.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(cube_root(x), [0.0, np.inf, np.nan])


def test_cube_root_has_its_derivative():
    assert jax.grad(cube_root)(jnp.float32(8)) == pytest.approx(1 / 12, rel=1e-6)


def test_cube_root_of_doubles_is_that_of_numpy(x64):
    x = np.geomspace(1e-300, 1e300, 1000)
    root = np.asarray(cube_root(jnp.asarray(x)))
    # JAX's own, less exact (measured: 1.3e-14) in JAX 0.6, and as the tests compile it
    # by default.
    exact = jax.__version_info__ >= (0, 7) and "RMDA_LONG" in os.environ
    rtol = 1e-15 if exact else 2e-14
    np.testing.assert_allclose(root, np.cbrt(x), rtol=rtol)
