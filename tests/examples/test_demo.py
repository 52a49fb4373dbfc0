"""The demo: a short run of it, and the rule that chose its settings."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rmda_jax as rj
from examples._data import Split
from examples.demo import __main__ as demo, methods as _methods

# So strong that groups become zero within one epoch, without any accuracy.
METHODS = ["dense SGD", "RMDA"]
SETTING = ["--learning-rate", "0.1", "--strength", "10"]
BRIEF = ["--epochs", "1", *SETTING, "--methods", *METHODS]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run the demo once; return what it printed and the folder with its files."""
    folder = tmp_path_factory.mktemp("demo")
    files = ["--figure", str(folder / "demo.png"), "--json", str(folder / "demo.json")]
    demo.console.width = 120
    with demo.console.capture() as capture:
        demo.main([*BRIEF, *files])
    return SimpleNamespace(
        printed=capture.get(),
        figure=folder / "demo.png",
        report=json.loads((folder / "demo.json").read_text()),
    )


def test_demo_saves_the_figure(run):
    assert run.figure.read_bytes().startswith(b"\x89PNG")


def test_demo_prints_the_table_of_what_it_saves(run):
    rows = {}
    for line in run.printed.splitlines():
        method, *cells = (cell.strip() for cell in line.strip("│┃").split("│"))
        rows[method] = cells
    assert list(run.report["methods"]) == METHODS
    for method, summary in run.report["methods"].items():
        left, sparsity = summary["weights_left"], summary["group_sparsity"]
        assert rows[method] == [
            f"{summary['test_accuracy']:.2%}",
            *(f"{sparsity[w]:.2%}" for w in ("unweighted", "size", "kernel")),
            f"{left:,} ({left / summary['weights']:.2%})",
            f"epoch {summary['support_stable_since']}",
        ]


def test_demo_shows_the_progress_of_both_methods(run):
    for method in METHODS:
        line = next(x for x in run.printed.splitlines() if x.startswith(method))
        for shown in ("1/1", "loss", "accuracy", "group sparsity"):
            assert shown in line


def test_demo_measures_rmda_on_the_structured_iterate(run):
    rmda = run.report["methods"]["RMDA"]
    kept, total = np.transpose(list(rmda["channels"].values()))
    assert 0 < kept.sum() < total.sum() == 1 + 10 + 80 + 100
    assert rmda["group_sparsity"]["unweighted"] == pytest.approx(
        1 - kept.sum() / total.sum(), abs=1e-6
    )
    # Zeros are exact: what is left are the active groups, all of their weights.
    group_sizes = np.array([9 * 10, 9 * 20, 100, 10])
    assert rmda["weights_left"] == kept @ group_sizes
    assert rmda["weights"] == total @ group_sizes
    assert rmda["group_sparsity"]["size"] == pytest.approx(
        1 - rmda["weights_left"] / rmda["weights"], abs=1e-6
    )


def test_demo_ends_with_what_rmda_is_without_its_zeros(run):
    rmda = run.report["methods"]["RMDA"]
    shrunk = rmda["shrunk"]
    assert "shrunk" not in run.report["methods"]["dense SGD"]
    (n, small_n), (size, small_size) = shrunk["parameters"], shrunk["bytes"]
    assert n == rmda["weights"] + 10 + 20 + 100 + 10
    assert small_n < n
    assert (size, small_size) == (4 * n, 4 * small_n)
    assert shrunk["test_accuracy"] == 2 * [rmda["test_accuracy"]]
    last = run.printed.splitlines()[-1]
    assert last.startswith(f"RMDA, zeros removed: {n:,} -> {small_n:,} parameters, ")
    before, after = shrunk["test_accuracy"]
    assert last.endswith(f"test accuracy {before:.2%} -> {after:.2%}")


def test_units_that_nothing_reads_are_removed_from_the_demo():
    model = demo.LeNet(8, rngs=nnx.Rngs(0))
    pixels = jnp.arange(80) % 20 < 4  # of four channels: dense1 reads them flattened
    for layer, zero in (
        (model.conv2, jnp.arange(10) < 3),
        (model.dense1, pixels),
        (model.dense2, jnp.arange(100) < 7),
    ):
        layer.kernel[...] = jnp.where(zero[:, None], 0, layer.kernel[...])
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    shrunk = demo.shrink(model, Split(images, jnp.zeros(4, int)))
    n, small_n = shrunk["parameters"]
    assert n == 10_890 + 10 + 20 + 100 + 10
    widths = (9, 7), (9 * 7, 16), (4 * 16, 93), (93, 10)
    assert small_n == sum(n_in * n_out + n_out for n_in, n_out in widths)
    before, after = shrunk["test_accuracy"]
    assert before == after


