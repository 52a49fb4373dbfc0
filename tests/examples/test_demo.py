"""The demo: a short run of it, and the rule that chose its strength."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import _methods
import demo
import rmda_jax as rj

# So strong that groups become zero within one epoch, without any accuracy.
METHODS = ["dense SGD", "RMDA"]
BRIEF = ["--epochs", "1", "--strength", "10", "--methods", *METHODS]


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
    assert 0 < kept.sum() < total.sum() == 1 + 20 + 200 + 500
    assert rmda["group_sparsity"]["unweighted"] == pytest.approx(
        1 - kept.sum() / total.sum(), abs=1e-6
    )
    # Zeros are exact: what is left are the active groups, all of their weights.
    group_sizes = np.array([9 * 20, 9 * 50, 500, 10])
    assert rmda["weights_left"] == kept @ group_sizes
    assert rmda["weights"] == total @ group_sizes
    assert rmda["group_sparsity"]["size"] == pytest.approx(
        1 - rmda["weights_left"] / rmda["weights"], abs=1e-6
    )


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


@pytest.mark.parametrize(("image_size", "n_weights"), [(8, 114_180), (28, 430_500)])
def test_lenet_fits_the_images(image_size, n_weights):
    model = demo.LeNet(image_size, rngs=nnx.Rngs(0))
    logits = model(jnp.zeros((2, image_size, image_size, 1)))
    assert logits.shape == (2, 10)
    kernels = demo._kernels(nnx.state(model, nnx.Param))
    assert list(kernels) == ["conv1", "conv2", "dense1", "dense2"]
    assert sum(kernel.size for kernel in kernels.values()) == n_weights


def test_demo_ends_without_averaging(run):
    curves = run.report["methods"]["RMDA"]["curves"]
    assert curves["accuracy"] == curves["structured_accuracy"]


@pytest.mark.parametrize("method", _methods.METHODS)
def test_every_method_takes_a_step_and_shows_its_structure(method):
    params = nnx.state(demo.LeNet(8, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = _methods.make_optimizer(method, 0.1, None, n_steps=200)
    grads = nnx.state(demo.LeNet(8, rngs=nnx.Rngs(1)), nnx.Param)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    structured = _methods.structured(method, params, state)
    zeros = int(rj.metrics.sparsity(structured, _methods.REGULARIZER) * 114_180 + 0.5)
    if method in ("dense SGD", "RigL"):
        assert (zeros > 0) == (method == "RigL")


@pytest.mark.parametrize(
    ("accuracies", "selected"),
    [
        ({0.25: 0.99, 0.5: 0.981, 1.0: 0.97}, 0.5),
        ({0.25: 0.99, 0.5: 0.97, 1.0: 0.981}, 1.0),
        ({0.25: 0.97, 0.5: 0.96, 1.0: 0.95}, None),
    ],
)
def test_select_strength_takes_the_largest_within_a_point(
    accuracies, selected, monkeypatch
):
    seeds = set()

    def train(method, data, config):
        # The seeds differ by symmetric noise, and test data are out of reach.
        assert not hasattr(data, "test")
        seeds.add(config.seed)
        mean = 0.99 if method == "dense SGD" else accuracies[config.strength]
        noise = {100: -0.01, 101: 0.0, 102: 0.01}[config.seed]
        yield SimpleNamespace(structured_accuracy=0.0)
        yield SimpleNamespace(structured_accuracy=mean + noise, group_sparsity=0.5)

    monkeypatch.setattr(demo, "train", train)
    method = _methods.METHODS["RMDA"]._replace(strengths=tuple(accuracies))
    monkeypatch.setitem(demo.METHODS, "RMDA", method)
    data = SimpleNamespace(train=None, validation=None)
    config = demo.Config(methods=("dense SGD", "RMDA"))
    assert demo.select_strength(data, config) == {"RMDA": selected}
    assert seeds == set(demo.SELECTION_SEEDS)
    assert demo.Config().seed not in seeds


def test_demo_exits_with_a_message_when_data_are_missing(tmp_path):
    missing: Path = tmp_path / "nowhere"
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--dataset", "fashion_mnist", "--data-dir", str(missing)])
    # Python prints a message given to sys.exit on stderr, and exits with 1.
    message = stopped.value.code
    assert message.startswith(f"Error: {missing}: not found, expected the folder")
    assert "apt-get install dataset-fashion-mnist" in message
