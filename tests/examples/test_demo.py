"""The demo: a short run of it, its rules, and the README's table of it."""

import itertools
import json
import re
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import rmda_jax as rj
from examples._data import Split
from examples._style import COLORS
from examples.demo import (
    __main__ as demo,
    augmentation,
    choice,
    figure,
    methods as _methods,
    network,
    report,
    shrinking,
    training,
)

pytestmark = pytest.mark.costly

RMDA = "RMDA, budget"
METHODS = ["dense", RMDA]
BRIEF = ["--epochs", "2", "--seeds", "2", "--learning-rate", "0.1"]
BRIEF += ["--values", "0.6", "0.5", "--methods", *METHODS]
FOLDER = Path(demo.__file__).parent
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the demo once; return what it printed and the folder with its files.

    Any accuracy is good enough here, so that a row of RMDA is chosen.
    """
    folder = tmp_path_factory.mktemp("demo")
    saved = folder / "results.jsonl"
    files = ["--figure", str(folder / "demo.png"), "--save", str(saved)]
    demo.console.width = 120
    with pytest.MonkeyPatch.context() as patch, demo.console.capture() as capture:
        patch.setattr(choice, "MOST_LOST", 1.0)
        demo.main([*BRIEF, *files])
    return SimpleNamespace(
        printed=capture.get(),
        figure=folder / "demo.png",
        saved=saved,
        fronts={row["method"]: row for row in read_lines(saved)},
    )


def read_lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def table_rows(printed):
    lines = (line.strip("│┃").split("│") for line in printed.splitlines())
    return [[cell.strip() for cell in cells] for cells in lines if len(cells) > 1]


@pytest.mark.not_daily
def test_demo_saves_the_figure(run):
    assert run.figure.read_bytes().startswith(b"\x89PNG")


def test_demo_prints_mean_and_deviation_of_what_it_saves(run):
    rows = table_rows(run.printed)
    assert list(run.fronts) == METHODS
    rmda = run.fronts[RMDA]
    (first, second), (changed, changed_too) = (
        np.asarray(x)[..., 1] for x in (rmda["test_accuracy"], rmda["changes"][-1])
    )
    row = next(row for row in rows if row[:2] == [RMDA, "keep 50%"])
    half = abs(first - second) / np.sqrt(2)
    assert row[2] == f"{50 * (first + second):.1f} ± {100 * half:.1f}"
    half = abs(changed - changed_too) / np.sqrt(2)
    assert row[5] == f"{(changed + changed_too) / 2:.1f} ± {half:.1f}"


def test_a_budget_is_kept_by_the_structured_iterate(run):
    zero = [191 - round(0.6 * 191), 191 - round(0.5 * 191)]
    shares = np.asarray(run.fronts[RMDA]["groups_zero"]) * 191
    np.testing.assert_allclose(shares, [zero, zero], rtol=1e-5)


def test_demo_prints_all_rows_and_then_those_that_were_chosen(run):
    rows = [row[:2] for row in table_rows(run.printed)]
    fronts = [["dense", "-"], [RMDA, "keep 60%"], [RMDA, "keep 50%"]]
    assert rows == [*fronts, ["dense", "-"], [RMDA, "keep 50%"]]


def test_demo_shows_the_progress_of_both_methods(run):
    for method in METHODS:
        line = next(x for x in run.printed.splitlines() if x.startswith(method))
        assert "2/2" in line
        assert "loss" in line


def test_demo_leaves_the_dense_network_dense(run):
    dense = run.fronts["dense"]
    assert dense["groups_zero"] == dense["weights_zero"] == [[0.0], [0.0]]
    assert not np.any(dense["changes"])
    assert "shrunk" not in dense


def test_demo_ends_with_what_rmda_is_without_its_zeros(run):
    rmda = run.fronts[RMDA]
    shrunk = rmda["shrunk"]
    (n, small_n), (size, small_size) = shrunk["parameters"], shrunk["bytes"]
    assert n == 10_890 + 10 + 20 + 100 + 10
    assert small_n < n
    assert (size, small_size) == (4 * n, 4 * small_n)
    before, after = shrunk["test_accuracy"]
    assert before == after == pytest.approx(rmda["test_accuracy"][0][1])
    last = run.printed.splitlines()[-1]
    assert last.startswith(f"{RMDA}, seed 0, zeros removed: {n:,} -> {small_n:,} param")
    assert last.endswith(f"test accuracy {before:.2%} -> {after:.2%}")


def test_demo_shows_saved_results_without_training(run, tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "MOST_LOST", 1.0)
    monkeypatch.setattr(demo, "load", None)
    with demo.console.capture() as capture:
        figure = str(tmp_path / "again.png")
        demo.main(["--saved", str(run.saved), "--figure", figure])
    assert table_rows(capture.get()) == table_rows(run.printed)
    assert (tmp_path / "again.png").read_bytes() == run.figure.read_bytes()


@pytest.mark.long
def test_a_front_has_the_runs_that_train_alone():
    images = jax.random.normal(jax.random.key(0), (48, 8, 8, 1))
    data = Split(images, jnp.arange(48) % 10)
    settings = [_methods.Setting(0.1, 0.6), _methods.Setting(0.3, 0.4)]
    *_, front = training.Front(RMDA, settings, (0, 1), 2, 8).train(data)
    *_, alone = training.Front(RMDA, settings[1:], (1,), 2, 8).train(data)
    mine = jax.tree.map(lambda x: x[1:, 1:], front)
    chex.assert_trees_all_close(mine, alone, rtol=1e-4, atol=1e-5)
    other = jax.tree.map(lambda x: x[:1, 1:], front)
    assert not np.allclose(other.loss, alone.loss, rtol=1e-3)
    assert front.active.shape == (2, 2, 1 + 10 + 80 + 100)
    n_active = front.active.sum(axis=-1)
    assert n_active.tolist() == [[115, 76], [115, 76]]  # 60 and 40 % of 191


def test_groups_that_change_are_counted():
    active = np.ones((3, 1, 2, 4), bool)
    active[1, 0, 0, :2] = False  # two go, and come back
    active[2, 0, 1, 3] = False  # one goes
    assert training.n_changes(list(active)).tolist() == [[[2, 0]], [[2, 1]]]


def test_flicker_is_counted_over_the_last_twentieth():
    changes = np.zeros((39, 2, 1))  # from 40 epochs
    changes[-3:, :, 0] = [[100, 100], [1, 2], [3, 4]]
    assert report.flicker({"changes": changes.tolist()}).tolist() == [[2.0], [3.0]]


def test_augmentation_shifts_by_a_pixel_and_adds_noise(monkeypatch):
    images = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1).repeat(200, axis=0)
    images = images.at[0, 0, 0].set(-2.0)  # the background
    noisy = augmentation.augment(jax.random.key(0), images)
    monkeypatch.setattr(augmentation, "NOISE", 0.0)
    shifted = augmentation.augment(jax.random.key(0), images)
    noise = np.asarray(noisy - shifted)
    # 3200 samples: the deviation is known to 0.3 / sqrt(6400), five of which are 0.02.
    assert noise.std() == pytest.approx(0.3, abs=0.02)
    assert abs(noise.mean()) < 0.03
    padded = np.pad(images[1, ..., 0], 1, constant_values=-2.0)
    places = itertools.product(range(3), repeat=2)
    expected = {padded[i : i + 4, j : j + 4].tobytes() for i, j in places}
    found = {np.asarray(image[..., 0]).tobytes() for image in shifted[1:]}
    assert found == expected


@pytest.mark.parametrize(("padding", "window"), [("SAME", 3), ("VALID", 5)])
def test_matrix_convolution_is_the_convolution(padding, window):
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    kernel = jax.random.normal(jax.random.key(1), (window, window, 3, 4))
    expected = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = network.matrix_convolution(images, kernel, (1, 1), padding)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.not_daily
def test_units_that_nothing_reads_are_removed_from_the_demo():
    model = network.LeNet(8, rngs=nnx.Rngs(0))
    pixels = jnp.arange(80) % 20 < 4  # of four channels: dense1 reads them flattened
    for layer, zero in (
        (model.conv2, jnp.arange(10) < 3),
        (model.dense1, pixels),
        (model.dense2, jnp.arange(100) < 7),
    ):
        layer.kernel[...] = jnp.where(zero[:, None], 0, layer.kernel[...])
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    params = nnx.state(model, nnx.Param)
    shrunk = shrinking.shrink(params, Split(images, jnp.zeros(4, int)))
    n, small_n = shrunk["parameters"]
    assert n == 10_890 + 10 + 20 + 100 + 10
    widths = (9, 7), (9 * 7, 16), (4 * 16, 93), (93, 10)
    assert small_n == sum(n_in * n_out + n_out for n_in, n_out in widths)
    before, after = shrunk["test_accuracy"]
    assert before == after


@pytest.mark.parametrize(("image_size", "n_weights"), [(8, 10_890), (28, 430_500)])
def test_lenet_fits_the_images(image_size, n_weights):
    images = jnp.ones((2, image_size, image_size, 1))
    model = network.LeNet(image_size, rngs=nnx.Rngs(0))
    logits = model(images)
    assert logits.shape == (2, 10)
    as_products = training.network(image_size, 0)(images)
    np.testing.assert_allclose(as_products, logits, rtol=1e-4, atol=1e-5)
    kernels = training.kernels(nnx.state(model, nnx.Param))
    assert list(kernels) == ["conv1", "conv2", "dense1", "dense2"]
    assert sum(kernel.size for kernel in kernels.values()) == n_weights


# One that averages gradients, by a budget, and one that does not; all at night.
EVERY_DAY = ("RMDA, budget", "ProxSGD")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.long)
        for name in _methods.METHODS
    ],
)
def test_every_method_takes_a_step_and_shows_its_structure(method):
    params = nnx.state(network.LeNet(8, rngs=nnx.Rngs(0)), nnx.Param)
    setting = demo.Config().settings(method)[0]
    optimizer = _methods.make_optimizer(method, setting, n_steps=200)
    grads = nnx.state(network.LeNet(8, rngs=nnx.Rngs(1)), nnx.Param)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    structured = _methods.structured(method, after, state)
    assert jax.tree.structure(structured) == jax.tree.structure(params)
    # After one gentle step, and before the ramp of a budget.
    assert float(rj.metrics.sparsity(structured, _methods.REGULARIZER)) == 0


def test_demo_ends_without_averaging():
    for method in ("RMDA", "RAMDA"):
        n_steps = 10_000
        params = {"layer": {"kernel": jnp.ones((2, 2))}}
        optimizer = _methods.make_optimizer(method, _methods.Setting(0.1, 0.0), n_steps)
        state = optimizer.init(params)
        # The params after the last update are the structured iterate of this method.
        late = state._replace(count=jnp.int32(n_steps - 1))
        updates, state = optimizer.update(params, late, params)
        structured = _methods.structured(method, params, state)
        after = optax.apply_updates(params, updates)
        chex.assert_trees_all_equal(after, structured)
        assert not np.array_equal(after["layer"]["kernel"], params["layer"]["kernel"])


def row(method, sparsity, accuracy):
    return {
        "method": method,
        "learning_rate": 0.1,
        "value": sparsity,
        "validation_accuracy": accuracy,
        "groups_zero": sparsity,
        "weights_zero": 1 - sparsity,
    }


def test_choose_takes_the_sparsest_within_a_point_of_dense():
    rows = [
        row("dense", 0.0, 0.99),
        row("RMDA", 0.8, 0.981),
        row("RMDA", 0.9, 0.97),
        row("RMDA", 0.5, 0.99),
        row("ProxSGD", 0.7, 0.979),
    ]
    chosen = choice.choose(rows)
    assert chosen["RMDA"] == rows[1]
    assert "ProxSGD" not in chosen


def test_learning_rates_of_the_demo_are_those_that_were_chosen():
    rows = read_lines(FOLDER / "selection.jsonl")
    chosen = {name: row["learning_rate"] for name, row in choice.choose(rows).items()}
    assert chosen == {name: m.selected for name, m in _methods.METHODS.items()}
    for name, method in _methods.METHODS.items():
        mine = [row for row in rows if row["method"] == name]
        settings = [(row["learning_rate"], row["value"]) for row in mine]
        values = method.values[:: choice.EVERY]
        assert settings == list(itertools.product(method.learning_rates, values))


def test_learning_rates_are_tried_on_seeds_and_data_of_their_own(monkeypatch):
    seen = []

    class Front:
        def __init__(self, method, settings, seeds, epochs, batch_size):
            seen.extend(seeds)
            self.shape = len(seeds), len(settings)

        def train(self, data):
            yield SimpleNamespace(params=np.zeros(self.shape))
            yield SimpleNamespace(params=np.full(self.shape, 0.5))

    measures = ("accuracy", "groups_zero", "weights_zero")
    monkeypatch.setattr(choice, "Front", Front)
    monkeypatch.setattr(
        choice, "measure", lambda params, images: dict.fromkeys(measures, params)
    )
    data = SimpleNamespace(train=None, validation=None)  # and no test images
    rows = list(choice.try_settings(data, ("RMDA",), 1, 64))
    assert [row["value"] for row in rows] == 3 * [*_methods.STRENGTHS[::2]]
    assert all(row["validation_accuracy"] == 0.5 for row in rows)
    assert tuple(seen) == choice.SELECTION_SEEDS
    assert not set(seen) & set(range(demo.Config().seeds))


def saved_results():
    return read_lines(FOLDER / "results.jsonl")


def test_curves_have_names_and_the_colours_of_every_figure():
    drawn = Figure()
    axes = drawn.subplots()
    figure.plot_fronts(axes, saved_results())
    figure.label_ends(axes)
    assert axes.get_legend() is None
    assert {text.get_text() for text in axes.texts} == set(_methods.METHODS)
    for line in axes.lines:
        if line.get_label() in _methods.METHODS:
            name = line.get_label().removesuffix(", budget")
            assert to_hex(line.get_color()) == COLORS[name].lower()


def readme_rows():
    """Return the cells of the README's table of the demo."""
    lines = re.search(r"\| method \| strength \|.*\n\|[-| ]+\n((?:\|.*\n)+)", README)
    return [
        [x.strip() for x in line.strip("|").split("|")]
        for line in lines[1].split("\n")
        if line
    ]


