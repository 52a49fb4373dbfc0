"""Latent methods against the recorded trajectories of their peers.

ProxPARQ is replayed with the levels that its authors' code had: how they are estimated
is compared in `tests/regularizers/test_quantization.py`.

Not replayed are the peers' ramps, which jump at their end, a rank that is healed, and
healing after a prox that was skipped: there we do something else on purpose, see the
README of the fixtures.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from tests.fixtures.trajectories import Trajectory, load, names
from tests.transforms._replay import assert_same, replay

pytestmark = pytest.mark.costly

R = rj.regularizers
# Float64. Rounding alone was measured at up to 1e-15, with singular values 4e-15.
TOLERANCE = 1e-13
ELSEWHERE = {
    "pat/rows_heal_freq3",
    "pat/budget_rows_by_elem",  # prunes the rows of budget_rows
    "pat/budget_entries_ramp",
    "pat/global_entries_ramp",
    "pat/rank_heal",
    "pat/nm_2_3_padded",  # pads rows by zeros; ours refuses
}
PAT = [name for name in names("pat/") if name not in ELSEWHERE]
NORMAL_MAP = names("parq/normal_map")
BREGMAN = names("bregman/")
PARQ = [
    name
    for name in names("parq/")
    if name not in NORMAL_MAP
    # Levels that are not sorted; latent weights that are divided by a sum of rates.
    and name not in ("parq/lsbq_optimal_2bit_channel", "parq/lsbq_2bit_tensor_shrink")
]

GROUP_AXES = {  # in Flax layouts: which axes enumerate the groups
    "Dim0Grouper": {"conv": -1, "lin": -1},
    "Dim1Grouper": {"conv": (0, 1, 2), "lin": 0},
    "ConvFilterGrouper": {"conv": (-2, -1)},
}
SIZES = {"conv": 12, "lin": 8}  # of a row
SCORES = {"l2": lambda n: 1.0, "rms": lambda n: n, "param_cost": lambda n: n * n}


def rate(trajectory: Trajectory):
    rates = jnp.asarray(trajectory.recorded["used_lr"])
    return lambda count: rates[count]


def torch_optimizer(trajectory: Trajectory):
    """PyTorch's SGD or AdamW, as Optax has them."""
    hyper, decay = trajectory.hyper, trajectory.hyper.get("weight_decay", 0.0)
    if hyper["optimizer"] == "AdamW":
        b1, b2 = hyper["betas"]
        return optax.adamw(rate(trajectory), b1, b2, hyper["eps"], weight_decay=decay)
    momentum, nesterov = hyper.get("momentum"), hyper.get("nesterov", False)
    sgd = optax.sgd(rate(trajectory), momentum, nesterov)
    return optax.chain(optax.add_decayed_weights(decay), sgd)


def as_matrices(trajectory: Trajectory) -> Trajectory:
    """The convolutions as matrices, in whose columns are PyTorch's filters."""

    def leaf(x, lead: int):
        if x.ndim - lead < 4:
            return x
        front = np.moveaxis(x, lead + 2, lead)  # to (in, kh, kw, out)
        return front.reshape((*x.shape[:lead], -1, x.shape[-1]))

    flat = lambda tree, lead: {name: leaf(x, lead) for name, x in tree.items()}
    return trajectory._replace(
        init=flat(trajectory.init, 0),
        grads=flat(trajectory.grads, 1),
        params=flat(trajectory.params, 1),
    )


def replayed(tx, name: str):
    trajectory = load(name)
    if name.startswith("pat/nm"):  # groups along the memory of a filter
        trajectory = as_matrices(trajectory)
    with jax.enable_x64(True):
        state, history = replay(tx(trajectory), trajectory)
        assert_same(history, trajectory, TOLERANCE)
    return state, trajectory


def pat_regularizer(group, name: str):
    """The regularizer of a leaf, and its multiplier."""
    kind = group["prox_type"]
    axes = GROUP_AXES.get(group["group_type"], {}).get(name)
    rows = {"conv": 4, "lin": 5}[name]
    match kind:
        case "ProxLasso":
            return rj.l1(), group["reg_lambda"]
        case "ProxGroupLasso":
            return rj.group_lasso(axes), group["reg_lambda"]
        case "ProxNuclearNorm":
            return rj.nuclear_norm(), group["reg_lambda"]
        case "MinSparsityConstraint":
            dropped = int(np.ceil(group["min_sparsity"] * rows))
            return R.top_groups(rows - dropped, axes), 1.0
        case "GlobalMinSparsityConstraint":
            score = SCORES[group.get("score_type", "rms")]
            return R.group_l0(axes, weighted=False), score(SIZES[name])
        case "MinRankConstraint":
            rank = min(8, 5)
            return R.max_rank(rank - int(np.ceil(group["min_sparsity"] * rank))), 1.0
        case "NMSparseConstraint":
            return rj.n_m(group["n_nonzero"], group["k"], axis=0), 1.0
    raise AssertionError(kind)


