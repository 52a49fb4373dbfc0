"""The identification example: its truth, its claims, and what it prints and keeps."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.identification import (
    __main__ as identification,
    methods,
    problem as problems,
    report,
)

KEPT = Path(identification.__file__).with_name("results.jsonl")
BASELINES = ("ProxSGD", "ProxGen", "ProxSSI")
# Half the steps of the kept results: three stages of 1,000 where the rate decays.
N_SEEDS, N_STEPS = 3, 3000


@pytest.fixture(scope="module")
def problem():
    return problems.make_problem()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run a shorter comparison; return what it printed, its figure and its lines."""
    folder = tmp_path_factory.mktemp("identification")
    figure, lines = folder / "new" / "figure.png", folder / "lines.jsonl"
    short = ["--seeds", str(N_SEEDS), "--steps", str(N_STEPS)]
    identification.console.width = 120
    with identification.console.capture() as capture:
        identification.main([*short, "--figure", str(figure), "--json", str(lines)])
    return SimpleNamespace(printed=capture.get(), figure=figure, **parse(lines))


def parse(path: Path) -> dict:
    truth, *rows = map(json.loads, path.read_text().splitlines())
    return {
        "truth": truth,
        "rows": [row for row in rows if "method" in row],
        "law": [row for row in rows if "law" in row],
    }


def test_optimum_satisfies_its_conditions_to_1e_10(problem):
    optimum, level = problem.optimum, problems.STRENGTH
    gradient = problem.gradient(optimum)
    active = np.any(optimum != 0, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(active), np.arange(8))
    norms = np.linalg.norm(optimum[active], axis=1, keepdims=True)
    np.testing.assert_allclose(
        gradient[active], -level * optimum[active] / norms, rtol=0, atol=1e-10
    )
    assert np.all(np.linalg.norm(gradient[~active], axis=1) < level)
    arrays = problem.curvature, problem.linear
    assert problems.error_bound(*arrays, optimum) < 1e-10
    # The bound is one: it sees a wrong value, a row too few and a row too many.
    for row, factor, shift in ((0, 1.001, 0.0), (0, 0.0, 0.0), (9, 1.0, 1e-4)):
        wrong = optimum.copy()
        wrong[row] = factor * wrong[row] + shift
        distance = np.linalg.norm(wrong - optimum)
        assert problems.error_bound(*arrays, wrong) >= distance > 0


def test_structure_of_the_optimum_is_clear_cut(problem):
    margins = problems.margins(problem)
    assert margins["largest_dual_ratio"] == pytest.approx(0.715, abs=5e-4)
    assert margins["smallest_active_norm"] == pytest.approx(0.690, abs=5e-4)


def test_expected_gradient_and_its_noise_are_those_of_the_batches(problem):
    rng = np.random.default_rng(0)
    n, size = 4000, 32
    batches = rng.integers(0, 500, (n, size))
    noise = problems.NOISE * rng.standard_normal((n, size, 40))
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


def of_method(rows, method):
    rows = [row for row in rows if row["method"] == method]
    assert {row["decay"] for row in rows} == {False, True}
    return rows


@pytest.mark.parametrize("method", methods.DUAL_AVERAGING)
def test_dual_averaging_finds_the_structure_and_keeps_it(run, method):
    for row in of_method(run.rows, method):
        # With a rate that decays, the last restart loses the structure for a while.
        start = 2 * N_STEPS // 3 if row["decay"] else 0
        assert start < row["right_since"] <= start + 750
        if not row["decay"]:
            assert row["most_wrong"] == 0
            assert row["rows_kept"] == 8


@pytest.mark.parametrize("method", BASELINES)
def test_baselines_come_as_near_and_are_never_right(run, method):
    nearest = max(
        row["distance"] for row in of_method(run.rows, "RMDA") if row["decay"]
    )
    for row in of_method(run.rows, method):
        assert row["fewest_wrong"] > 0
        assert row["wrong_groups"] > 8
        assert row["right_since"] is None
        assert not row["decay"] or row["distance"] < 1.5 * nearest


@pytest.mark.parametrize("method", BASELINES)
def test_baselines_follow_gradients_at_the_floor_of_the_law(run, method):
    # Mean norm against root mean square: up to 1 / (4 * 120) less, and the params of
    # a rate that decays hardly move; with a constant rate motion adds an error.
    floor = run.truth["gradient_noise"] * math.sqrt(0.1 / 1.9)
    for row in of_method(run.rows, method):
        assert (
            0.95 * floor
            < row["gradient_error"]
            < (1.05 if row["decay"] else 1.2) * floor
        )


@pytest.mark.parametrize("method", methods.DUAL_AVERAGING)
def test_dual_averaging_certifies_itself(run, method):
    for row in of_method(run.rows, method):
        if row["decay"]:
            assert row["gradient_error"] < 0.15
            assert row["certificate"] < 0.1
            assert row["own_certificate"] < 0.1
            assert 0 < row["own_margin"] < 1
    rivals = [row for row in run.rows if row["method"] in BASELINES]
    assert min(row["certificate"] for row in rivals) > 0.25