def test_demo_leaves_the_dense_network_dense(run):
    dense = run.report["methods"]["dense SGD"]
    assert dense["weights_left"] == dense["weights"]
    assert set(dense["group_sparsity"].values()) == {0.0}
    assert all(kept == total for kept, total in dense["channels"].values())


def test_demo_records_its_settings_and_the_curves(run):
    assert run.report["config"]["strength"] == 10
    assert run.report["config"]["seed"] == 0
    for method in run.report["methods"].values():
        for name, curve in method["curves"].items():
            assert len(curve) == 1
            assert name == "loss" or 0 <= curve[0] <= 1


@pytest.mark.parametrize(("image_size", "n_weights"), [(8, 10_890), (28, 430_500)])
def test_lenet_fits_the_images(image_size, n_weights):
    model = demo.LeNet(image_size, rngs=nnx.Rngs(0))
    logits = model(jnp.zeros((2, image_size, image_size, 1)))
    assert logits.shape == (2, 10)
    kernels = demo._kernels(nnx.state(model, nnx.Param))
    assert list(kernels) == ["conv1", "conv2", "dense1", "dense2"]
    assert sum(kernel.size for kernel in kernels.values()) == n_weights


# One that averages gradients and one with masks on every run; all at night.
EVERY_DAY = ("RMDA", "RigL")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.long)
        for name in _methods.METHODS
    ],
)
def test_every_method_takes_a_step_and_shows_its_structure(method):
    params = nnx.state(demo.LeNet(8, rngs=nnx.Rngs(0)), nnx.Param)
    setting = demo.Config().setting(method)
    optimizer = _methods.make_optimizer(method, setting, n_steps=200)
    grads = nnx.state(demo.LeNet(8, rngs=nnx.Rngs(1)), nnx.Param)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    structured = _methods.structured(method, after, state)
    assert jax.tree.structure(structured) == jax.tree.structure(params)
    sparsity = float(rj.metrics.sparsity(structured, _methods.REGULARIZER))
    if method == "RigL":  # its counts are rounded layer by layer, twice
        assert sparsity == pytest.approx(setting.strength, abs=6 / 10_890)
    else:
        assert sparsity == 0  # after one gentle step


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


def tried(method, sparsity, accuracy):
    return {
        "method": method,
        "learning_rate": 0.1,
        "strength": sparsity,
        "validation_accuracy": accuracy,
        "group_sparsity": sparsity,
        "sparsity": 1 - sparsity,
    }


def test_choose_takes_the_sparsest_within_a_point_of_dense():
    rows = [
        tried("dense SGD", 0.0, 0.99),
        tried("RMDA", 0.8, 0.981),
        tried("RMDA", 0.9, 0.97),
        tried("RMDA", 0.5, 0.99),
        tried("RigL", 0.7, 0.979),
    ]
    chosen = demo.choose(rows)
    assert chosen["RMDA"] == (0.1, 0.8)
    assert "RigL" not in chosen


def test_settings_of_the_demo_are_those_that_were_chosen():
    lines = Path(demo.__file__).with_name("selection.jsonl").read_text()
    rows = [json.loads(line) for line in lines.splitlines()]
    chosen = demo.choose(rows)
    assert chosen == {name: m.selected for name, m in _methods.METHODS.items()}
    for name, method in _methods.METHODS.items():
        mine = [row for row in rows if row["method"] == name]
        settings = [(row["learning_rate"], row["strength"]) for row in mine]
        grid = itertools.product(method.learning_rates, method.strengths)
        assert settings == list(grid)


def test_settings_are_tried_on_seeds_and_data_of_their_own(monkeypatch):
    seeds = []

    def train(method, data, config):
        assert data.test is None
        seeds.append(config.seed)
        end = {"structured_accuracy": 0.99, "sparsity": 0.5, "group_sparsity": 0.4}
        yield SimpleNamespace(structured_accuracy=0.0, sparsity=0.0, group_sparsity=0.0)
        yield SimpleNamespace(**end)

    monkeypatch.setattr(demo, "train", train)
    config = demo.Config(methods=("RigL",))
    rows = list(demo.try_settings(SimpleNamespace(test=None), config))
    assert [row["strength"] for row in rows] == 3 * [0.8, 0.9, 0.95]
    assert all(row["validation_accuracy"] == 0.99 for row in rows)
    assert set(seeds) == set(demo.SELECTION_SEEDS)
    assert demo.Config().seed not in seeds


def test_demo_exits_with_a_message_when_data_are_missing(tmp_path):
    missing: Path = tmp_path / "nowhere"
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--dataset", "fashion_mnist", "--data-dir", str(missing)])
    # Python prints a message given to sys.exit on stderr, and exits with 1.
    message = stopped.value.code
    assert message.startswith(f"Error: {missing}: not found, expected the folder")
    assert "apt-get install dataset-fashion-mnist" in message
