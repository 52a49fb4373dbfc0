"""Settings, selection, the report from given logs, and the command line."""

import re

import numpy as np
import pytest

from examples.poster import logs, published, report, runs, selection
from examples.poster.__main__ import main, parse
from examples.poster.driver import Options, RunError
from examples.poster.presets import METHODS, TASKS, preset, strength_grid

MEASURES = (
    "loss",
    "accuracy",
    "groups",
    "groups_by_size",
    "groups_by_kernel",
    "weights",
)


def write_log(folder, task, method, curves, seeds=(0,), kind="run", strengths=(0.1,)):
    """Write the log of a run: for each epoch, each member's accuracy and sparsity."""
    config = {
        "kind": kind,
        "task": task,
        "method": method,
        "epochs": len(curves),
        "seeds": list(seeds),
        "strengths": list(strengths),
        "dtype": "float32",
        "settings": {
            "learning_rate": 0.1,
            "averaging": 0.1,
            "weight_decay": 0.0,
            "milestones": [1, 2],
        },
        "sources": {"learning_rate": "published (some paper)", "strength": "ours"},
    }
    path = folder / f"{kind}-{task.replace('/', '-')}-{method}-{seeds[0]}.jsonl"
    logs.start(path, config)
    for i, (accuracy, groups) in enumerate(curves):
        record = dict.fromkeys(MEASURES, groups) | {"accuracy": accuracy}
        logs.append(path, {"epoch": i + 1} | record | {"seconds": 1.0})
    return path


