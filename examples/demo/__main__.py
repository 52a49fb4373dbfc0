"""Train one network by every method: dense, by RMDA, and by its baselines.

A LeNet-style network learns scikit-learn's handwritten digits. RMDA with the group
lasso on input channels finds, while it trains, which channels and neurons are not
needed, and sets all their outgoing weights to exactly zero; then they are removed. All
runs share the initial params, the order of the data and the number of epochs.

    python -m examples.demo                           # digits, all methods
    python -m examples.demo --methods RMDA ProxSGD RigL
    python -m examples.demo --dataset fashion_mnist --data-dir DIR --epochs 20
    python -m examples.demo --select > examples/demo/selection.jsonl

Structure is measured where it lives, and accuracy with it: on the structured iterate of
RMDA and RAMDA, on the params of the others. The learning rate and the strength of every
method were chosen by one rule, that of `choose`, on validation data of the digits; the
last command ran it.
"""

import dataclasses
import functools
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import rmda_jax as rj
from examples._data import N_CLASSES, DataError, Dataset, Split, load
from examples.demo.methods import (
    METHODS,
    REGULARIZER,
    MethodName,
    Setting,
    make_optimizer,
    structured,
)
from examples.demo.report import Summary, print_shrunk, print_table, save_figure

WEIGHTINGS = ("unweighted", "size", "kernel")  # ways to count a share of groups
SELECTION_SEEDS = (100, 101, 102)  # not those of reported figures
MOST_LOST = 0.01  # of accuracy, for the sake of sparsity
console = Console()


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a LeNet-style network by every method, and compare what comes out."""

    methods: tuple[MethodName, ...] = tuple(METHODS)
    """Which to run."""
    dataset: Literal["digits", "fashion_mnist", "mnist"] = "digits"
    data_dir: Path | None = None
    """Folder of the idx files, gzipped or not (digits need none)."""
    learning_rate: float | None = None
    """In the first of three stages; by default every method has the selected one."""
    strength: float | None = None
    """Of the group lasso (RigL: share of weights removed); by default the selected."""
    epochs: int = 500
    batch_size: int = 64
    seed: int = 0
    """Of the initial params and of the order of the data."""
    figure: Path = Path("out/demo.png")
    """Where to save the figure."""
    json: Path | None = None
    """Where to save the results for machines."""
    select: bool = False
    """Choose learning rates and strengths on validation data, in place of the demo."""

    def setting(self, method: str) -> Setting:
        """Return the learning rate and the strength of a method."""
        given = {"learning_rate": self.learning_rate, "strength": self.strength}
        changes = {name: x for name, x in given.items() if x is not None}
        return METHODS[method].selected._replace(**changes)


class LeNet(nnx.Module):
    """Two convolutions and two dense layers; on images of 28x28, LeNet-5's large form.

    Images as small as the digits take 3x3 windows for 5x5, and fewer units.
    """

    def __init__(self, image_size: int, *, rngs: nnx.Rngs):
        if image_size >= 16:
            window, padding, final_size = (5, 5), "VALID", (image_size - 12) // 4
            width1, width2, width3 = 20, 50, 500
        else:
            window, padding, final_size = (3, 3), "SAME", image_size // 4
            width1, width2, width3 = 10, 20, 100
        self.conv1 = nnx.Conv(1, width1, window, padding=padding, rngs=rngs)
        self.conv2 = nnx.Conv(width1, width2, window, padding=padding, rngs=rngs)
        self.dense1 = nnx.Linear(final_size**2 * width2, width3, rngs=rngs)
        self.dense2 = nnx.Linear(width3, N_CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(_max_pool(self.conv1(x)))
        x = nnx.relu(_max_pool(self.conv2(x)))
        x = nnx.relu(self.dense1(x.reshape(len(x), -1)))
        return self.dense2(x)


def _max_pool(x: jax.Array) -> jax.Array:
    # A reshape, because the gradient of a windowed reduction is slow on CPU.
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


class Epoch(NamedTuple):
    """What an epoch brought."""

    loss: float  # mean over the batches
    accuracy: float  # of the params, on the validation data
    structured_accuracy: float  # of the structured params, as all that follows
    group_sparsity: float
    sparsity: float  # share of the weights of the kernels that are zero
    support: nnx.State  # True for every active group
    model: LeNet  # good until the next epoch, which reuses its memory


def train(method: str, data: Dataset, config: Config) -> Iterator[Epoch]:
    """Train a network by one of METHODS, and yield what each epoch brought."""
    n_images, image_size = data.train.images.shape[:2]
    batch_size = min(config.batch_size, n_images)
    n_batches = n_images // batch_size
    optimizer = make_optimizer(
        method, config.setting(method), config.epochs * n_batches
    )
    model = LeNet(image_size, rngs=nnx.Rngs(config.seed))
    graphdef, params = nnx.split(model, nnx.Param)
    opt_state = optimizer.init(params)

    def loss_fn(params: nnx.State, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, params)(images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(
            logits, labels
        ).mean()

    # A jitted step, not a scan over the epoch: on CPU, XLA runs the convolutions in a
    # scan many times slower. On a GPU the scan is faster.
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: nnx.State, opt_state: optax.OptState, split: Split, batch: jax.Array
    ) -> tuple[nnx.State, optax.OptState, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(
            params, split.images[batch], split.labels[batch]
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    @jax.jit
    def measure(
        params: nnx.State, opt_state: optax.OptState
    ) -> tuple[nnx.State, jax.Array, jax.Array, nnx.State]:
        params = structured(method, params, opt_state)
        group_sparsity = rj.metrics.group_sparsity(params, REGULARIZER)
        sparsity = rj.metrics.sparsity(params, REGULARIZER)
        return params, group_sparsity, sparsity, REGULARIZER.support(params)

    rng = np.random.default_rng(config.seed)
    for _ in range(config.epochs):
        order = rng.permutation(n_images)[: n_batches * batch_size]
        losses = []
        for batch in order.reshape(n_batches, batch_size):
            params, opt_state, loss = step(params, opt_state, data.train, batch)
            losses.append(loss)
        structured_params, group_sparsity, sparsity, support = measure(
            params, opt_state
        )
        model = nnx.merge(graphdef, structured_params)
        yield Epoch(
            loss=float(np.mean(losses)),
            accuracy=float(accuracy(nnx.merge(graphdef, params), data.validation)),
            structured_accuracy=float(accuracy(model, data.validation)),
            group_sparsity=float(group_sparsity),
            sparsity=float(sparsity),
            support=support,
            model=model,
        )


@nnx.jit
def accuracy(model: LeNet, split: Split) -> jax.Array:
    """Return the share of the images that the model classifies correctly."""
    return jnp.mean(jnp.argmax(model(split.images), axis=-1) == split.labels)


def compare(data: Dataset, config: Config) -> dict[str, Summary]:
    """Train by each method and return their summaries."""
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total} {task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    summaries = {}
    with Progress(*columns, console=console, expand=True) as progress:
        for method in config.methods:
            bar = progress.add_task(method, total=config.epochs, figures="compiling")
            epochs = []
            for epoch in train(method, data, config):
                epochs.append(epoch)
                figures = (
                    f"loss {epoch.loss:.3f} accuracy {epoch.accuracy:.1%} "
                    f"group sparsity {epoch.group_sparsity:.1%}"
                )
                progress.update(bar, advance=1, figures=figures)
            summaries[method] = summarize(epochs, data.test)
            if method == "RMDA":
                summaries[method]["shrunk"] = shrink(epochs[-1].model, data.test)
    return summaries


def summarize(epochs: list[Epoch], test: Split) -> Summary:
    """Return what is reported of a run, measured on its structured params."""
    model = epochs[-1].model
    params = nnx.state(model, nnx.Param)
    kernels = _kernels(params)
    supports = jax.tree.map(lambda *s: jnp.stack(s), *(e.support for e in epochs))
    sparsity = functools.partial(rj.metrics.group_sparsity, params, REGULARIZER)
    curves = ("loss", "accuracy", "structured_accuracy", "group_sparsity")
    return {
        "test_accuracy": float(accuracy(model, test)),
        "group_sparsity": {w: float(sparsity(weighting=w)) for w in WEIGHTINGS},
        "weights": sum(k.size for k in kernels.values()),
        "weights_left": sum(int(jnp.count_nonzero(k)) for k in kernels.values()),
        # Epochs are counted from 1.
        "support_stable_since": int(rj.metrics.stable_since(supports)) + 1,
        "channels": {
            layer: (int(active.sum()), active.size)  # kept, of how many
            for layer, active in _kernels(epochs[-1].support).items()
        },
        "curves": {c: [getattr(epoch, c) for epoch in epochs] for c in curves},
    }


def shrink(model: LeNet, test: Split) -> dict[str, Any]:
    """Remove the units that zeros leave unread; return what it was and what it became.

    Each figure is a pair, before and after; latency is that of all test images.
    """
    graphdef, params = nnx.split(model)
    fn = lambda params, images: nnx.merge(graphdef, params)(images)
    plan = rj.shrink.plan(fn, params, test.images)
    small = rj.shrink.apply(plan, params)
    report = rj.shrink.report(fn, params, small, test.images, plan=plan)
    changes = {
        "parameters": report.parameters,
        "bytes": report.disk_bytes,
        "seconds": report.seconds,
    }
    return {
        "test_accuracy": [
            float(accuracy(nnx.merge(graphdef, tree), test)) for tree in (params, small)
        ],
        **{name: [change.before, change.after] for name, change in changes.items()},
    }


def _kernels(tree: nnx.State) -> dict[str, jax.Array]:
    """Return what the tree holds for the kernel of each layer."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path[0].key: leaf for path, leaf in leaves if path[1].key == "kernel"}


