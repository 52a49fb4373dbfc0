"""RAMDA and the baselines against every recorded trajectory of their authors' code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rmda_jax as rj
from tests._daily import first_of_each
from tests.fixtures import trajectories
from tests.fixtures.trajectories import Trajectory, hyper, load, names
from tests.transforms._replay import assert_same, deviation, replay

pytestmark = pytest.mark.costly

# Float64. Rounding alone was measured at up to 3e-15, with the nuclear norm 2e-14.
TOLERANCE = 1e-13
RAMDA = [n for n in names("ramda/R_") if hyper(n)["optimizer"] != "RMDA"]
STOPPED = [n for n in RAMDA if n.endswith("_default")]


def rules(trajectory: Trajectory) -> rj.RegularizerMap:
    """The regularizers of the parameter groups whose strength is not 0."""
    found = [("*", None)]
    for group in trajectory.hyper["groups"]:
        if group["lambda_"]:
            axis = -1 if group["dim"] == 1 else -2
            regularizer = {
                "glasso": rj.group_lasso(group_axes=axis),
                "nuclear": rj.nuclear_norm(),
            }[trajectory.hyper["reg"]]
            found[:0] = [(name, regularizer) for name in group["names"]]
    return rj.RegularizerMap(found)


def transformation(trajectory: Trajectory):
    """The peer's optimizer, with its constructor's arguments, as ours."""
    hyper, scheduler = trajectory.hyper, trajectory.hyper["scheduler"] or {}
    recipe = rj.stages(
        hyper["ctor_lr"],
        scheduler.get("milestones", []),
        gamma=scheduler.get("gamma", 0.1),
        averaging=hyper.get("ctor_momentum", 1.0),
        ramp="sqrt",
        steps_per_epoch=trajectory.steps_per_epoch,
    )
    kwargs = {"regularizer": rules(trajectory), "strength": hyper["lambda_"]}
    if hyper["optimizer"] == "RAMDA":
        # Without a scheduler the momentum stays what it is, and does not ramp.
        averaging = recipe["averaging"] if scheduler else hyper["ctor_momentum"]
        kwargs |= {**recipe, "averaging": averaging, "max_iters": 3000}
        return rj.ramda(**kwargs, eps=hyper["ctor_epsilon"])
    if hyper["optimizer"] == "ProxSGD":
        kwargs["averaging"] = hyper["ctor_momentum"]
        return rj.proxsgd(recipe["learning_rate"], **kwargs)
    assert hyper["optimizer"] == "ProxAdamW"
    b1, b2 = hyper["ctor_betas"]
    return rj.proxgen(
        recipe["learning_rate"],
        **kwargs,
        b1=b1,
        b2=b2,
        eps=hyper["ctor_epsilon"],
        weight_decay=hyper["ctor_weight_decay"],
        amsgrad=hyper["ctor_amsgrad"],
    )


@functools.cache
def replayed(name: str):
    """State and params of our optimizer on a peer's gradients; call it in float64."""
    trajectory = load(name)
    return replay(transformation(trajectory), trajectory)


@pytest.mark.parametrize("name", [name for name in RAMDA if name not in STOPPED])
def test_peer_trajectory_is_reproduced(name, x64):
    trajectory = load(name)
    _, history = replayed(name)
    if "nuclear" not in name:
        assert_same(history, trajectory, TOLERANCE)
        return
    # An SVD leaves dust, so there are no zeros to compare; and both sides iterate.
    assert_same(history, trajectory, 1e-10, zeros=False)


@pytest.mark.parametrize("name", [name for name in STOPPED if "nuclear" not in name])
def test_released_stopping_rule_is_the_only_difference(name, x64):
    """The peer leaves the exact path by as much as its own exact solver does.

    Its stopping test sums the smooth part of the objective once per group, and so stops
    early: no tolerance can hold here, but the gap itself is known to rounding.
    """
    trajectory = load(name)
    recorded = trajectories.manifest()[name]["max_abs_diff_to"]
    ((exact, gap),) = recorded.items()
    assert exact.endswith("_exact")
    _, history = replayed(name)
    assert gap > 1e-3
    np.testing.assert_allclose(deviation(history, trajectory), gap, rtol=1e-12)