def rows_of(folder):
    """Write the report, and return the cells of its tables by task and method."""
    report.write(folder, folder)
    rows = {}
    for line in (folder / "RESULTS.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 4:
            rows.setdefault(tuple(cells[:2]), cells[2:])
    return rows


def test_report_prints_ours_beside_the_published(tmp_path):
    # Accuracies and sparsities of two seeds, after each of two epochs.
    curves = [([0.5, 0.5], [0.9, 0.9]), ([0.91, 0.93], [0.6, 0.7])]
    _ = write_log(tmp_path, "lenet5/fashion_mnist", "rmda", curves, seeds=(0, 1))
    row = rows_of(tmp_path)["LeNet5 (large) / Fashion-MNIST", "RMDA"]
    sparsity = "65.00 ± 7.07"
    assert row == [
        "91.4 / 66.2 ± 1.7",
        "-",
        "92.00 ± 1.41",
        *[sparsity] * 3,
        "2 x 2 epochs",
    ]
    assert (tmp_path / "sparsity.png").read_bytes().startswith(b"\x89PNG")


def test_report_takes_the_baselines_of_table_7_at_their_best(tmp_path):
    curves = [([0.9], [0.4]), ([0.8], [0.3])]
    for method in ("rmda", "proxsgd"):
        _ = write_log(tmp_path, "logistic/mnist", method, curves)
    rows = rows_of(tmp_path)
    name = "Logistic regression / MNIST"
    assert rows[name, "RMDA"] == [
        "91.34 / 57.02",
        "80.00",
        "30.00",
        "30.00",
        "1 x 2 epochs",
    ]
    assert rows[name, "ProxSGD"] == [
        "91.31 / 39.29",
        "80.00",
        "40.00",
        "30.00",
        "1 x 2 epochs",
    ]


def test_report_says_what_did_not_run(tmp_path):
    unfinished = write_log(tmp_path, "vgg19/cifar10", "rmda", [([0.9], [0.4])] * 3)
    logs.truncate(unfinished, 2)
    rows = rows_of(tmp_path)
    published_rows = {
        (report.title(task), report.NAMES[method])
        for section in report.SECTIONS
        for task, methods in section.rows.items()
        for method in methods
    }
    assert published_rows <= set(rows)
    assert all("not run" in rows[key] for key in published_rows)
    assert rows["VGG19 / CIFAR-10", "RMDA"][0] == "93.6 / 86.4 ± 0.3"


def test_report_joins_seeds_and_prefers_the_longer_run(tmp_path):
    short, long = [([0.5], [0.1])] * 2, [([0.5], [0.1])] * 2 + [([0.7], [0.3])]
    task = "vgg19/cifar10_jpeg75"
    _ = write_log(tmp_path, task, "rmda", short, seeds=(7,))
    _ = write_log(tmp_path, task, "rmda", long, seeds=(0,))
    _ = write_log(tmp_path, task, "rmda", [*long[:2], ([0.9], [0.3])], seeds=(1,))
    row = rows_of(tmp_path)["VGG19 / CIFAR-10 (JPEG-75)", "RMDA"]
    assert row[2:4] == ["80.00 ± 14.14", "30.00 ± 0.00"]
    assert row[-1] == "2 x 3 epochs"


def test_report_gives_the_source_of_every_setting(tmp_path):
    _ = write_log(tmp_path, "lenet5/mnist", "rmda", [([0.9], [0.4])])
    report.write(tmp_path, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| 0.1 [1] | 0.1 [2] | - | - | - |" in text
    assert re.findall(r"- \[(\d)\] (.*)", text) == [
        ("1", "ours"),
        ("2", "published (some paper)"),
    ]


def test_report_plots_fronts(tmp_path):
    curves = [([0.9, 0.8], [0.1, 0.5])]
    task = "lenet5/mnist"
    _ = write_log(tmp_path, task, "rmda", curves, kind="path", strengths=(0.1, 0.2))
    _ = write_log(tmp_path, task, "dense", [([0.9], [0.0])])
    report.write(tmp_path, tmp_path)
    assert (tmp_path / "fronts.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def trials(monkeypatch):
    """Let the selection see outcomes in place of training; return what it tried."""
    tried = []

    def outcome(self, settings, strengths):
        rows = []
        for strength in strengths:
            tried.append((settings.method, strength))
            # Accuracy falls by a point where the strength doubles, from 1e-3 on.
            loss = 0.0 if settings.method == "dense" else 10 * strength
            rows.append(
                {"accuracy": 0.9 - loss, "groups": 0.5, "weights": 400 * strength}
            )
        return rows

    monkeypatch.setattr(selection._Trials, "_train", outcome)
    return tried


def test_select_takes_the_largest_strength_within_tolerance(trials, tmp_path):
    options = Options(epochs=5, seeds=2, logs=tmp_path, loop="step")
    select = lambda: selection.select(
        "lenet5/mnist", ["rmda"], options, strengths=[4e-3, 5e-4, 9e-4, 2e-3]
    )
    assert select() == {"rmda": 9e-4}
    # From the largest, and no further than needed; nothing is tried twice.
    assert trials == [("dense", 0.0), ("rmda", 4e-3), ("rmda", 2e-3), ("rmda", 9e-4)]
    lines = (tmp_path / selection.FILE).read_text()
    assert select() == {"rmda": 9e-4}
    assert len(trials) == 4
    assert (tmp_path / selection.FILE).read_text() == lines


def test_a_log_goes_on_after_half_a_line(tmp_path):
    path = tmp_path / "some.jsonl"
    logs.append(path, {"a": 1})
    _ = path.write_text(path.read_text() + '{"a":')
    assert logs.read_lines(path) == [{"a": 1}]
    logs.append(path, {"a": 2})
    assert logs.read_lines(path) == [{"a": 1}, {"a": 2}]


def test_select_takes_the_smallest_strength_that_is_sparse_enough(trials, tmp_path):
    selected = selection.select(
        "lenet5/mnist",
        ["rmda_l1"],
        Options(epochs=5, logs=tmp_path, loop="step"),
        strengths=[4e-3, 2e-3, 1e-3],
        weight_sparsity=0.8,
    )
    assert selected == {"rmda_l1": 2e-3}


def test_a_rate_climbs_while_a_tenth_of_the_error_goes(monkeypatch, tmp_path):
    tried = []

    def outcome(self, settings, strengths):
        tried.append((settings.method, settings.learning_rate, settings.milestones))
        assert strengths == [0.0]
        errors = {"rmda": {0.1: 0.2, 0.3: 0.17, 1.0: 0.16}, "proxsgd": {0.1: 0.2}}
        error = errors[settings.method].get(settings.learning_rate, 0.19)
        return [{"accuracy": 1 - error, "groups": 0.0, "weights": 0.0}]

    monkeypatch.setattr(selection._Trials, "_train", outcome)
    options = Options(epochs=5, logs=tmp_path, loop="step")
    rates = selection.select_rate("lenet5/mnist", ["rmda", "proxsgd"], options)
    assert rates == {"rmda": 0.3, "proxsgd": 0.1}
    by_method = [("rmda", 0.1), ("rmda", 0.3), ("rmda", 1.0)]
    by_method += [("proxsgd", 0.1), ("proxsgd", 0.3)]
    assert tried == [(*pair, ()) for pair in by_method]


def test_dense_training_keeps_its_rate_when_another_is_given(trials, tmp_path):
    options = Options(epochs=5, logs=tmp_path, loop="step", learning_rate=0.3)
    _ = selection.select("lenet5/mnist", ["rmda"], options, strengths=[1e-4])
    rows = logs.read_lines(tmp_path / selection.FILE)
    assert [row["learning_rate"] for row in rows] == [0.01, 0.3, 0.3]


def test_select_finds_none_when_all_cost_too_much(trials, tmp_path):
    options = Options(epochs=5, logs=tmp_path, loop="vmap")
    chosen = selection.select("lenet5/mnist", ["rmda"], options, strengths=[1, 2])
    assert chosen == {"rmda": None}
    with pytest.raises(RunError, match="call `select` first, or give --strength"):
        _ = runs.run("lenet5/mnist", "rmda", options)


def test_a_run_takes_the_strength_selected_for_the_nearest_number_of_epochs(tmp_path):
    for epochs, strength in ((10, 0.1), (40, 0.4)):
        row = {"task": "lenet5/mnist", "method": "rmda", "learning_rate": 0.1}
        row |= {"epochs": epochs, "seeds": 1}
        outcome = {"selected": strength, "rule": "a rule"}
        logs.append(tmp_path / selection.FILE, row | outcome)
    for epochs, expected in ((11, (0.1, 10)), (30, (0.4, 40))):
        settings = preset("lenet5/mnist", "rmda").scaled(epochs)
        strength, source = selection.selected_strength(settings, tmp_path)
        assert strength == expected[0]
        assert source == f"selected (a rule; {expected[1]} epochs)"


NO_SETTINGS = {
    ("logistic/mnist", "rmda_l1"),
    ("logistic/mnist", "rigl"),
    ("mlp/fashion_mnist", "rmda_l1"),
    ("mlp/fashion_mnist", "rigl"),
    ("mlp/fashion_mnist", "proxssi"),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_has_a_source(task):
    for method in METHODS:
        if (task, method) in NO_SETTINGS:
            with pytest.raises(ValueError, match=f"^{method} has no"):
                _ = preset(task, method)
            continue
        used = {"epochs", "milestones", "learning_rate", "weight_decay", "structure"}
        if method != "dense":
            used.add("strength")
        assert used <= set(preset(task, method).sources)


def test_presets_hold_what_was_published():
    rmda = preset("resnet50/cifar100", "rmda")
    assert (rmda.epochs, rmda.learning_rate, rmda.averaging) == (1500, 1.0, 0.01)
    assert (rmda.strength, rmda.ramp) == (1e-5, "geometric")
    assert rmda.sources["strength"] == "published (RMDA code)"
    ramda = preset("vgg19/cifar10_jpeg75", "ramda")
    assert (ramda.strength, ramda.milestones) == (8e-7, (200, 400, 600, 800))
    assert preset("lenet5/mnist", "rmda").strength is None
    assert {task for task in published.POSTER} <= set(TASKS)


def test_milestones_scale_with_the_epochs():
    settings = preset("lenet5/mnist", "rmda").scaled(30)
    assert settings.milestones == (6, 12, 18, 24)
    assert settings.sources["milestones"].startswith("scaled from published")
    assert preset("lenet5/mnist", "rmda").scaled(500).sources["epochs"] != "given"


def test_strength_grid_doubles():
    grid = strength_grid(preset("vgg19/cifar10", "proxsgd"))
    np.testing.assert_allclose(np.divide(grid[1:], grid[:-1]), 2, rtol=0.01)
    assert 3e-5 in grid
    with pytest.raises(ValueError, match="dense has no strength to select"):
        _ = strength_grid(preset("vgg19/cifar10", "dense"))


def test_command_line_parses():
    command = parse("run lenet5/fashion_mnist rmda --epochs 30 --seeds 3".split())
    assert (command.task, command.method) == ("lenet5/fashion_mnist", "rmda")
    assert (command.options.epochs, command.options.seeds) == (30, 3)
    command = parse("select lenet5/mnist rmda proxsgd --tolerance 0.005".split())
    assert (command.methods, command.tolerance) == (("rmda", "proxsgd"), 0.005)
    command = parse("path lenet5/mnist rmda --strengths 1e-4 1e-3".split())
    assert command.strengths == (1e-4, 1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run lenet5/mnist rmda", "no strength is published or selected for rmda"),
        ("run mlp/fashion_mnist rigl", "rigl has no settings for mlp/fashion_mnist"),
        ("run logistic/mnist rmda", "not found, expected the folder of mnist"),
    ],
)
def test_command_line_ends_with_a_message(arguments, message, tmp_path):
    folders = ["--logs", str(tmp_path), "--data-dir", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit) as stopped:
        main([*arguments.split(), *folders])
    assert stopped.value.code.startswith("Error: ")
    assert message in stopped.value.code