def test_noise_follows_the_laws():
    noise = jax.device_get(identification.variance_law(1000, 10_000))
    t = np.arange(1, 1001)
    # A deviation over n normal entries has the relative standard error sqrt(1 / 2n).
    tolerance = 4.5 / math.sqrt(2 * 10_000)
    exact = np.sqrt(np.cumsum(t)) / np.cumsum(np.sqrt(t))
    np.testing.assert_allclose(noise["RMDA"], exact, rtol=tolerance)
    momentum = np.sqrt(0.1 / 1.9 * (1 - 0.81**t))
    np.testing.assert_allclose(noise["ProxSGD"], momentum, rtol=tolerance)
    laws = report.laws(t)
    np.testing.assert_allclose(laws["RMDA"][99:], exact[99:], rtol=1 / 100)
    np.testing.assert_allclose(laws["ProxSGD"][99:], momentum[99:], rtol=1e-6)
    # Sharp enough to tell it from the law of a plain mean.
    assert abs(noise["RMDA"][-1] * math.sqrt(1000) - 1) > 2 * tolerance


def test_figure_is_saved(run):
    assert run.figure.read_bytes().startswith(b"\x89PNG")


def test_tables_print_what_the_lines_hold(run):
    cells = [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in run.printed.splitlines()
    ]
    for columns in (report.STRUCTURE, report.GRADIENTS):
        for method, decay in methods.RUNS:
            rows = [
                row
                for row in run.rows
                if (row["method"], row["decay"]) == (method, decay)
            ]
            assert [row["seed"] for row in rows] == list(range(N_SEEDS))
            expected = [method, f"{methods.METHODS[method]:g}" + " decays" * decay]
            for key, text in columns.values():
                values = [row[key] for row in rows]
                if None in values:
                    assert values == [None] * N_SEEDS
                    expected.append("never")
                    continue
                mean, *ends = map(
                    text.format, (np.mean(values), min(values), max(values))
                )
                same = ends[0] == ends[1]
                expected.append(mean if same else f"{mean} ({ends[0]}–{ends[1]})")
            assert expected in cells
    for step in report.LAW_STEPS:
        rmda, proxsgd = (row for row in run.law if row["step"] == step)
        assert (rmda["law"], proxsgd["law"]) == ("RMDA", "ProxSGD")
        texts = (f"{r['measured']:.3f} ({r['predicted']:.3f})" for r in (rmda, proxsgd))
        assert [str(step), *texts] in cells


def test_kept_results_hold_the_claims(problem):
    kept = parse(KEPT)
    assert kept["truth"]["steps"] == identification.Config().steps
    assert kept["truth"]["optimum_error_bound"] < 1e-10
    assert kept["truth"] == pytest.approx(
        kept["truth"] | problems.margins(problem), rel=1e-9
    )
    runs = [(row["method"], row["decay"], row["seed"]) for row in kept["rows"]]
    seeds = range(identification.Config().seeds)
    assert runs == [(*key, seed) for key in methods.RUNS for seed in seeds]
    for row in kept["rows"]:
        assert row["learning_rate"] == methods.METHODS[row["method"]]
        right = row["method"] in methods.DUAL_AVERAGING
        assert right == (row["most_wrong"] == 0) == (row["fewest_wrong"] == 0)
    assert KEPT.with_name("identification.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_tells_when_the_structure_became_right_for_good():
    wrong = np.array([[3, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 2], [0] * 8])
    fields = identification.Record._fields
    curves = dict.fromkeys(fields, wrong + 0.5) | {"own_margin": wrong + np.inf}
    record = identification.Record(**curves | {"wrong_groups": wrong})
    steps = np.arange(10, 90, 10)
    rows = report.summarize({("RMDA", True): record}, steps)
    assert [row["right_since"] for row in rows] == [40, None, 10]
    assert [row["most_wrong"] for row in rows] == [0, 2, 0]
    assert [row["wrong_groups"] for row in rows] == [0, 1, 0]
    assert [row["distance"] for row in rows] == [0.5, 1.5, 0.5]
    assert [row["own_margin"] for row in rows] == [None] * 3


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ([1.0, 2.0, 3.0], "2.0 (1.0–3.0)"),
        ([1.01, 1.02], "1.0"),
        ([None, None], "never"),
        ([1.0, None], "in 1 of 2"),
    ],
)
def test_mean_and_range(values, printed):
    assert report.mean_and_range(values, "{:.1f}".format) == printed


def test_select_rates_takes_the_nearest_on_other_seeds(problem, monkeypatch):
    def simulate(problem, rates, seeds, n_steps):
        assert not set(np.asarray(seeds).tolist()) & set(range(10))
        shape = (len(seeds), n_steps // 10)
        # Near at first, and in the end if the rate is right; by turns of the methods.
        end = jnp.arange(shape[1]) >= 3 * shape[1] // 4
        best = dict(zip(methods.METHODS, methods.RATES, strict=True))
        records = {}
        for method, decay in methods.RUNS:
            miss = jnp.abs(jnp.log(rates[method] / best[method])) + 0.1
            distance = jnp.broadcast_to(jnp.where(end, miss, 0), shape)
            blank = dict.fromkeys(identification.Record._fields, distance)
            if not decay:
                blank["distance"] = jnp.zeros(shape)
            records[method, decay] = identification.Record(**blank)
        return records

    monkeypatch.setattr(identification, "simulate", simulate)
    selected = identification.select_rates(problem, n_steps=400)
    assert list(selected.values()) == list(methods.RATES)
