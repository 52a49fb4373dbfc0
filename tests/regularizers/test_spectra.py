"""The shrinkage of singular values by both of its routes, against double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj

pytestmark = pytest.mark.costly

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


def test_rank_in_a_metric_is_kept_and_stationary(x64):
    generator = np.random.default_rng(0)
    x, d = generator.normal(size=(2, 5, 4))
    d = np.exp(d)
    best = rj.regularizers.max_rank(2)
    plain = best.prox(x, 1.0)
    options = {"start": plain, "rtol": 1e-8, "max_iters": 10_000}
    found = best.solve_metric_prox(x, 1.0, d, **options)
    assert found.converged
    assert best.value(found.x) == 0
    loss = lambda y: np.sum(d * np.square(np.asarray(y) - x))
    assert loss(found.x) < loss(plain)
    # No direction within the matrices of rank 2 lowers the loss.
    u, _, vt = np.linalg.svd(np.asarray(found.x))
    slope = d * (np.asarray(found.x) - x)
    tangent = [u[:, :2].T @ slope, slope @ vt[:2].T]
    assert max(np.abs(t).max() for t in tangent) <= 1e-6 * np.abs(slope).max()


def test_a_matrix_of_low_rank_keeps_its_bits():
    x = np.outer([1.0, 2.0, 3.0], [0.1, 0.7, -0.3, 0.2]).astype(np.float32)
    np.testing.assert_array_equal(rj.regularizers.max_rank(1).prox(x, 1.0), x)
    assert (np.asarray(rj.regularizers.max_rank(0).prox(x, 1.0)) == 0).all()