def try_settings(data: Dataset, config: Config) -> Iterator[dict[str, Any]]:
    """Train by every setting of every method, and yield what came of it.

    Means over SELECTION_SEEDS, on the structured params after training. Test data take
    no part.
    """
    for method in config.methods:
        tried = METHODS[method]
        for rate, strength in itertools.product(tried.learning_rates, tried.strengths):
            ends = []
            for seed in SELECTION_SEEDS:
                run = dataclasses.replace(
                    config, learning_rate=rate, strength=strength, seed=seed
                )
                *_, end = train(method, data, run)
                ends.append((end.structured_accuracy, end.sparsity, end.group_sparsity))
            accuracy, sparsity, group_sparsity = np.mean(ends, axis=0).tolist()
            yield {
                "method": method,
                "learning_rate": rate,
                "strength": strength,
                "validation_accuracy": round(accuracy, 5),
                "sparsity": round(sparsity, 5),
                "group_sparsity": round(group_sparsity, 5),
            }


def choose(tried: list[dict[str, Any]]) -> dict[str, Setting]:
    """Return the setting of every method with which the most groups are zero.

    Of those that cost at most MOST_LOST of the dense network's validation accuracy; of
    equals the one with the fewest weights, and the most accurate. A method has none if
    all of its settings cost more. Groups count, because they can be removed; by weights
    ProxGen would win, whose metric also kills what leads to neurons nothing reads.
    """
    dense = max(r["validation_accuracy"] for r in tried if r["method"] == "dense SGD")
    measures = ("group_sparsity", "sparsity", "validation_accuracy")
    chosen = {}
    for row in sorted(tried, key=lambda row: [row[measure] for measure in measures]):
        if row["validation_accuracy"] >= dense - MOST_LOST:
            setting = Setting(row["learning_rate"], row["strength"])
            chosen[row["method"]] = setting
    return chosen


def main(args: Sequence[str] | None = None) -> None:
    """Run the demo from the command line."""
    start = time.perf_counter()
    config = tyro.cli(Config, args=args)
    try:
        data = jax.device_put(load(config.dataset, config.data_dir))
    except DataError as error:
        sys.exit(f"Error: {error}")
    for path in filter(None, (config.figure, config.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if config.select:
        for row in try_settings(data._replace(test=None), config):
            print(json.dumps(row), flush=True)
        return
    summaries = compare(data, config)
    print_table(summaries, console)
    save_figure(summaries, config.figure)
    if config.json is not None:
        report = {"config": dataclasses.asdict(config), "methods": summaries}
        config.json.write_text(json.dumps(report, default=str, indent=2))
    seconds = time.perf_counter() - start
    console.print(f"Saved {config.figure} after {seconds:.0f} seconds.")
    if "RMDA" in summaries:
        print_shrunk(summaries["RMDA"]["shrunk"], console)


if __name__ == "__main__":
    main()
