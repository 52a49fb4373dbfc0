"""The identification example: its truth, its claims, and what it prints and keeps."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from examples.identification import (
    __main__ as identification,
    comparison,
    every,
    figure,
    inner,
    law,
    methods,
    problem as problems,
    report,
    simulation,
)

pytestmark = pytest.mark.costly

FOLDER = Path(identification.__file__).parent
TRUTHS = identification.truths()
# Right for good where the learning rate decays, on both sums and with every seed.
RIGHT = (*methods.DUAL_AVERAGING, "normal map", "AProx, SGD", "LinBreg")
# Half the steps of the kept results: three stages of 1,000 where the rate decays. The
# rates that were chosen for 6,000 steps are too small for so few.
N_SEEDS, N_STEPS, FASTER = 3, 3000, 3.0


def runs_of(rows):
    return [(row["method"], row["decays"]) for row in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a shorter comparison; return what it printed, its figure and its lines.

    To compile all methods takes a minute or two: what asks for this runs at night.
    """
    folder = tmp_path_factory.mktemp("identification")
    picture, lines = folder / "new" / "figure.png", folder / "lines.jsonl"
    short = ["--seeds", str(N_SEEDS), "--steps", str(N_STEPS)]
    identification.console.width = 120
    faster = {
        method: setting._replace(learning_rate=FASTER * setting.learning_rate)
        for method, setting in methods.METHODS.items()
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        identification.console.capture() as capture,
    ):
        for method, setting in faster.items():
            patch.setitem(methods.METHODS, method, setting)
        identification.main([*short, "--figure", str(picture), "--json", str(lines)])
    return SimpleNamespace(printed=capture.get(), figure=picture, **parse(lines))


def parse(path: Path) -> dict:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return {
        "truth": {row["truth"]: row for row in rows if "truth" in row},
        "panels": {
            panel: [row for row in rows if row.get("panel") == panel]
            for panel in TRUTHS
        },
        "law": [row for row in rows if "law" in row],
    }


@pytest.mark.parametrize("name", TRUTHS)
def test_optimum_satisfies_its_conditions_to_1e_10(name):
    problem = TRUTHS[name]
    optimum, level = problem.optimum, problems.STRENGTH
    gradient = problem.gradient(optimum)
    active = np.any(optimum != 0, axis=1)
    expected = [*range(6), 8, 9] if name == "drift" else range(8)
    np.testing.assert_array_equal(np.flatnonzero(active), expected)
    norms = np.linalg.norm(optimum[active], axis=1, keepdims=True)
    np.testing.assert_allclose(
        gradient[active], -level * optimum[active] / norms, rtol=0, atol=1e-10
    )
    assert np.all(np.linalg.norm(gradient[~active], axis=1) < level)
    arrays = problem.curvature, problem.linear
    assert problems.error_bound(*arrays, optimum) < 1e-10
    # The bound is one: it sees a wrong value, a row too few and a row too many.
    for row, factor, shift in ((0, 1.001, 0.0), (0, 0.0, 0.0), (11, 1.0, 1e-4)):
        wrong = optimum.copy()
        wrong[row] = factor * wrong[row] + shift
        distance = np.linalg.norm(wrong - optimum)
        assert problems.error_bound(*arrays, wrong) >= distance > 0


@pytest.mark.parametrize(
    ("name", "ratio", "norm"),
    [
        ("infinite sum", 0.715, 0.690),
        ("finite sum", 0.611, 0.747),
        ("drift", 0.731, 0.597),
    ],
)
def test_structure_of_the_optimum_is_clear_cut(name, ratio, norm):
    margins = problems.margins(TRUTHS[name])
    assert margins["largest_dual_ratio"] == pytest.approx(ratio, abs=5e-4)
    assert margins["smallest_active_norm"] == pytest.approx(norm, abs=5e-4)


@pytest.mark.parametrize("name", TRUTHS)
def test_expected_gradient_and_its_noise_are_those_of_the_batches(name):
    problem = TRUTHS[name]
    rng = np.random.default_rng(0)
    n, size = 4000, 32
    batches = rng.integers(0, 500, (n, size))
    noise = problem.noise * rng.standard_normal((n, size, 40))
    inputs = problem.inputs[batches] + noise
    errors = inputs @ problem.optimum - problem.targets[batches]
    gradients = np.swapaxes(inputs, 1, 2) @ errors / size
    noise = problems.gradient_noise(problem, size)
    squares = np.sum((gradients - problem.gradient(problem.optimum)) ** 2, axis=(1, 2))
    standard_error = np.std(squares) / math.sqrt(n)
    assert abs(np.mean(squares) - noise**2) < 4 * standard_error
    # The mean of n has the noise of one, divided by sqrt(n).
    error = np.linalg.norm(gradients.mean(0) - problem.gradient(problem.optimum))
    assert error < 1.3 * noise / math.sqrt(n)


