"""RigL against everything recorded from jaxpruner, in float32 and in float64."""

import contextlib
import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax.transforms._rigl import rigl
from rmda_jax.transforms._rigl_params import rigl_params
from tests._daily import first_of_each
from tests._x64 import float64
from tests.fixtures import trajectories

pytestmark = pytest.mark.costly

FOLDER = trajectories.FOLDER.parent / "rigl_trajectories"
FILES = json.loads((FOLDER / "manifest.json").read_text())["files"]
# The gradients are prescribed: rounding does not feed back through a loss. Largest
# deviations measured, relative to a leaf's largest entry: 1e-16 and 6e-8.
TOLERANCE = {"float64": 1e-12, "float32": 4 * 2.0**-24}


def of_kind(kind: str) -> list[str]:
    found = [name for name, entry in FILES.items() if entry["kind"] == kind]
    assert found, f"no file holds {kind}"
    return found


TRAJECTORIES = of_kind("rigl_trajectory")


def in_float64(name: str) -> str:
    """By default every trajectory in float64, and one in float32."""
    precision, trajectory = Path(name).parts
    return trajectory if precision == "float64" else precision


every_trajectory = pytest.mark.parametrize(
    "name", first_of_each(in_float64, TRAJECTORIES)
)


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored}


def tree(name: str, folder: str) -> dict[str, np.ndarray]:
    keep = lambda x, lead: x  # Flax layouts already
    return trajectories.tree(arrays(name), folder, convert=keep)


def precision(name: str) -> contextlib.AbstractContextManager:
    return float64() if Path(name).parts[0] == "float64" else contextlib.nullcontext()


def tolerance(name: str) -> float:
    return TOLERANCE[Path(name).parts[0]]


def drop_fraction(hyper: dict):
    """The recorded schedule: a number where it is the cosine down to the last step."""
    text = hyper["drop_fraction"]
    if text.startswith("constant"):
        return optax.constant_schedule(float(text.split()[1]))
    schedule = text.removesuffix(" of state.count")
    assert schedule.startswith("optax.cosine_decay_schedule(")
    alpha, steps = schedule.split("(")[1].rstrip(")").split(",")
    if int(steps) == hyper["update_end_step"]:
        return float(alpha)
    return optax.cosine_decay_schedule(float(alpha), int(steps))


def transformation(hyper: dict) -> optax.GradientTransformationExtraArgs:
    assert hyper["skip_gradients"]
    assert hyper["is_sparse_gradients"]
    sparse = [name for name, s in hyper["target_sparsities"].items() if s is not None]
    return rigl(
        eval(hyper["inner"], {"optax": optax}),
        hyper["sparsity"],
        where=sparse,
        distribution=hyper["distribution"],
        update_every=hyper["update_freq"],
        begin_step=hyper["update_start_step"],
        end_step=hyper["update_end_step"],
        drop_fraction=drop_fraction(hyper),
        key=jax.random.key(3),
    )


@functools.cache
def replay(name: str):
    """Return the initial params and state, and what they were after every update."""
    with precision(name):
        return jax.device_get(_replay(name))


def _replay(name: str):
    inputs = FILES[name]["inputs"]
    tx = transformation(FILES[name]["hyper"])
    init = jax.tree.map(jnp.asarray, tree(inputs, "init"))
    grads = jax.tree.map(jnp.asarray, tree(inputs, "grad"))
    state = tx.init(init)
    params = rigl_params(state, init)

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state)

    _, (history, states) = jax.lax.scan(step, (params, state), grads)
    return params, state, history, states


@every_trajectory
def test_trajectory_is_reproduced(name):
    params, state, history, states = replay(name)
    for leaf, mask in tree(name, "mask0").items():
        np.testing.assert_array_equal(state.masks[leaf], mask == 1, err_msg=leaf)
        np.testing.assert_array_equal(params[leaf] != 0, mask == 1, err_msg=leaf)
    for leaf, expected in tree(name, "param0_masked").items():
        np.testing.assert_array_equal(params[leaf], expected, err_msg=leaf)
    for leaf, mask in tree(name, "mask").items():
        np.testing.assert_array_equal(states.masks[leaf], mask == 1, err_msg=leaf)
    for leaf, expected in tree(name, "param").items():
        actual = history[leaf]
        assert actual.dtype == expected.dtype
        atol = tolerance(name) * np.abs(expected).max()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol, err_msg=leaf)
        np.testing.assert_array_equal(actual == 0, expected == 0, err_msg=leaf)
    np.testing.assert_array_equal(states.count, arrays(name)["count_after"])


