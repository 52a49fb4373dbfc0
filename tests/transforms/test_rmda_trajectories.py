"""RMDA against every recorded trajectory of the authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import rmda_jax as rj
from tests._daily import first_of_each
from tests.fixtures import trajectories
from tests.fixtures.trajectories import Trajectory, hyper, load, names, tree
from tests.transforms._replay import assert_same, replay

pytestmark = pytest.mark.costly

REGULARIZERS = {"glasso": rj.group_lasso(group_axes=-2), "l1": rj.l1()}
PRESCRIBED = [
    name
    for name in names("rmda/rmda_")
    if "digits" not in name and "param_groups" not in name
]
# Float64: rounding alone was measured at up to 3e-15. Float32: 40 steps of rounding.
TOLERANCE = {np.float64: 1e-13, np.float32: 40 * 2.0**-24}


def regularized_kernels(regularizer: rj.Regularizer) -> rj.RegularizerMap:
    """What the authors regularize: weights of convolutions and dense layers."""
    return rj.RegularizerMap([("conv.weight", regularizer), ("fc.weight", regularizer)])


def recipe(trajectory: Trajectory) -> dict:
    """Learning rate, averaging and restarts, from the recorded hyperparameters."""
    hyper, scheduler = trajectory.hyper, trajectory.hyper["scheduler"]
    if scheduler:
        return dict(
            rj.stages(
                hyper["lr"],
                scheduler["milestones"],
                gamma=scheduler["gamma"],
                averaging=hyper["momentum"],
                steps_per_epoch=trajectory.steps_per_epoch,
            )
        )
    rates = jnp.asarray(trajectory.learning_rates[:, 0])
    averages = jnp.asarray(trajectory.averages[:, 0])
    return {
        "learning_rate": lambda count: rates[count],
        "averaging": lambda count: averages[count],
    }


@pytest.mark.parametrize("name", PRESCRIBED)
def test_rmda_reproduces_official_trajectory(name, x64):
    trajectory = load(name)
    regularizer = regularized_kernels(REGULARIZERS[trajectory.hyper["prox"]])
    tx = rj.rmda(
        regularizer=regularizer,
        strength=trajectory.hyper["lambda_"],
        **recipe(trajectory),
    )
    state, history = replay(tx, trajectory)
    assert_same(history, trajectory, TOLERANCE[np.float64])
    assert_same_state(state, trajectory)


def assert_same_state(state: rj.RMDAState, trajectory: Trajectory):
    """The kept sums are the authors', divided by the root of the time."""
    recorded = trajectory.recorded
    root = np.sqrt(recorded["final_group/iteration"].item())
    alpha = recorded["final_group/accum"].item()
    np.testing.assert_allclose(root * state.weight_sum, alpha, rtol=1e-13)
    for folder, ours in (
        ("initial_point", state.anchor),
        ("gradient_buffer", jax.tree.map(lambda m: root * m, state.grad_sum)),
    ):
        for name, expected in tree(recorded, f"final_state/{folder}").items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-13 * scale)


def of_recipe(name: str) -> tuple:
    return hyper(name)["prox"], bool(hyper(name)["scheduler"])


@pytest.mark.parametrize("name", first_of_each(of_recipe, PRESCRIBED))
def test_rmda_reproduces_official_trajectory_in_float32(name):
    trajectory = load(name)
    regularizer = regularized_kernels(REGULARIZERS[trajectory.hyper["prox"]])
    tx = rj.rmda(
        regularizer=regularizer,
        strength=trajectory.hyper["lambda_"],
        **recipe(trajectory),
    )
    _, history = replay(tx, trajectory, np.float32)
    assert_same(history, trajectory, TOLERANCE[np.float32])


def test_partition_reproduces_separate_parameter_groups(x64):
    """What the authors' optimizer means by groups, and gets wrong in one call."""
    trajectory = load("rmda/rmda_param_groups_separate")
    scheduler = trajectory.hyper["scheduler"]
    labels, parts = {}, {}
    for index, group in enumerate(trajectory.hyper["groups"]):
        regularizer = REGULARIZERS[group.get("prox_fn", "glasso")]
        regularized = [n for n in group["names"] if n in ("conv.weight", "fc.weight")]
        rules = [(name, regularizer) for name in regularized] or [("*", None)]
        parts[str(index)] = rj.rmda(
            regularizer=rj.RegularizerMap(rules),
            strength=group["lambda_"],
            **rj.stages(
                group["lr"],
                scheduler["milestones"],
                gamma=scheduler["gamma"],
                averaging=group["momentum"],
                steps_per_epoch=trajectory.steps_per_epoch,
            ),
        )
        labels.update(dict.fromkeys(group["names"], str(index)))
    _, history = replay(optax.partition(parts, labels), trajectory)
    assert_same(history, trajectory, TOLERANCE[np.float64])


