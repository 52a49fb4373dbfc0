"""The shrinkage of singular values by both of its routes, against double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj

# By eigenvalues where 4 % of the largest singular value is shrunk away.
prox = jax.jit(rj.nuclear_norm().prox)
SHARES = (0.9, 0.3, 0.06, 0.02, 1e-3, 0.0)


def matrix(shape, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=shape) * np.logspace(0, -3, shape[-1])).astype("f4")


def shrunk(x, threshold):
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    return (u * np.maximum(s - threshold, 0)) @ vt


@pytest.mark.parametrize("shape", [(64, 64), (256, 64), (64, 256)])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_both_routes_are_exact(shape, share, scale):
    x = np.float32(scale) * matrix(shape)
    largest = np.linalg.norm(x, 2)
    got = np.asarray(prox(x, share * largest))
    error = np.linalg.norm(got - shrunk(x, float(share * largest)), 2)
    assert error <= 4e-6 * largest  # measured: 1.4e-6


def primitives(fn, *args):
    """Return the names of the primitives that a function uses, branches included."""
    names, waiting = set(), [jax.make_jaxpr(fn)(*args).jaxpr]
    while waiting:
        for equation in waiting.pop().eqns:
            names.add(equation.primitive.name)
            for value in jax.tree.leaves(
                equation.params, is_leaf=lambda x: hasattr(x, "jaxpr")
            ):
                if hasattr(value, "jaxpr"):
                    waiting.append(value.jaxpr)
    return names


def test_rank_after_either_route():
    x = matrix((96, 48))
    s = np.linalg.svd(x, compute_uv=False)
    for index in (5, 30):  # by eigenvalues, by an SVD
        p = rj.nuclear_norm().prox(x, (s[index] + s[index + 1]) / 2)
        assert int(rj.nuclear_norm().support(p).sum()) == index + 1


def test_a_batch_takes_the_svd_if_one_matrix_needs_it():
    x = np.stack([matrix((32, 16)), 100 * matrix((32, 16), seed=1)])
    threshold = 0.3 * np.linalg.norm(x[0], 2)
    got = np.asarray(rj.nuclear_norm().prox(x, threshold))
    for matrix_, result in zip(x, got, strict=True):
        error = np.linalg.norm(result - shrunk(matrix_, float(threshold)), 2)
        assert error <= 4e-6 * np.linalg.norm(matrix_, 2)


def test_nan_is_not_shrunk_away():
    x = jnp.asarray(matrix((8, 8))).at[0, 0].set(jnp.nan)
    assert jnp.isnan(rj.nuclear_norm().prox(x, 1.0)).any()


def test_eigenvalues_are_there_beside_the_svd():
    names = primitives(rj.nuclear_norm().prox, jnp.ones((8, 4)), 1.0)
    assert {"eigh", "svd", "cond"} <= names
