"""A model trained on many devices, and in several processes, is the same model."""

import functools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import rmda_jax as rj
from examples.integrations import shard_map_axis, sharded_mesh
from examples.integrations._problem import RULES, batches, optimizer, start, step_of
from rmda_jax.regularizers._tied_groups import reshard
from tests._daily import these
from tests.transforms.test_sharding import kinds, mesh_of

pytestmark = pytest.mark.costly

ROOT = Path(__file__).parents[2]
TIES = rj.RegularizerMap(
    [(("hidden/kernel", "out/kernel"), rj.tied_group_lasso((-1, -2)))]
)
RULES_OF = {"groups": RULES, "ties": TIES}


def mesh_of_axes(shape, kind=AxisType.Auto):
    names = ("data", "model")[: len(shape)]
    devices = jax.devices("cpu")[: np.prod(shape)]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape), devices=devices)


use_mesh = jax.set_mesh if hasattr(jax, "set_mesh") else jax.sharding.use_mesh


@functools.cache
def on_one_device(rules):
    tx = optimizer(RULES_OF[rules])
    tree, step = (start(), tx.init(start())), step_of(tx)
    for batch in batches():
        tree = step(tree, *batch)
    return tree


def assert_same(tree, rules):
    """Compare params and structured iterates of 100 steps."""
    expected = on_one_device(rules)
    both = [
        (t[0], rj.structured_params(t[1], RULES_OF[rules])) for t in (tree, expected)
    ]
    for x, y in zip(*map(jax.tree.leaves, both), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        # Sums in another order. What the steps differ in does not add up: measured 2.2.
        np.testing.assert_allclose(x, y, rtol=0, atol=4 * 1.2e-7 * np.abs(y).max())
        np.testing.assert_array_equal(x == 0, y == 0)
    kernel = np.asarray(both[0][1]["hidden"]["kernel"])
    assert 0 < np.mean(kernel == 0) < 1


# Of each of three ways to shard a step by default one layout: the compiler's choice,
# with groups and with ties, and types.
@pytest.mark.parametrize("layout", these(["fsdp"], sharded_mesh.LAYOUTS))
def test_training_over_a_mesh_is_that_on_one_device(layout):
    assert_same(sharded_mesh.train(layout, mesh_of_axes((4, 2))), "groups")


@pytest.mark.not_daily
@pytest.mark.parametrize(
    "layout", [pytest.param("fsdp", marks=pytest.mark.long), "tensor parallel"]
)
def test_ties_across_sharded_leaves_are_those_on_one_device(layout):
    assert_same(sharded_mesh.train(layout, mesh_of_axes((4, 2)), TIES), "ties")


def explicit_predict(params, x):
    """The model where shardings are types: weights are gathered, sums are named."""
    spec = lambda array: jax.typeof(array).sharding.spec
    gather = lambda w: reshard(
        w, P(*(None if axis == "data" else axis for axis in spec(w)))
    )
    params = jax.tree.map(gather, params)
    h = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    out = P(spec(x)[0], None)
    h = jnp.einsum("bi,io->bo", h, params["out"]["kernel"], out_sharding=out)
    return h + params["out"]["bias"]


@pytest.mark.not_daily
@pytest.mark.parametrize(
    ("layout", "rules"),
    [
        pytest.param("fsdp", "groups", marks=pytest.mark.long),
        ("tensor parallel", "ties"),
    ],
)
def test_explicit_axes_train_as_one_device(layout, rules):
    mesh = mesh_of_axes((4, 2), AxisType.Explicit)
    with use_mesh(mesh):
        tree = sharded_mesh.train(layout, mesh, RULES_OF[rules], explicit_predict)
        assert_same(jax.device_get(tree), rules)


@pytest.mark.not_daily
def test_shard_map_with_the_mean_of_the_loss_is_one_device():
    assert_same(shard_map_axis.train(mesh_of_axes((8,))), "groups")


@pytest.mark.parametrize("axis", [0, 1])
def test_shard_map_cuts_groups_that_lie_across_devices(axis):
    # What shard_map_axis warns of: rows along axis 0 stay whole, along axis 1 they fall
    # into pieces of which each is a group.
    x = jnp.arange(64.0).reshape(8, 8) / 64
    spec = P("data") if axis == 0 else P(None, "data")
    rows = rj.group_lasso(group_axes=0)
    tx = rj.rmda(1.0, rows, 0.4, averaging=1.0)

    def new_params(x):
        return x + tx.update(jnp.zeros_like(x), tx.init(x), x)[0]

    mapped = jax.shard_map(
        new_params, mesh=mesh_of_axes((8,)), in_specs=spec, out_specs=spec
    )
    pieces = x if axis == 0 else x.reshape(64, 1)
    expected = rows.prox(pieces, 0.4).reshape(8, 8)
    np.testing.assert_allclose(jax.jit(mapped)(x), expected, rtol=1e-6, atol=1e-7)
    whole = np.asarray(rows.prox(x, 0.4))
    assert np.array_equal(expected == 0, whole == 0) == (axis == 0)


@pytest.mark.parametrize("make", these([rj.proxgen], [rj.ramda, rj.proxgen]))
def test_shard_map_takes_the_adaptive_methods_too(make):
    rng = np.random.default_rng(0)
    x, g = jnp.float32(rng.normal(size=(2, 8, 4)))
    tx = make(0.5, rj.group_lasso(group_axes=0), 0.2)
    update = lambda g, x: tx.update(g, tx.init(x), x)[0]
    mapped = jax.shard_map(
        update, mesh=mesh_of_axes((8,)), in_specs=P("data"), out_specs=P("data")
    )
    found, expected = jax.jit(mapped)(g, x), update(g, x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    zeros = [np.all(x + u == 0, axis=1) for u in (found, expected)]
    np.testing.assert_array_equal(*zeros)


@pytest.mark.parametrize("spec", [P("data", None), P(None, "data")], ids=str)
def test_a_sharded_matrix_has_no_singular_values(spec):
    mesh = mesh_of_axes((8,), AxisType.Explicit)
    tx = rj.rmda(0.1, rj.nuclear_norm(), 0.1)
    with use_mesh(mesh):
        x = jax.device_put(jnp.ones((8, 16)), NamedSharding(mesh, spec))
        with pytest.raises(ValueError, match=r"must be unsharded .*Reshard it"):
            jax.jit(tx.update)(x, tx.init(x), x)


# --- what a step sends ------------------------------------------------------------

SPECS = {"across": P(None, "x"), "bias": P("x"), "within": P("x", None)}
SHAPES = {"across": (32, 64), "bias": (32,), "within": (64, 32)}
SENT = {
    # A number for each of the 32 groups that lie across devices; once per update.
    "groups": [("across", rj.group_lasso(-2)), ("within", rj.group_lasso(-2))],
    # One for each leaf of the tie; newer XLA puts them into one message.
    "ties": [(("across", "within"), rj.tied_group_lasso((-2, -1)))],
}


def messages(tx, kind):
    """Return the collectives of a compiled update, each as the sizes it sends."""
    with mesh_of((8,), kind) as mesh:
        params = {
            name: jax.device_put(jnp.ones(SHAPES[name]), NamedSharding(mesh, spec))
            for name, spec in SPECS.items()
        }
        program = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
    pattern = r"= (.*) ((?:all|collective|reduce)-[a-z-]+?)(?:-start)?\("
    return [
        (name, [int(np.prod([int(n) for n in dims.split(",") if n])) for dims in sizes])
        for types, name in re.findall(pattern, program.as_text())
        for sizes in [re.findall(r"\w+\[([\d,]*)\]", types)]
    ]


@kinds
@pytest.mark.parametrize(("rules", "sizes"), [("groups", [32]), ("ties", [32, 32])])
def test_rmda_sends_the_norms_of_groups_across_devices_and_nothing_else(
    rules, sizes, kind
):
    tx = rj.rmda(0.1, rj.RegularizerMap(SENT[rules]), 0.1, restart_steps=(5,))
    sent = messages(tx, kind)
    assert {name for name, _ in sent} == {"all-reduce"}
    assert [size for _, several in sent for size in several] == sizes


@pytest.mark.long
def test_ramda_sends_sums_over_groups_and_one_flag():
    tx = rj.ramda(0.1, rj.RegularizerMap(SENT["groups"]), 0.1)
    sent = sorted(messages(tx, AxisType.Auto), key=str)
    # Before the root is looked for and at every step towards it; and whether there is
    # another, on which the devices must agree.
    assert sent == [
        ("all-reduce", [1]),
        ("all-reduce", [32, 32, 32]),
        ("all-reduce", [32, 32]),
        ("all-reduce", [32, 32]),
    ]


# --- several processes ------------------------------------------------------------


def test_two_processes_train_to_the_bits_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    script = [sys.executable, "-m", "examples.integrations.processes"]
    path = tmp_path / "params.npz"
    ours = [f for f in os.environ["XLA_FLAGS"].split() if "device_count" not in f]
    flags = {"XLA_FLAGS": " ".join(ours), "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [*script, str(i), "2", address, str(path)],
            cwd=ROOT,
            env=os.environ | flags,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in running:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    params, _ = sharded_mesh.train("fsdp", mesh_of_axes((2,)))
    with np.load(path) as saved:
        for key, x in zip(saved, jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(saved[key], x, strict=True)