def test_released_nuclear_solver_is_stopped_early(x64):
    """Here the gap is recorded against the peer without its stop."""
    trajectory = load("ramda/R_RAMDA_nuclear_lin_const_default")
    (gap,) = trajectories.manifest()[trajectory.name]["max_abs_diff_to"].values()
    _, history = replay(transformation(trajectory), trajectory)
    np.testing.assert_allclose(deviation(history, trajectory), gap, rtol=1e-8)


def test_ramda_state_holds_the_authors_sums(x64):
    trajectory = load("ramda/R_RAMDA_glasso_lin_dim1_sched_exact")
    state, _ = replayed(trajectory.name)
    for folder, ours in (
        ("initial_point", state.anchor),
        ("grad_sum", state.grad_sum),
        ("grad_sum_sq", state.grad_sq_sum),
    ):
        recorded = trajectories.tree(trajectory.recorded, f"final_state/{folder}")
        assert recorded.keys() == ours.keys()
        for name, expected in recorded.items():
            scale = np.abs(expected).max()
            np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-13 * scale)
    np.testing.assert_allclose(state.eps, trajectory.recorded["used_epsilon"][-1, 0])


@pytest.mark.parametrize("name", [n for n in RAMDA if "exact" in n and "RAMDA_" in n])
def test_structured_params_solve_the_last_subproblem(name, x64):
    """With averaging 1 the params are the structured iterate; else they approach it."""
    trajectory = load(name)
    state, history = replayed(name)
    read = functools.partial(rj.structured_params, regularizer=rules(trajectory))
    structured = jax.jit(read)(state)
    before, after = (jax.tree.map(lambda h, i=i: h[i], history) for i in (-2, -1))
    c = trajectory.averages[-1, 0]
    for leaf, expected in after.items():
        actual = (1 - c) * before[leaf] + c * structured[leaf]
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


def calls(name, kind, also=lambda call: True):
    """Parametrize over recorded calls; by default over the first of every kind."""
    found = filter(also, trajectories.manifest()[name]["calls"])
    return pytest.mark.parametrize("call", first_of_each(kind, found))


@functools.partial(jax.jit, static_argnums=0)  # one program for each shape
def metric_prox(regularizer, x, step_size, metric):
    return regularizer.metric_prox(x, step_size, metric)


@calls("ramda/subproblems_glasso_diag", lambda call: len(call["shape"]))
def test_metric_prox_solves_recorded_subproblems(call, x64):
    stored = trajectories.arrays("ramda/subproblems_glasso_diag")
    p0, v, metric, expected = (
        stored[f"{call['id']}/{key}"] for key in ("p0", "v", "denom", "x_exact")
    )
    regularizer = rj.group_lasso(group_axes=call["dim_"])
    actual = metric_prox(regularizer, p0 - v / metric, call["lambda_"], metric)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * scale + 1e-15)
    np.testing.assert_array_equal(np.asarray(actual) == 0, expected == 0)


@pytest.mark.parametrize("name", names("proxssi/"))
def test_proxssi_reproduces_the_authors_trajectory(name, x64):
    trajectory = load(name)
    hyper, kwargs = trajectory.hyper, dict(trajectory.hyper["prox_kwargs"])
    reweight, strength = kwargs.pop("reweight", True), kwargs.pop("lambda_")
    found = []
    for leaf in ("conv.weight", "fc.weight"):
        regularizer = rj.group_lasso(group_axes=-2, weighted=reweight)
        if hyper["penalty"] == "group_mcp":
            # Theirs has the strength, and the weight, inside the penalty.
            kernel = trajectory.init[leaf]
            size = kernel.size // kernel.shape[-2] if reweight else 1
            regularizer = rj.group_mcp(
                -2, lam=strength * np.sqrt(size), gamma=kwargs["gamma"], weighted=False
            )
        found.append((leaf, regularizer))
    rates = jnp.asarray(trajectory.learning_rates)
    tx = rj.proxssi(
        lambda count: rates[count],
        rj.RegularizerMap(found),
        1.0 if hyper["penalty"] == "group_mcp" else strength,
        b1=hyper["betas"][0],
        b2=hyper["betas"][1],
        eps=hyper["eps"],
        weight_decay=hyper["weight_decay"],
        bias_correction=hyper["correct_bias"],
    )
    _, history = replay(tx, trajectory)
    assert_same(history, trajectory, TOLERANCE)