def pat(trajectory: Trajectory):
    hyper, rules = trajectory.hyper, []
    for group in hyper["groups"]:
        for name in group["names"]:
            rules.append((name, *pat_regularizer(group, name)))
    strength = 1.0
    if hyper["groups"][0]["prox_type"].startswith("Global"):
        share = hyper["groups"][0]["min_sparsity"]
        strength = rj.budget(n_groups=9 - int(np.ceil(9 * share)))
    return rj.aprox(
        torch_optimizer(trajectory),
        rate(trajectory),
        rj.RegularizerMap(rules),
        strength,
        start_step=hyper["warmup_steps"],
        freeze_step=hyper["healing_start_step"],
        prox_every=hyper["groups"][0].get("prox_freq", 1),
        between_proxes="latent",
    )


@pytest.mark.parametrize("name", PAT)
def test_pat(name):
    state, trajectory = replayed(pat, name)
    if trajectory.hyper["healing_start_step"] is None:
        gamma = trajectory.recorded["gamma"][-1]
        np.testing.assert_allclose(state.gamma, gamma, rtol=1e-13)


@pytest.mark.parametrize("name", NORMAL_MAP)
def test_normal_map(name):
    def make(trajectory):
        (group,) = trajectory.hyper["groups"]
        rules = rj.RegularizerMap([(leaf, rj.l1()) for leaf in group["names"]])
        return rj.normal_map(
            torch_optimizer(trajectory),
            rate(trajectory),
            rules,
            group["strength"],
            trajectory.hyper["nm_gamma"],
        )

    _ = replayed(make, name)


@pytest.mark.parametrize("name", BREGMAN)
def test_linearized_bregman(name):
    def make(trajectory):
        hyper, factors = trajectory.hyper, {"reg_l1": rj.l1()}
        factors["reg_l1_l2"] = rj.group_lasso(-1)
        factors["reg_l1_l2_conv"] = rj.group_lasso((-2, -1))
        rules = [
            (leaf, factors.get(group["reg"]), group.get("lamda", 1.0))
            for group in hyper["groups"]
            for leaf in group["names"]
        ]
        # Our latent weights are delta times theirs, and so is the rate.
        delta, rates = hyper["delta"], rate(trajectory)
        scaled = lambda count: delta * rates(count)
        if hyper["optimizer"] == "AdaBreg":
            inner = optax.adam(scaled, *hyper["betas"], eps=hyper["eps"])
        else:
            # The rate is in the buffer of the momentum.
            average = optax.ema(hyper["momentum"], debias=False)
            inner = optax.chain(optax.scale_by_learning_rate(scaled), average)
        return rj.linbreg(inner, rj.RegularizerMap(rules), 1.0, gamma=delta)

    _ = replayed(make, name)


def parq(trajectory: Trajectory, levels):
    """ProxPARQ around SGD with momentum, with these levels of the leaves."""
    hyper = trajectory.hyper
    channel_axis = -1 if hyper["quant_per_channel"] else None
    rules = [
        (leaf, R.piecewise_affine(found, channel_axis=channel_axis))
        for leaf, found in levels.items()
    ]
    return rj.latent(
        torch_optimizer(trajectory),
        rj.RegularizerMap(rules),
        rj.parq_annealing(
            hyper["anneal_start"], hyper["anneal_end"], steepness=hyper["steepness"]
        ),
        start_step=hyper["anneal_start"],
    )


@pytest.mark.parametrize("name", PARQ)
def test_parq(name):
    trajectory = load(name)
    with jax.enable_x64(True):
        levels = {
            leaf: jnp.asarray(trajectory.recorded[f"levels/{leaf}"])
            for leaf in ("conv", "lin")
        }

        def step(carry, given):
            params, state = carry
            grads, levels = given
            updates, state = parq(trajectory, levels).update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        params = jax.tree.map(jnp.asarray, trajectory.init)
        first = jax.tree.map(lambda x: x[0], levels)
        start = params, parq(trajectory, first).init(params)
        _, history = jax.lax.scan(step, start, (trajectory.grads, levels))
    # In the update that renews the levels after annealing they take the quantizer's
    # answer, which of these two is not always the nearest level.
    renewed = trajectory.hyper["anneal_end"]
    if "4bit" in name or "optimal" in name:
        without = lambda tree: {k: np.delete(x, renewed, 0) for k, x in tree.items()}
        history = without(history)
        trajectory = trajectory._replace(params=without(trajectory.params))
    assert_same(history, trajectory, TOLERANCE)
