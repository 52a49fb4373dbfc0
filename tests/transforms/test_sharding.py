"""Params sharded over eight devices give what they give on one."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from tests import _table
from tests._daily import product
from tests.transforms._table import (
    STEPS,
    assert_close,
    first,
    gradients,
    rows_of_factories,
    run,
    start,
    step_of,
)

pytestmark = pytest.mark.costly

KINDS = [AxisType.Auto, AxisType.Explicit]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)

# Shape of the mesh, and how the last axes (groups, outputs) lie on it.
LAYOUTS = {
    "groups on different devices": ((8,), ("x", None)),
    "groups across devices": ((8,), (None, "x")),
    "both": ((4, 2), ("x", "y")),
}


@contextlib.contextmanager
def mesh_of(shape, kind):
    """Put a mesh of CPU devices to use."""
    mesh = jax.make_mesh(
        shape,
        ("x", "y")[: len(shape)],
        axis_types=(kind,) * len(shape),
        devices=jax.devices("cpu")[:8],
    )
    use = jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh
    with use(mesh):
        yield mesh


def put(tree, mesh, spec):
    """Shard the last axes of every leaf."""

    def leaf(x):
        last = spec[-x.ndim :]
        padded = (None,) * (x.ndim - len(last)) + last
        return jax.device_put(x, NamedSharding(mesh, P(*padded)))

    return jax.tree.map(leaf, tree)


def gathered(tree):
    return jax.tree.map(np.asarray, tree)


def assert_sharded_alike(tree, desired):
    for x, y in zip(*map(jax.tree.leaves, (tree, desired)), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


def assert_same_zeros(tree, desired):
    for x, y in zip(*map(jax.tree.leaves, (tree, desired)), strict=True):
        np.testing.assert_array_equal(x == 0, y == 0)


@functools.cache
def unsharded(row):
    return gathered(run(row.make(), start(), gradients()))


def compare_run(row, layout, kind):
    """Hold a run on sharded params against that on one device."""
    shape, spec = LAYOUTS[layout]
    tx = row.make()
    step = jax.jit(step_of(tx))
    with mesh_of(shape, kind) as mesh:
        params = put(start(), mesh, spec)
        state = tx.init(params)
        for g in gradients():
            params, state = step(params, state, put(g, mesh, spec))
        assert_sharded_alike(params, put(start(), mesh, spec))
        sums = optax.tree.map_params(
            tx, lambda x: x, state, transform_non_params=lambda _: None
        )
        # Latent weights are those of some leaves only: which one is told by its shape.
        like = {x.shape: x for x in jax.tree.leaves(put(start(), mesh, spec))}
        assert jax.tree.leaves(sums)
        assert_sharded_alike(sums, [like[x.shape] for x in jax.tree.leaves(sums)])
        params, state = gathered((params, state))
    assert_close((params, state), unsharded(row), row.ulps(STEPS))
    assert_same_zeros(params, unsharded(row)[0])


# By default where shardings are types, for there JAX refuses more; and once where not.


def by_mechanism(row, kind):
    return kind, row.mechanism if kind == AxisType.Explicit else None


def by_layout(layout, kind):
    return kind, layout if kind == AxisType.Explicit else None


@product(by_mechanism, row=rows_of_factories(), kind=KINDS)
def test_params_sharded_along_both_axes_give_the_unsharded_result(row, kind):
    compare_run(row, "both", kind)


@product(by_layout, layout=[name for name in LAYOUTS if name != "both"], kind=KINDS)
@first("structured")
def test_params_sharded_along_one_axis_give_the_unsharded_result(row, layout, kind):
    compare_run(row, layout, kind)


# Explicit axis types refuse these on a matrix sharded along both axes, and why.
NOT_ACROSS = {
    "nuclear_norm": "an SVD takes the whole matrix",
    "spectral_mcp": "an SVD takes the whole matrix",
    "on_singular_values": "an SVD takes the whole matrix",
    "max_rank": "an SVD takes the whole matrix",
    "total_variation": "the solver walks along the axis",
    "fused_lasso": "the solver walks along the axis",
    "l_half_ball": "sorts all entries; meant for a few hundred",
    "binary": "looks levels up by a gather whose sharding is ambiguous",
    "ternary": "looks levels up by a gather whose sharding is ambiguous",
    "uniform_levels": "looks levels up by a gather whose sharding is ambiguous",
}
# Those that need a whole matrix can still share out a batch of them, unless refused.
WHOLE = [
    "nuclear_norm",
    "spectral_mcp",
    "on_singular_values",
    "max_rank",
    "total_variation",
    "fused_lasso",
]
NOT_BATCHED = {
    "total_variation": "JAX does not type a batched loop over slices",
    "fused_lasso": "JAX does not type a batched loop over slices",
}


def compare_prox(name, x, shape, spec, kind, refused):
    """Hold the prox of a sharded array against that of the whole one."""
    prox = jax.jit(_table.regularizer(name).prox)
    with mesh_of(shape, kind) as mesh:
        sharded = put(x, mesh, spec)
        if kind == AxisType.Explicit and name in refused:
            with pytest.raises(Exception, match=r"(?i)shard|mesh|replicated"):
                prox(sharded, 0.2)
            return
        actual = prox(sharded, 0.2)
        assert_sharded_alike(actual, sharded)
        actual = gathered(actual)
    whole = gathered(prox(x, 0.2))
    # An entry is a few operations, or a sum over its group or its singular vectors.
    assert_close(actual, whole, 8 + np.sqrt(x.size))
    assert_same_zeros(actual, whole)


def by_regularizer(name, kind):
    explicit = kind == AxisType.Explicit
    return kind, _table.kind(_table.regularizer(name)) if explicit else None


@product(by_regularizer, name=sorted(_table.ARGUMENTS), kind=KINDS)
def test_prox_of_a_sharded_array_is_that_of_the_whole(name, kind):
    x = start()["head"]["kernel"][:8]
    compare_prox(name, x, *LAYOUTS["both"], kind, NOT_ACROSS)


@product(by_regularizer, name=WHOLE, kind=KINDS)
def test_prox_of_whole_matrices_on_different_devices(name, kind):
    x = jnp.moveaxis(start()["conv"]["kernel"], -1, 0)
    compare_prox(name, x, (8,), ("x", None, None, None), kind, NOT_BATCHED)
