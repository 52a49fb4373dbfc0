"""Orbax: what is restored is what was saved, to the last bit, or nothing."""

import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import rmda_jax as rj
from examples.integrations import orbax_checkpoint
from examples.integrations._problem import RULES, batches, start, step_of
from tests.transforms._table import assert_equal

pytestmark = pytest.mark.costly

ROOT = Path(__file__).parents[2]
N_STEPS = 80  # gradients; the stage ends after 60


def started(tx=None, params=None):
    """Return what to restore onto: the arrays of an untrained model."""
    tx, params = tx or orbax_checkpoint.optimizer(), params or start()
    return params, tx.init(params)


def run(tree, first, last):
    step = step_of(orbax_checkpoint.optimizer())
    for x, y in list(batches(last))[first:]:
        tree = step(tree, x, y)
    return tree


def restored(directory, like):
    with ocp.CheckpointManager(directory.absolute()) as manager:
        return orbax_checkpoint.restore(manager, like), manager.latest_step()


def killed_while_training(directory, after=15, delay=0.0):
    """Train in another process; kill it without warning after it saved a step."""
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.integrations.orbax_checkpoint", directory],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not (directory / str(after)).exists():
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return killed_while_training(tmp_path_factory.mktemp("run"))


@functools.cache
def uninterrupted():
    return run(started(), 0, N_STEPS)


def check_resumed(directory):
    tree = orbax_checkpoint.train(directory, N_STEPS, every=N_STEPS)
    assert_equal(tree, uninterrupted())
    inner = tree[1].inner_opt_state.inner_state
    assert (int(inner.count), int(inner.stage_count)) == (40, 10)  # restarted at 30


@pytest.mark.parametrize("last", [15, "the last"])
def test_killed_and_resumed_equals_uninterrupted(directory, tmp_path, last):
    copy = shutil.copytree(directory, tmp_path / "copy")
    for saved in copy.iterdir() if last == 15 else ():
        if saved.name.isdigit() and int(saved.name) > last:
            shutil.rmtree(saved)
    tree, step = restored(copy, started())
    assert 15 <= step < 60  # in the middle of the stage
    assert step > 15 or tree[1].mini_step == 1  # and of an update's two gradients
    check_resumed(copy)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_time_and_resumed_equals_uninterrupted(tmp_path, seed):
    rng = np.random.default_rng(seed)
    after, delay = 5 * int(rng.integers(1, 8)), rng.uniform(0, 0.2)
    check_resumed(killed_while_training(tmp_path, after, delay))


def test_restored_onto_another_mesh_it_is_the_same(directory):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    specs = {16: P("x"), 20: P("x", "y"), 2: P()}
    place = lambda x: jax.device_put(
        x, NamedSharding(mesh, specs[x.shape[0]] if x.ndim else P())
    )
    like = jax.tree.map(place, started())
    here, step = restored(directory, started())
    there, _ = restored(directory, like)
    assert_equal(jax.device_get(there), jax.device_get(here))
    for x, y in zip(*map(jax.tree.leaves, (there, like)), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    here, there = (run(tree, step, step + 3) for tree in (here, there))
    for x, y in zip(*map(jax.tree.leaves, (there, here)), strict=True):
        # Three steps whose sums are taken in another order.
        x, y = np.asarray(x), np.asarray(y)
        np.testing.assert_allclose(x, y, rtol=0, atol=5e-7 * np.abs(y).max())


@pytest.fixture
def _garbage():
    """Collect what a failed restore leaves, or a later test would be blamed."""
    yield
    _ = gc.collect()


def failed_restores(test):
    """Ignore the coroutines that Orbax starts and does not await if one fails."""
    for warning in (
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ):
        test = pytest.mark.filterwarnings(warning)(test)
    return pytest.mark.usefixtures("_garbage")(test)


def renamed(params):
    return {"hidden": params["hidden"], "head": params["out"]}


MISMATCHES = {
    "another optimizer": (lambda: started(tx=rj.rmda(0.1, RULES, 0.1)), "structures"),
    "another model": (
        lambda: started(optax.MultiSteps(rj.rmda(0.1, RULES, 0.1), 2)),
        "structures",
    ),
    "other names": (lambda: (renamed(start()), started()[1]), "structures"),
    "other shapes": (
        lambda: jax.tree.map(lambda x: jnp.zeros((*x.shape, 2)), started()),
        "shape",
    ),
    "other dtypes": (
        lambda: jax.tree.map(lambda x: x.astype(jnp.float16), started()),
        "other dtypes",
    ),
}


@failed_restores
@pytest.mark.parametrize("mismatch", MISMATCHES)
def test_a_checkpoint_of_something_else_is_refused(directory, mismatch):
    like, message = MISMATCHES[mismatch]
    with pytest.raises(ValueError, match=message):
        restored(directory, like())


def damaged(raw, how, rng):
    if how == "cut":
        return raw[: len(raw) // 2]
    place = rng.integers(len(raw))
    return raw[:place] + bytes([raw[place] ^ 16]) + raw[place + 1 :]


@pytest.mark.not_daily
@failed_restores
def test_a_damaged_checkpoint_is_refused_or_the_same(directory, tmp_path):
    sound, step = restored(directory, started())
    # Files of arrays, and those that say where they are.
    copy = shutil.copytree(directory, tmp_path / "copy")
    files = [p for p in sorted((copy / str(step)).rglob("*")) if p.is_file()]
    rng, refused = np.random.default_rng(0), 0
    for path in files:
        raw = path.read_bytes()
        for how in ("cut", "flip"):
            path.write_bytes(damaged(raw, how, rng) if raw else b"?")
            try:
                found, _ = restored(copy, started())
            except Exception:
                refused += 1
            else:
                assert_equal(found, sound)
        path.write_bytes(raw)
    assert refused >= 4


@failed_restores
def test_a_digest_that_does_not_fit_is_refused(directory, tmp_path):
    copy = shutil.copytree(directory, tmp_path / "copy")
    _, step = restored(copy, started())
    seal = copy / str(step) / "digest" / "metadata"
    flipped = seal.read_text().translate(str.maketrans("0123456789", "1234567890"))
    seal.write_text(flipped)
    with pytest.raises(ValueError, match="corrupt"):
        restored(copy, started())