@calls("proxssi/prox_l2_weighted", lambda call: call["note"])
def test_metric_prox_equals_the_authors_weighted_prox(call, x64):
    stored = trajectories.arrays("proxssi/prox_l2_weighted")
    x, metric, expected = (stored[f"{call['id']}/{k}"] for k in ("x", "w", "exact"))
    regularizer = rj.group_lasso(group_axes=-1, weighted=False)
    actual = np.asarray(metric_prox(regularizer, x, call["lambda_"], metric))
    close = functools.partial(
        np.testing.assert_allclose, rtol=0, atol=1e-13 * np.abs(x).max()
    )
    # The recorded root is NaN in a group with a metric of 0. There the entry itself is
    # free, so 0, and the others are the prox without it.
    known = ~np.isnan(expected)
    close(actual[known], expected[known])
    # One group sits on its threshold: 1e-17.
    np.testing.assert_array_equal(actual[known] == 0, np.abs(expected[known]) < 1e-16)
    rest = ~known & (metric > 0)
    if rest.any():
        without = rj.group_lasso((), weighted=False).metric_prox(
            x[rest], call["lambda_"], metric[rest]
        )
        close(actual[rest], without)
        assert (actual[metric == 0] == 0).all()


# With lambda 0 there is no penalty, and no such regularizer.
@calls(
    "proxssi/prox_mcp_l2",
    lambda call: call["note"].partition(", ||x||")[0],
    also=lambda call: call["lambda_"] > 0,
)
def test_metric_prox_of_group_mcp_is_a_global_minimiser(call, x64):
    """Theirs is not always; the recorded truth is a dense scan, good to 1e-8."""
    stored = trajectories.arrays("proxssi/prox_mcp_l2")
    x, expected = stored[f"{call['id']}/x"], stored[f"{call['id']}/brute_global"]
    metric = stored.get(f"{call['id']}/w", np.ones_like(x))
    regularizer = rj.group_mcp(
        -1, lam=call["lambda_"], gamma=call["gamma"], weighted=False
    )

    def objective(z):
        smooth = 0.5 * np.sum(metric * (z - x) ** 2)
        return smooth + call["lr"] * regularizer.value(z)

    actual = np.asarray(metric_prox(regularizer, x, call["lr"], metric))
    assert objective(actual) <= objective(expected) + 1e-12
    if stored[f"{call['id']}/gap_to_second_local_min"].min() > 1e-6:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", names("proxsgd/"))
def test_proxsgd_adaptive_reproduces_the_original(name, x64):
    trajectory = load(name)
    hyper = trajectory.hyper
    bounds = hyper["clip_bounds"]

    def decaying(kind):
        initial, decay = hyper[f"{kind}_initial"], hyper[f"{kind}_decay"]
        return lambda count: initial / (count + 4.0) ** decay

    tx = rj.proxsgd_adaptive(
        decaying("epsilon"),
        rj.l1() if bounds is None else rj.regularizers.boxed(rj.l1(), *bounds),
        hyper["mu"] or 0.0,
        averaging=decaying("rho"),
        b2=hyper["beta"],
    )
    _, history = replay(tx, trajectory)
    assert_same(history, trajectory, TOLERANCE)


def test_proxsgd_adaptive_has_the_authors_averaging(x64):
    trajectory = load("proxsgd/proxsgd_default")
    learning_rate = lambda count: 0.06 / jnp.sqrt(count + 4.0)
    tx = rj.proxsgd_adaptive(learning_rate, rj.l1(), trajectory.hyper["mu"])
    _, history = replay(tx, trajectory)
    assert_same(history, trajectory, TOLERANCE)
