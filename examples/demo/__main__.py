"""Train one network by every method, many times: how much can go, and does it stay?

A LeNet-style network learns scikit-learn's handwritten digits. Every image is shifted
by up to a pixel and gets noise of 0.3 standard deviations, anew at every step: the
noise of the gradient never dies. The group lasso on input channels finds, during
training, which channels and neurons are not needed, and sets all their outgoing weights
to exactly zero; then they are removed.

    python -m examples.demo                           # digits, all methods
    python -m examples.demo --methods dense RMDA ProxSGD --seeds 2
    python -m examples.demo --saved examples/demo/results.jsonl    # tables, figure
    python -m examples.demo --dataset fashion_mnist --data-dir DIR --epochs 20
    python -m examples.demo --select > examples/demo/selection.jsonl

Shown are, as means and standard deviations over seeds,

- a front of each method: accuracy on test images against the share of groups that are
  zero, at five strengths, or five budgets (the share of groups to keep);
- flicker: how many groups change between zero and not from one epoch to the next,
  counted over the last twentieth of the run.

These rules were stated before anything was measured. The learning rate of a method is
that with which `choose`, on validation images and two seeds of their own, finds the
most zero groups for at most one point of accuracy; `--select` tries them. Of the front,
`choose` takes one value in the same way, on validation images: the second table and the
curves of the flicker are of that value, whatever it shows.

Structure is measured where it lives, and accuracy with it: on the structured iterate of
RMDA and RAMDA, on the params of the others.
"""

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import jax
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples._data import DataError, Dataset, load
from examples.demo.choice import choose, try_settings
from examples.demo.figure import save_figure
from examples.demo.methods import METHODS, MethodName, Setting
from examples.demo.report import Summary, print_shrunk, print_tables, rows_of
from examples.demo.shrinking import shrink
from examples.demo.training import Front, Params, measure, n_changes

N_THREADS = 2  # methods that train at once: a program of small arrays uses one core
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
    values: tuple[float, ...] = ()
    """Strengths of the group lasso, for budgets the shares of groups to keep; by
    default every method has its own."""
    epochs: int = 80
    """How many, at least 2: the flicker is counted from one to the next."""
    batch_size: int = 64
    seeds: int = 5
    """How many, at least 2: of the initial params, the order of the data, the noise."""
    figure: Path = Path("out/demo.png")
    """Where to save the figure."""
    save: Path | None = None
    """Where to save the results for machines."""
    saved: Path | None = None
    """Show these results, in place of training."""
    select: bool = False
    """Try all learning rates on validation data, in place of the demo."""

    def settings(self, method: str) -> list[Setting]:
        """Return the settings of a method's front."""
        rate = self.learning_rate or METHODS[method].selected
        values = METHODS[method].values
        if self.values and method != "dense":
            values = self.values
        return [Setting(rate, value) for value in values]


def train(
    method: str, data: Dataset, config: Config, progress: Progress
) -> tuple[Summary, Params]:
    """Train a front; return what is reported of it, and the params it ended with."""
    settings = config.settings(method)
    bar = progress.add_task(method, total=config.epochs, figures="compiling")
    front = Front(
        method, settings, range(config.seeds), config.epochs, config.batch_size
    )
    active, params = [], None
    for epoch in front.train(data.train):
        active.append(jax.device_get(epoch.active))
        params = epoch.params
        figures = f"loss {epoch.loss.min():.3f} to {epoch.loss.max():.3f}"
        progress.update(bar, advance=1, figures=figures)
    on_validation, on_test = (
        jax.device_get(measure(params, split)) for split in (data.validation, data.test)
    )
    summary = {
        "method": method,
        "learning_rate": settings[0].learning_rate,
        "values": [setting.value for setting in settings],
        "validation_accuracy": on_validation["accuracy"].tolist(),
        "test_accuracy": on_test["accuracy"].tolist(),
        "groups_zero": on_test["groups_zero"].tolist(),
        "weights_zero": on_test["weights_zero"].tolist(),
        "changes": n_changes(active).tolist(),
    }
    return summary, params


def compare(data: Dataset, config: Config) -> list[Summary]:
    """Train a front by each method and return what is reported of them."""
    columns = (
        TextColumn("{task.description:12}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total} {task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    with (
        Progress(*columns, console=console, expand=True) as progress,
        ThreadPoolExecutor(N_THREADS) as threads,
    ):
        one = functools.partial(train, data=data, config=config, progress=progress)
        fronts = list(threads.map(one, config.methods))
    chosen = choose([row for summary, _ in fronts for row in rows_of(summary)])
    for summary, params in fronts:
        if summary["method"].startswith("RMDA") and summary["method"] in chosen:
            place = summary["values"].index(chosen[summary["method"]]["value"])
            first = jax.tree.map(lambda x, place=place: x[0, place], params)
            summary["shrunk"] = shrink(first, data.test)
    return [summary for summary, _ in fronts]


def main(args: Sequence[str] | None = None) -> None:
    """Run the demo from the command line."""
    start = time.perf_counter()
    config = tyro.cli(Config, args=args)
    for path in filter(None, (config.figure, config.save)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if config.saved is not None:
        summaries = [json.loads(x) for x in config.saved.read_text().splitlines()]
    else:
        try:
            data = jax.device_put(load(config.dataset, config.data_dir))
        except DataError as error:
            sys.exit(f"Error: {error}")
        if config.select:
            tried = try_settings(
                data._replace(test=None),
                config.methods,
                config.epochs,
                config.batch_size,
            )
            for row in tried:
                print(json.dumps(row), flush=True)
            return
        summaries = compare(data, config)
    if config.save is not None:
        lines = [json.dumps(summary) for summary in summaries]
        _ = config.save.write_text("\n".join(lines) + "\n")
    print_tables(summaries, console)
    save_figure(summaries, config.figure)
    seconds = time.perf_counter() - start
    console.print(
        f"Saved {config.figure} after {seconds:.0f} seconds, "
        f"with {time.process_time():.0f} seconds of CPU time."
    )
    for summary in summaries:
        if "shrunk" in summary:
            print_shrunk(summary, console)


if __name__ == "__main__":
    main()