@every_trajectory
def test_mask_updates_are_at_the_recorded_steps_and_move_nothing_else(name):
    params, state, history, states = replay(name)
    before, slots = params, state.inner_state
    for t, is_mask_update in enumerate(arrays(name)["is_mask_update"]):
        after, new_slots = jax.tree.map(
            lambda x, t=t: x[t], (history, states.inner_state)
        )
        # A bias has no mask: it stands still exactly if there was no step.
        assert np.array_equal(after["d1.bias"], before["d1.bias"]) == is_mask_update
        pairs = zip(jax.tree.leaves(slots), jax.tree.leaves(new_slots), strict=True)
        for old, new in pairs:
            if old.ndim == 0:  # the optimizer's own count
                assert (old == new) == is_mask_update
        before, slots = after, new_slots


SCHEDULES = {FILES[name]["hyper"]["drop_fraction"]: name for name in TRAJECTORIES}


@pytest.mark.parametrize("name", SCHEDULES.values())
def test_drop_fractions_are_the_recorded_ones(name):
    """They are counted: how many weights grow where all growth must be elsewhere."""
    hyper, n = FILES[name]["hyper"], 20_000
    tx = rigl(
        optax.sgd(0.0),
        0.5,
        where="*",
        update_every=1,
        begin_step=0,
        end_step=hyper["update_end_step"],
        drop_fraction=drop_fraction(hyper),
    )
    state = tx.init(jnp.ones(n))
    update = jax.jit(tx.update)
    for fraction in arrays(name)["drop_fraction"][: hyper["update_end_step"] + 1]:
        old = state.masks
        elsewhere = jnp.where(old, 0.0, 1.0)
        _, state = update(elsewhere, state, jnp.where(old, 1.0, 0.0))
        n_grown = int(jnp.sum(state.masks & ~old))
        assert abs(n_grown - n / 2 * fraction) <= 0.5 + 1e-3  # float32


@every_trajectory
def test_target_counts_are_the_recorded_ones(name):
    hyper = FILES[name]["hyper"]
    init = tree(FILES[name]["inputs"], "init")
    masks = transformation(hyper).init(init).masks
    for leaf, sparsity in hyper["target_sparsities"].items():
        n, n_ones = masks[leaf].size, int(masks[leaf].sum())
        if sparsity is None:
            assert n_ones == n
        else:
            assert abs(n_ones - n * (1 - sparsity)) <= 0.5


def calls(kind: str) -> list:
    """By default every call in one precision: what is compared are flags."""
    found = [
        pytest.param(name, call, id=f"{name}-{call['id']}")
        for name in of_kind(kind)
        for call in FILES[name]["calls"]
    ]
    return first_of_each(lambda name, call: call["id"], found)


@pytest.mark.parametrize(("name", "call"), calls("rigl_mask_updates"))
def test_single_mask_update_is_reproduced(name, call):
    given = tree(name, f"{call['id']}")
    tx = rigl(
        optax.sgd(0.1),
        0.5,
        where="*",
        update_every=1,
        begin_step=0,
        drop_fraction=optax.constant_schedule(call["drop_fraction"]),
    )
    with precision(name):
        params = jnp.asarray(given["param"])
        state = tx.init(params)._replace(masks=jnp.asarray(given["old_mask"] == 1))
        _, state = jax.jit(tx.update)(jnp.asarray(given["grad"]), state, params)
    np.testing.assert_array_equal(state.masks, given["new_mask"] == 1)
    assert int(state.masks.sum()) == call["nnz_new"] == call["nnz_old"]


@pytest.mark.parametrize(("name", "call"), calls("nm_masks"))
def test_n_m_keeps_what_the_recorded_masks_keep(name, call):
    scores, mask = (tree(name, f"{call['id']}")[k] for k in ("scores", "mask"))
    assert (scores >= 0).all()
    n, m, axis = call["n"], call["m"], call["axis"]
    with precision(name):
        kept = np.asarray(rj.n_m(n, m, axis).prox(jnp.asarray(scores), 1.0))
    if not call["ties"]:
        np.testing.assert_array_equal(kept, np.where(mask == 1, scores, 0))
        return
    # Of equals the first stay here, the last in the recording: the same values, then.
    runs = lambda x: np.moveaxis(x, axis, -1).reshape(-1, m)
    ours, theirs = np.sort(runs(kept)), np.sort(runs(np.where(mask == 1, scores, 0)))
    np.testing.assert_array_equal(ours, theirs)
    assert (runs(mask).sum(-1) == n).all()
    assert math.prod(scores.shape) == m * len(ours)
