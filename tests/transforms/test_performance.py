"""What a compiled step costs on any CPU: bytes and kernels, read off the program.

Steps are compiled from shapes alone. Bounds leave a tenth above what XLA makes of them
in JAX 0.10; older versions fuse less.
"""

import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import rmda_jax as rj
from benchmarks._programs import lower_step, n_kernels

pytestmark = pytest.mark.costly

WIDTH = 512
KERNEL = (3, 3, WIDTH, WIDTH)
GROUPS = rj.group_lasso(group_axes=-2)
OPTIMIZERS = {
    "rmda": rj.rmda(0.1, GROUPS, 1e-3),
    "rmda, restarts": rj.rmda(0.1, GROUPS, 1e-3, restart_steps=(10, 20)),
    "rmda, sparse": rj.rmda(0.1, rj.sparse_group_lasso(group_axes=-2), 1e-3),
    "rmda, budget": rj.rmda(0.1, GROUPS, rj.budget(groups=0.3)),
    "rmda, l1": rj.rmda(0.1, rj.l1(), 1e-3),
    "ramda": rj.ramda(0.01, GROUPS, 1e-3),
    "ramda, budget": rj.ramda(0.01, GROUPS, rj.budget(groups=0.3)),
    "ramda, l1": rj.ramda(0.01, rj.l1(), 1e-3),
    "proxsgd": rj.proxsgd(0.1, GROUPS, 1e-3),
    "proxgen": rj.proxgen(1e-3, GROUPS, 1e-3),
    "proxssi": rj.proxssi(1e-3, GROUPS, 1e-3),
    "proxgen, budget": rj.proxgen(1e-3, GROUPS, rj.budget(groups=0.3)),
    "aprox": rj.aprox(optax.sgd(0.1, momentum=0.9), 0.1, GROUPS, 1e-3),
    "aprox, budget": rj.aprox(
        optax.sgd(0.1, momentum=0.9), 0.1, GROUPS, rj.budget(groups=0.3)
    ),
    "normal_map": rj.normal_map(optax.sgd(0.1), 0.1, GROUPS, 1e-3),
    "rigl": rj.rigl(optax.sgd(0.1, momentum=0.9), 0.9, end_step=100),
}

compiled_by_this = pytest.mark.skipif(
    jax.__version_info__ < (0, 10) or jax.default_backend() != "cpu",
    reason="the bounds are those of XLA:CPU in JAX 0.10",
)


def tree(n_leaves, shape=KERNEL):
    kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
    return {f"layer{i}": kernel for i in range(n_leaves)}


def n_bytes(params):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))


def lower(name, params):
    state = jax.eval_shape(OPTIMIZERS[name].init, params)
    return lower_step(OPTIMIZERS[name], params, state)


@functools.cache
def compiled(name, n_leaves):
    return lower(name, tree(n_leaves)).compile()


def temporaries(name, n_leaves):
    return compiled(name, n_leaves).memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("name", "per_parameter"),
    [
        ("rmda", 8),
        ("ramda", 12),
        ("proxsgd", 4),
        ("proxgen", 8),
        ("proxssi", 8),
        ("aprox", 8),
        ("normal_map", 4),
        ("rigl", 5),
    ],
)
def test_state_is_as_large_as_documented(name, per_parameter):
    params = tree(3)
    state = jax.eval_shape(OPTIMIZERS[name].init, params)
    scalars = [x for x in jax.tree.leaves(state) if x.ndim == 0]
    arrays = n_bytes(state) - n_bytes(scalars)
    assert arrays * 4 == per_parameter * n_bytes(params)


@compiled_by_this
@pytest.mark.parametrize(
    "name",
    [
        *("rmda", "rmda, restarts", "rmda, sparse", "rmda, budget", "rmda, l1"),
        *("ramda, l1", "proxsgd", "aprox", "aprox, budget", "normal_map"),
    ],
)
def test_step_has_no_temporaries_of_a_leafs_size(name):
    assert temporaries(name, 3) <= 0.05 / 4 * n_bytes(tree(3))


@pytest.mark.not_daily
@compiled_by_this
@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("ramda", 3),
        ("proxgen", 5),
        pytest.param("ramda, budget", 3, marks=pytest.mark.long),
        pytest.param("proxgen, budget", 6, marks=pytest.mark.long),
        pytest.param("proxssi", 5, marks=pytest.mark.long),
    ],
)
def test_temporaries_are_those_of_some_leaves_not_of_all(name, leaves):
    # Whatever a leaf needs is used again by the next; here there are six.
    assert temporaries(name, 6) <= 1.1 * leaves * n_bytes(tree(1))


@compiled_by_this
@pytest.mark.parametrize(
    ("name", "at_most"),
    [
        ("rmda", 6),
        ("rmda, l1", 3),
        ("ramda", 30),
        ("ramda, l1", 4),
        ("proxsgd", 5),
        ("aprox", 6),
        pytest.param("proxgen", 30, marks=pytest.mark.long),
    ],
)
def test_kernels_of_a_leaf(name, at_most):
    few, many = (n_kernels(compiled(name, n).as_text()) for n in (3, 6))
    assert (many - few) / 3 <= at_most


@pytest.mark.not_daily
@compiled_by_this
@pytest.mark.parametrize(
    ("method", "at_most"),
    [
        ("rmda", 0),
        ("aprox", 0),
        pytest.param("proxgen", 12, marks=pytest.mark.long),
        ("ramda", 20),
    ],
)
def test_bytes_a_budget_adds_to_a_step(method, at_most):
    """Per parameter: none where the norms are those of the prox, else one more pass."""
    both = [
        compiled(name, 6).cost_analysis()["bytes accessed"]
        for name in (method, f"{method}, budget")
    ]
    assert (both[1] - both[0]) * 4 / n_bytes(tree(6)) <= at_most + 0.2


@compiled_by_this
def test_a_restart_copies_no_leaf():
    program = compiled("rmda, restarts", 3).as_text()
    shape = ",".join(map(str, KERNEL))
    assert re.search(rf"= f32\[{shape}\]\S* fusion", program)
    assert not re.search(rf"= f32\[{shape}\]\S* (copy|conditional)\(", program)


@pytest.mark.parametrize("many", [100, pytest.param(1000, marks=pytest.mark.long)])
def test_many_leaves_are_a_program_in_proportion(many):
    few, found = (
        lower("rmda", tree(n, (8, 8))).as_text().count("\n") for n in (10, many)
    )
    assert found <= 70 * many  # measured: 63 a leaf
    assert found <= few * many / 10