@pytest.mark.parametrize("name", names("rmda/rmda_digits"))
def test_rmda_reproduces_official_softmax_regression(name, x64):
    """A closed loop: the gradients are ours, from the recorded batches."""
    trajectory = load(name)
    digits = load_digits()
    images = (digits.images / 16).reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    features, targets = jnp.asarray(images), jnp.asarray(digits.target)
    tx = rj.rmda(
        regularizer=rj.RegularizerMap(
            [("fc.weight", REGULARIZERS[trajectory.hyper["prox"]])]
        ),
        strength=trajectory.hyper["lambda_"],
        **recipe(trajectory),
    )

    def loss_fn(params, rows):
        logits = features[rows] @ params["fc.weight"] + params["fc.bias"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets[rows])
        return jnp.mean(losses)

    def step(carry, rows):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, rows)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (loss, params)

    params = jax.tree.map(jnp.asarray, trajectory.init)
    rows = jnp.asarray(trajectory.recorded["batch_index"])
    _, (losses, history) = jax.lax.scan(step, (params, tx.init(params)), rows)
    np.testing.assert_allclose(losses, trajectory.recorded["loss"], rtol=1e-12)
    assert_same(history, trajectory, 1e-12)


@pytest.mark.parametrize("name", [*names("ramda/R_RMDA"), *names("ramda/E_RMDA")])
def test_rmda_reproduces_the_ramda_authors_rmda(name, x64):
    """The same method, in the code of its successor: conv, dense and nuclear norm."""
    trajectory = load(name)
    hyper = trajectory.hyper
    rules = []
    for group in hyper["groups"]:
        if group["lambda_"]:
            assert group["lambda_"] == hyper["lambda_"]
            axis = -1 if group["dim"] == 1 else -2
            regularizer = {
                "glasso": rj.group_lasso(group_axes=axis),
                "nuclear": rj.nuclear_norm(),
            }[hyper["reg"]]
            rules += [(leaf, regularizer) for leaf in group["names"]]
    kwargs = {"learning_rate": 0.1, "averaging": hyper["ctor_momentum"]}
    if hyper["scheduler"]:
        kwargs = dict(
            rj.stages(
                0.1,
                hyper["scheduler"]["milestones"],
                gamma=hyper["scheduler"]["gamma"],
                averaging=hyper["ctor_momentum"],
                ramp="sqrt",
                steps_per_epoch=trajectory.steps_per_epoch,
            )
        )
    if "/E_" in name:
        # This code starts its ramp an epoch early, before the last restart.
        averages = jnp.asarray(trajectory.averages[:, 0])
        kwargs["averaging"] = lambda count: averages[count]
    tx = rj.rmda(
        regularizer=rj.RegularizerMap(rules), strength=hyper["lambda_"], **kwargs
    )
    _, history = replay(tx, trajectory)
    if hyper["reg"] == "glasso":
        assert_same(history, trajectory, TOLERANCE[np.float64])
        return
    # One SVD leaves dust where another leaves other dust: compare values alone.
    assert_same(history, trajectory, 1e-12, zeros=False)


@pytest.mark.parametrize(
    "call", trajectories.manifest()["rmda/prox_calls"]["calls"], ids=lambda c: c["id"]
)
def test_prox_reproduces_official_prox(call, x64):
    stored = trajectories.arrays("rmda/prox_calls")
    x = trajectories.to_flax(stored[f"{call['id']}/in"])
    expected = trajectories.to_flax(stored[f"{call['id']}/out"])
    step_size = call["lambda_"] * call["alpha"]
    if x.ndim in (2, 4):
        x = REGULARIZERS[call["fn"].removeprefix("prox_")].prox(x, step_size)
    # The official functions leave other ranks alone: a rule is not to match them.
    # They give NaN, 0/0, for a zero group at threshold 0; here it stays zero.
    expected = np.where(np.isnan(expected), 0, expected)
    np.testing.assert_allclose(x, expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(np.asarray(x) == 0, expected == 0)
