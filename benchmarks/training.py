"""Training end to end: what a step and an epoch take, and where the time goes.

    python -m benchmarks.training

The path is that of ``examples.poster``, on random images: shuffle, gather and augment
a batch, take a step, and after an epoch measure the structured iterate and write a line
to the log. Its parts are timed alone, and given per step: what comes once an epoch is
divided by its steps. Alone they take no less than inside the compiled step, which reads
a batch where it needs it. All but the step should be small: ``overhead`` is the sum of
shuffle, gather, metrics and log. What an epoch takes beyond its steps is there as a
difference as well.

Convolutional networks larger than LeNet-5 need an accelerator; they are measured by the
epoch, in images per second.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import jax
import tyro

from benchmarks._rows import Options, publish
from benchmarks._timing import Referee, Row
from benchmarks._trainers import Run, Steps, parts_of_epoch, parts_of_step, start
from examples.poster.presets import Method

NAME = "training"
COLUMNS = {
    "what": "",
    "problem": "",
    "milliseconds": ".3f",
    "of_step": ".2%",
    "seconds": ".2f",
    "images_per_second": ".0f",
    "times_dense": ".2f",
    "times_dense_iqr": ".2f",
}
METHODS: tuple[Method, ...] = ("dense", "rmda", "ramda")
DISSECTED: Method = "rmda"
LARGE = ("vgg19", "resnet50")
OVERHEAD = ("shuffle", "gather", "metrics", "log")


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Measure training on random images."""

    networks: tuple[Literal["lenet5", "vgg19", "resnet50"], ...] = ()
    """By default LeNet-5, and on an accelerator the others as well."""
    images: int = 60_000
    """In an epoch of LeNet-5."""
    large_images: int = 12_800
    """In an epoch of the others."""
    epoch_rounds: int = 3


def measure(config: Config) -> Iterator[Row]:
    """Return the time of steps, of their parts, and of epochs."""
    referee, networks = config.referee(), config.networks
    if not networks and jax.default_backend() == "cpu":
        print(f"{', '.join(LARGE)}: not run: needs an accelerator")
        networks = ("lenet5",)
    for network in networks or ("lenet5", *LARGE):
        n_images = config.large_images if network in LARGE else config.images
        runs: dict[str, Run] = {
            method: start(network, method, n_images) for method in METHODS
        }
        rows = _steps(referee, runs) if network not in LARGE else []
        for row in [*rows, *_epochs(referee, runs, config.epoch_rounds, rows)]:
            yield row | {"problem": network, "images": n_images}


def _steps(referee: Referee, runs: dict[str, Run]) -> list[Row]:
    """Return the rows of the steps, and of what surrounds one of them."""
    times = referee.race({method: Steps(run) for method, run in runs.items()})
    rows = [
        {"what": f"{method}, step", **times.row(method, dense="dense")}
        for method in runs
    ]
    run, step = runs[DISSECTED], 1e3 * times.median(DISSECTED)
    n_steps = run.trainer.program.steps_per_epoch
    with tempfile.TemporaryDirectory() as folder:
        per_epoch = parts_of_epoch(run, Path(folder) / "log.jsonl")
        times = referee.race(parts_of_step(run) | per_epoch)
    taken = {
        name: 1e3 * times.median(name) / (n_steps if name in per_epoch else 1)
        for name in times.seconds
    }
    taken["overhead"] = sum(taken[name] for name in OVERHEAD)
    for name, milliseconds in taken.items():
        row = {"what": f"{DISSECTED}, {name}", "milliseconds": milliseconds}
        rows.append(row | {"of_step": milliseconds / step, "idle": times.idle})
    return rows


def _epochs(
    referee: Referee, runs: dict[str, Run], rounds: int, steps: Sequence[Row]
) -> Iterator[Row]:
    """Return the rows of the epochs, and what they take beyond their steps."""
    for run in runs.values():
        jax.block_until_ready(run())  # which compiles it
    times = referee.race(runs, rounds=rounds, warm=False)
    for method, run in runs.items():
        row, seconds = times.row(method, dense="dense"), times.median(method)
        program = run.trainer.program
        yield row | {
            "what": f"{method}, epoch",
            "milliseconds": row["milliseconds"] / program.steps_per_epoch,
            "seconds": seconds,
            "images_per_second": program.n_images / seconds,
        }
        for step in steps:
            if step["what"] == f"{method}, step":
                taken = row["milliseconds"] / program.steps_per_epoch
                beyond = taken - step["milliseconds"]
                yield {
                    "what": f"{method}, epoch beyond steps",
                    "milliseconds": beyond,
                    "of_step": beyond / step["milliseconds"],
                    "idle": times.idle,
                }


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)


if __name__ == "__main__":
    main()
