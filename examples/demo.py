"""Train one network by every method: dense, by RMDA, and by its rivals.

A LeNet-style network learns scikit-learn's handwritten digits. RMDA with the group
lasso on input channels finds, while it trains, which channels and neurons are not
needed, and sets all their outgoing weights to exactly zero. All runs share the initial
params, the order of the data and the number of epochs.

    python examples/demo.py                           # digits, about a minute
    python examples/demo.py --methods RMDA ProxSGD RigL
    python examples/demo.py --dataset fashion_mnist --data-dir DIR --epochs 20

Structure is measured where it lives, and accuracy with it: on the structured iterate of
RMDA and RAMDA, on the params of the others. RMDA's strength was chosen by the rule of
`select_strength` on the validation data of the digits; `--select-strength` runs it, for
the rivals, too, for which it has not been run yet.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import rmda_jax as rj
from _data import N_CLASSES, DataError, Dataset, Split, load
from _methods import METHODS, REGULARIZER, MethodName, make_optimizer, structured
from _report import Summary, print_table, save_figure

WEIGHTINGS = ("unweighted", "size", "kernel")  # ways to count a share of groups
SELECTION_SEEDS = (100, 101, 102)  # not those of reported figures
console = Console()


@dataclasses.dataclass(frozen=True)
class Config:
    """Train a LeNet-style network by every method, and compare what comes out."""

    methods: tuple[MethodName, ...] = ("dense SGD", "RMDA")
    """Which to run, of all in METHODS."""
    dataset: Literal["digits", "fashion_mnist", "mnist"] = "digits"
    data_dir: Path | None = None
    """Folder of the idx files, gzipped or not (digits need none)."""
    learning_rate: float = 0.1
    """Of SGD, RMDA, ProxSGD and RigL, in the first of three stages; RAMDA takes a tenth
    of it, ProxGen and ProxSSI a hundredth."""
    strength: float | None = None
    """Of the group lasso (RigL: share of weights removed), for every method; by default
    each has the one that was selected for it."""
    epochs: int = 500
    batch_size: int = 64
    seed: int = 0
    """Of the initial params and of the order of the data."""
    figure: Path = Path("demo.png")
    """Where to save the figure."""
    json: Path | None = None
    """Where to save the results for machines."""
    select_strength: bool = False
    """Choose the strength on the validation data, in place of the demo."""


class LeNet(nnx.Module):
    """Two convolutions and two dense layers: 20, 50, 500 and 10 units."""

    def __init__(self, image_size: int, *, rngs: nnx.Rngs):
        # 5x5 windows as in LeNet-5, but images as small as the digits take 3x3.
        if image_size >= 16:
            window, padding, final_size = (5, 5), "VALID", (image_size - 12) // 4
        else:
            window, padding, final_size = (3, 3), "SAME", image_size // 4
        self.conv1 = nnx.Conv(1, 20, window, padding=padding, rngs=rngs)
        self.conv2 = nnx.Conv(20, 50, window, padding=padding, rngs=rngs)
        self.dense1 = nnx.Linear(final_size**2 * 50, 500, rngs=rngs)
        self.dense2 = nnx.Linear(500, N_CLASSES, rngs=rngs)

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
    support: nnx.State  # True for every active group
    model: LeNet  # good until the next epoch, which reuses its memory


def train(method: str, data: Dataset, config: Config) -> Iterator[Epoch]:
    """Train a network by one of METHODS, and yield what each epoch brought."""
    n_images, image_size = data.train.images.shape[:2]
    batch_size = min(config.batch_size, n_images)
    n_batches = n_images // batch_size
    optimizer = make_optimizer(
        method, config.learning_rate, config.strength, config.epochs * n_batches
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
    ) -> tuple[nnx.State, jax.Array, nnx.State]:
        params = structured(method, params, opt_state)
        group_sparsity = rj.metrics.group_sparsity(params, REGULARIZER)
        return params, group_sparsity, REGULARIZER.support(params)

    rng = np.random.default_rng(config.seed)
    for _ in range(config.epochs):
        order = rng.permutation(n_images)[: n_batches * batch_size]
        losses = []
        for batch in order.reshape(n_batches, batch_size):
            params, opt_state, loss = step(params, opt_state, data.train, batch)
            losses.append(loss)
        structured_params, group_sparsity, support = measure(params, opt_state)
        model = nnx.merge(graphdef, structured_params)
        yield Epoch(
            loss=float(np.mean(losses)),
            accuracy=float(accuracy(nnx.merge(graphdef, params), data.validation)),
            structured_accuracy=float(accuracy(model, data.validation)),
            group_sparsity=float(group_sparsity),
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
        "support_stable_since": int(rj.metrics.support_stable_since(supports)) + 1,
        "channels": {
            layer: (int(active.sum()), active.size)  # kept, of how many
            for layer, active in _kernels(epochs[-1].support).items()
        },
        "curves": {c: [getattr(epoch, c) for epoch in epochs] for c in curves},
    }


def _kernels(tree: nnx.State) -> dict[str, jax.Array]:
    """Return what the tree holds for the kernel of each layer."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path[0].key: leaf for path, leaf in leaves if path[1].key == "kernel"}


def select_strength(data: Dataset, config: Config) -> dict[str, float | None]:
    """Return each method's largest strength that costs at most one point of accuracy.

    The accuracy is that of the structured params after training, on the validation
    data, and is compared with that of the dense network; both are means over
    SELECTION_SEEDS. Test data take no part. None if all of a method's strengths cost
    more.

    For RMDA with the defaults, 99.30 % dense; 99.58 %, 99.02 %, 98.74 %, 97.21 % and
    92.61 % for its strengths in their order: 1e-3 is selected.
    """

    def mean_accuracy(method: str, strength: float) -> float:
        ends = []
        for seed in SELECTION_SEEDS:
            changed = dataclasses.replace(config, strength=strength, seed=seed)
            *_, end = train(method, data, changed)
            ends.append((end.structured_accuracy, end.group_sparsity))
        accuracy, group_sparsity = np.mean(ends, axis=0).tolist()
        row = {
            "method": method,
            "strength": strength,
            "validation_accuracy": round(accuracy, 5),
            "group_sparsity": round(group_sparsity, 5),
        }
        print(json.dumps(row), flush=True)
        return accuracy

    lowest = mean_accuracy("dense SGD", strength=0.0) - 0.01
    selected = {}
    for method in config.methods:
        if method != "dense SGD":
            strengths = METHODS[method].strengths
            passed = [s for s in strengths if mean_accuracy(method, s) >= lowest]
            selected[method] = max(passed, default=None)
    return selected


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
    if config.select_strength:
        print(json.dumps({"selected": select_strength(data, config)}))
        return
    summaries = compare(data, config)
    print_table(summaries, console)
    save_figure(summaries, config.figure)
    if config.json is not None:
        report = {"config": dataclasses.asdict(config), "methods": summaries}
        config.json.write_text(json.dumps(report, default=str, indent=2))
    seconds = time.perf_counter() - start
    console.print(f"Saved {config.figure} after {seconds:.0f} seconds.")


if __name__ == "__main__":
    main()