def test_data_drift_in_two_rows_and_in_nothing_else():
    before, after = TRUTHS["infinite sum"], TRUTHS["drift"]
    for name in ("inputs", "curvature"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
    # The change of the targets is linear in the four inputs that it is made of.
    change = after.targets - before.targets
    of_all = np.linalg.lstsq(before.inputs, change)[0]
    moved = np.linalg.norm(of_all, axis=1) > 1e-10
    np.testing.assert_array_equal(np.flatnonzero(moved), [6, 7, 8, 9])


@pytest.mark.not_daily
def test_simulation_steps_as_a_loop_does():
    """One method with two settings, and the drift, against the loop that it is."""
    first, later = map(problems.as_float32, (TRUTHS["infinite sum"], TRUTHS["drift"]))
    settings = [methods.Setting(0.1), methods.Setting(0.03)]
    make = lambda s: methods.make_optimizer("ProxSGD", s, 40)
    entry = simulation.Entry("ProxSGD", make, simulation.stack(settings))

    @jax.jit
    def run(first, later):
        tried = {"it": entry}
        return simulation.simulate(first, tried, jnp.array([5]), 40, (later, 20))

    records = run(first, later)
    for i, setting in enumerate(settings):
        tx = make(setting)
        params = jnp.zeros((40, 3))
        state, distances = tx.init(params), []
        for t in range(40):
            which, noise = jax.random.split(jax.random.fold_in(jax.random.key(5), t))
            batch = jax.random.randint(which, (32,), 0, 500)
            inputs = first.inputs[batch]
            inputs += 0.3 * jax.random.normal(noise, inputs.shape)
            targets = (first if t < 20 else later).targets[batch]
            grads = inputs.T @ (inputs @ params - targets) / 32
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            if t % 10 == 9:
                optimum = (first if t < 20 else later).optimum
                distances.append(np.linalg.norm(params - optimum))
        found = records["it"].distance[i, 0]
        np.testing.assert_allclose(found, distances, rtol=1e-4)
        assert not np.allclose(records["it"].distance[1 - i, 0], distances, rtol=0.01)


def of(rows, method, decays):
    (row,) = (r for r in rows if (r["method"], r["decays"]) == (method, decays))
    return row


@pytest.mark.long
@pytest.mark.parametrize("panel", comparison.PANELS)
@pytest.mark.parametrize("method", RIGHT)
def test_averages_find_the_structure_and_keep_it(run, method, panel):
    restarts = method in ("RMDA", "RAMDA")
    row = of(run.panels[panel], method, True)
    # The last restart loses the structure of RMDA and RAMDA for a while.
    start = 2 * N_STEPS // 3 if restarts and panel == "infinite sum" else 0
    for since in row["right_since"]:
        assert start < since <= (2 * N_STEPS // 3 + 750 if restarts else N_STEPS // 2)
    row = of(run.panels[panel], method, not restarts)
    assert max(row["most_wrong"]) == 0
    assert row["rows_kept"] == [8] * N_SEEDS


@pytest.mark.long
@pytest.mark.parametrize("method", methods.BASELINES)
def test_baselines_come_as_near_and_are_never_right(run, method):
    rows = run.panels["infinite sum"]
    nearest = max(of(rows, "RMDA", True)["distance"])
    for decays in (False, True):
        row = of(rows, method, decays)
        assert min(row["fewest_wrong"]) > 0
        assert min(row["wrong_groups"]) > 8
        assert row["right_since"] == [None] * N_SEEDS
        assert not decays or max(row["distance"]) < 1.5 * nearest


@pytest.mark.long
@pytest.mark.parametrize("method", methods.BASELINES)
def test_baselines_follow_gradients_at_the_floor_of_the_law(run, method):
    # Mean norm against root mean square: up to 1 / (4 * 120) less, and the params of
    # a rate that decays hardly move; with a constant rate motion adds an error.
    for panel in comparison.PANELS:
        floor = run.truth[panel]["gradient_noise"] * math.sqrt(0.1 / 1.9)
        for decays, most in ((False, 1.2), (True, 1.05)):
            for error in of(run.panels[panel], method, decays)["gradient_error"]:
                assert 0.95 * floor < error < most * floor


@pytest.mark.long
@pytest.mark.parametrize("method", methods.DUAL_AVERAGING)
def test_dual_averaging_certifies_itself(run, method):
    row = of(run.panels["infinite sum"], method, True)
    for key, most in {
        "gradient_error": 0.2,
        "certificate": 0.15,
        "own_certificate": 0.15,
        "own_margin": 1,
    }.items():
        assert 0 < min(row[key]) <= max(row[key]) < most
    rows, rivals = run.panels["infinite sum"], methods.BASELINES
    rivals = [of(rows, rival, True) for rival in rivals]
    assert min(min(row["certificate"]) for row in rivals) > 0.25


def test_prox_of_what_the_normal_map_follows_gives_its_params():
    setting = methods.Setting(0.1)
    tx = methods.make_optimizer("normal map", setting, 100)
    params = jnp.zeros((4, 2))
    state = tx.init(params)
    for grads in 1.0 + jax.random.normal(jax.random.key(0), (50, 4, 2)):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    followed = methods.followed_gradient("normal map", params, state)
    again = methods.REGULARIZER.prox(params - followed, problems.STRENGTH)
    np.testing.assert_allclose(again, params, rtol=1e-5)


@pytest.mark.parametrize("decays", [False, True])
def test_the_momentum_inside_of_aprox_is_an_average(decays):
    """Else the strength would not be the one that is asked for."""
    schedules = methods.in_stages(decays, 30)
    rate = lambda count: 0.2 * schedules["learning_rate"](count)
    tx = methods.averaged_sgd(rate)
    params = jnp.zeros(2)
    state, total = tx.init(params), params
    for count in range(30):
        updates, state = tx.update(jnp.ones(2), state, params)
        share = 1 - 0.9 ** (count + 1)
        np.testing.assert_allclose(updates, -rate(count) * share, rtol=1e-5)
        total += updates
    assert float(rate(29)) == pytest.approx(0.002 if decays else 0.2)


@pytest.mark.not_daily
def test_noise_follows_the_laws():
    noise = jax.device_get(law.variance_law(1000, 10_000))
    t = np.arange(1, 1001)
    # A deviation over n normal entries has the relative standard error sqrt(1 / 2n).
    tolerance = 4.5 / math.sqrt(2 * 10_000)
    exact = np.sqrt(np.cumsum(t)) / np.cumsum(np.sqrt(t))
    np.testing.assert_allclose(noise["RMDA"], exact, rtol=tolerance)
    momentum = np.sqrt(0.1 / 1.9 * (1 - 0.81**t))
    np.testing.assert_allclose(noise["ProxSGD"], momentum, rtol=tolerance)
    laws = law.laws(t)
    np.testing.assert_allclose(laws["RMDA"][99:], exact[99:], rtol=1 / 100)
    np.testing.assert_allclose(laws["ProxSGD"][99:], momentum[99:], rtol=1e-6)
    # Sharp enough to tell it from the law of a plain mean.
    assert abs(noise["RMDA"][-1] * math.sqrt(1000) - 1) > 2 * tolerance


@pytest.mark.long
def test_figure_is_saved(run):
    assert run.figure.read_bytes().startswith(b"\x89PNG")
    for shown in (figure.SHOWN, figure.WITH_GRADIENT, figure.IN_DRIFT):
        assert set(shown) <= set(figure.STYLES)


def cells_of(printed: str) -> list[list[str]]:
    lines = printed.splitlines()
    return [[c.strip() for c in x.split("  ") if c.strip()] for x in lines]


@pytest.mark.long
def test_tables_print_what_the_lines_hold(run):
    cells = cells_of(run.printed)
    wanted = [(row, report.DRIFT) for row in run.panels["drift"]]
    for panel in comparison.PANELS:
        rows = run.panels[panel]
        assert runs_of(rows) == list(comparison.RUNS)
        wanted += [(row, report.STRUCTURE) for row in rows]
        followed = [r for r in rows if r["decays"] and r["gradient_error"][0]]
        wanted += [(row, report.GRADIENTS) for row in followed]
    for row, columns in wanted:
        expected = [row["method"]]
        if columns is not report.GRADIENTS:
            expected += [report.rate_text(row), report.wrong_text(row)]
        for key, text in columns.values():
            assert len(row[key]) == N_SEEDS
            expected.append(report.mean_and_range(row[key], text.format))
        assert expected in cells
    for step in report.LAW_STEPS:
        rmda, proxsgd = (row for row in run.law if row["step"] == step)
        assert (rmda["law"], proxsgd["law"]) == ("RMDA", "ProxSGD")
        texts = (f"{r['measured']:.3f} ({r['predicted']:.3f})" for r in (rmda, proxsgd))
        assert [str(step), *texts] in cells


def test_kept_results_hold_the_claims():
    kept = parse(FOLDER / "results.jsonl")
    n = identification.Config().seeds
    for name, problem in TRUTHS.items():
        truth = kept["truth"][name]
        assert truth["optimum_error_bound"] < 1e-10
        for key, margin in problems.margins(problem).items():
            assert truth[key] == pytest.approx(margin, rel=1e-9)
    for panel in comparison.PANELS:
        rows = kept["panels"][panel]
        assert runs_of(rows) == [*comparison.RUNS]
        for row in rows:
            setting = methods.METHODS[row["method"]]
            assert (row["learning_rate"], row["factor"]) == setting[:2]
            assert len(row["distance"]) == n
            # What was selected for Adam on the infinite sum is right there alone.
            right = row["method"] in RIGHT
            right |= row["method"] == "AProx, Adam" and panel == "infinite sum"
            assert right == (max(row["most_wrong"]) == 0)
    infinite = kept["panels"]["infinite sum"]
    for method in methods.BASELINES:
        for decays in (False, True):
            assert min(of(infinite, method, decays)["fewest_wrong"]) > 0
    drift = {row["method"]: row for row in kept["panels"]["drift"]}
    assert tuple(drift) == comparison.DRIFT_METHODS
    soonest = max(drift["RMDA"]["steps_until_right"])
    for method in ("normal map", "AProx, SGD"):
        assert soonest < min(drift[method]["steps_until_right"])
    assert (FOLDER / "identification.png").read_bytes().startswith(b"\x89PNG")


def test_kept_results_of_inner_optimizers_are_of_the_selected_settings():
    lines = (FOLDER / "inner.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert runs_of(rows) == [*comparison.INNER_RUNS]
    for row in rows:
        setting = inner.SELECTED[row["method"]]
        assert (row["learning_rate"], row["factor"]) == setting[:2]
        assert len(row["distance"]) == identification.Config().seeds


def test_kept_results_of_fewer_proxes():
    lines = (FOLDER / "every.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    n = every.Config().seeds
    assert all(len(row["distance"]) == n for row in rows)

    def distance(prox_every, between, rate=0.003):
        wanted = dict(prox_every=prox_every, between=between, learning_rate=rate)
        (row,) = (row for row in rows if wanted.items() <= row.items())
        return round(float(np.mean(row["distance"])), 2), max(row["most_wrong"])

    ours, theirs = every.BETWEEN
    for prox_every in every.EVERY:
        assert distance(prox_every, ours) == (0.03, 0)
    # The norm of the optimum: all params are zero.
    assert distance(10, theirs, 0.01) == (5.27, 8)
    assert [distance(k, theirs)[0] for k in (2, 10)] == [2.10, 3.36]


@pytest.mark.long
def test_between_two_proxes_the_params_are_what_is_said():
    rows = every.compare(jnp.arange(1), 50)
    assert len(rows) == (2 * len(every.EVERY) - 1) * len(every.RATES)
    grads, params = jnp.ones((40, 3)), jnp.ones((40, 3))
    for between in every.BETWEEN:
        tx = every.make(methods.Setting(0.1), 2, between)
        state, x = tx.init(params), params
        gaps = []
        for _ in range(3):
            updates, state = tx.update(grads, state, x)
            x = optax.apply_updates(x, updates)
            gaps.append(float(jnp.abs(x - state.latent).max()))
        # The first prox is in the second update.
        assert gaps[0] == 0 < gaps[1]
        assert gaps[2] == pytest.approx(gaps[1] if between == "params move" else 0)


def test_a_row_tells_when_the_structure_became_right_for_good():
    wrong = np.array([[3, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 2], [0] * 8])
    fields = simulation.Record._fields
    curves = dict.fromkeys(fields, wrong + 0.5) | {"own_margin": wrong + np.inf}
    record = simulation.Record(**curves | {"wrong_groups": wrong})
    steps = np.arange(10, 90, 10)
    settings = {"RMDA": methods.Setting(0.1)}
    (row,) = report.summarize({methods.Run("RMDA", True): record}, settings, steps)
    assert row["right_since"] == [40, None, 10]
    assert row["most_wrong"] == [0, 2, 0]
    assert row["wrong_groups"] == [0, 1, 0]
    assert row["distance"] == [0.5, 1.5, 0.5]
    assert row["own_margin"] == [None] * 3
    (row,) = report.summarize_drift({"RMDA": record}, settings, steps, 30)
    assert row["wrong_before"] == [1, 0, 0]
    assert row["steps_until_right"] == [10, None, -20]
    assert "right_since" not in row


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ([1.0, 2.0, 3.0], "2.0 (1.0–3.0)"),
        ([1.01, 1.02], "1.0"),
        ([None, None], "-"),
        ([1.0, None], "in 1 of 2"),
    ],
)
def test_mean_and_range(values, printed):
    assert report.mean_and_range(values, "{:.1f}".format) == printed