def test_readme_shows_the_results_that_are_kept():
    summaries = saved_results()
    places = report.chosen_rows(summaries)
    assert list(places) == list(_methods.METHODS)
    assert readme_rows() == [
        report.cells(summary, places[summary["method"]]) for summary in summaries
    ]


def disagreements(shown, found, n_seeds):
    """Return the cells of two tables whose means differ by more than chance.

    By five standard errors of their difference, 1 in 1000 of Student's t with eight
    degrees of freedom, and the rounding to a decimal.
    """
    wrong = []
    for ours, theirs in zip(shown, found, strict=True):
        assert ours[:1] == theirs[:1]
        for one, other in zip(ours[2:], theirs[2:], strict=True):
            (mean, deviation), (mean2, deviation2) = (
                map(float, cell.split(" ± ")) for cell in (one, other)
            )
            error = np.hypot(deviation, deviation2) / np.sqrt(n_seeds)
            if abs(mean - mean2) > 5 * error + 0.1:
                wrong.append((ours[0], one, other))
    return wrong


def test_a_mean_is_compared_by_its_deviation():
    shown = [["RMDA", "0.1", "95.0 ± 1.0"]]
    assert disagreements(shown, [["RMDA", "0.1", "98.2 ± 1.0"]], n_seeds=5) == []
    far = [["RMDA", "0.1", "98.3 ± 1.0"]]
    assert disagreements(shown, far, n_seeds=5) == [
        ("RMDA", "95.0 ± 1.0", "98.3 ± 1.0")
    ]


@pytest.mark.long
def test_a_run_on_this_machine_agrees_with_the_readme(tmp_path):
    saved = tmp_path / "results.jsonl"
    figure = str(tmp_path / "demo.png")
    demo.main(["--save", str(saved), "--figure", figure])
    # The same values, also if on this machine others would be chosen.
    places = report.chosen_rows(saved_results())
    fronts = read_lines(saved)
    found = [report.cells(front, places[front["method"]]) for front in fronts]
    assert disagreements(readme_rows(), found, demo.Config().seeds) == []


def test_demo_exits_with_a_message_when_data_are_missing(tmp_path):
    missing: Path = tmp_path / "nowhere"
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--dataset", "fashion_mnist", "--data-dir", str(missing)])
    # Python prints a message given to sys.exit on stderr, and exits with 1.
    message = stopped.value.code
    assert message.startswith(f"Error: {missing}: not found, expected the folder")
    assert "apt-get install dataset-fashion-mnist" in message
