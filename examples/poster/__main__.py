"""The command line: ``python -m examples.poster --help``."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from examples.poster import campaign, report, runs, selection
from examples.poster.data import DataError
from examples.poster.driver import LOGS, OUT, Options, RunError
from examples.poster.presets import TASKS, Method

Task = Literal[TASKS]  # pyright: ignore[reportInvalidTypeForm]


@dataclasses.dataclass(frozen=True)
class Run:
    """Train by one method; resume the run if it was cut off."""

    task: tyro.conf.Positional[Task]
    method: tyro.conf.Positional[Method]
    options: Annotated[Options, tyro.conf.arg(name="")]
    strength: float | None = None
    """Of the regularizer (rigl: share of weights removed); by default the published or
    else the selected one."""
    selected: bool = False
    """Take the selected strength also where another one is published."""
    first_seed: int = 0
    """The others follow it."""
    save: Path | None = None
    """File for the params that the first seed ends with, for `rmda_jax.shrink`."""

    def __call__(self) -> None:
        _ = runs.run(
            self.task,
            self.method,
            self.options,
            strength=self.strength,
            first_seed=self.first_seed,
            selected=self.selected,
            save=self.save,
        )


@dataclasses.dataclass(frozen=True)
class Front:
    """Train by one method with many strengths at once."""

    task: tyro.conf.Positional[Task]
    method: tyro.conf.Positional[Method]
    options: Annotated[Options, tyro.conf.arg(name="")]
    strengths: tuple[float, ...] = ()
    """By default seven around the published one, or around one of ours."""

    def __call__(self) -> None:
        _ = runs.path(self.task, self.method, self.options, self.strengths)


@dataclasses.dataclass(frozen=True)
class Select:
    """Select the strength of each method on a validation split of the training set."""

    task: tyro.conf.Positional[Task]
    methods: tyro.conf.Positional[tuple[Method, ...]]
    options: Annotated[Options, tyro.conf.arg(name="")]
    strengths: tuple[float, ...] = ()
    """By default seven around the published one, or around one of ours."""
    tolerance: float = 0.01
    """Largest loss of accuracy, relative to dense training."""
    weight_sparsity: float | None = None
    """Select for this share of zero weights in place of the accuracy."""

    def __call__(self) -> None:
        _ = selection.select(
            self.task,
            self.methods,
            self.options,
            strengths=self.strengths,
            tolerance=self.tolerance,
            weight_sparsity=self.weight_sparsity,
        )


@dataclasses.dataclass(frozen=True)
class Rates:
    """Select the learning rate of each method, where epochs are few."""

    task: tyro.conf.Positional[Task]
    methods: tyro.conf.Positional[tuple[Method, ...]]
    options: Annotated[Options, tyro.conf.arg(name="")]

    def __call__(self) -> None:
        _ = selection.select_rate(self.task, self.methods, self.options)


@dataclasses.dataclass(frozen=True)
class Campaign:
    """Run one method after the other, seeds side by side, going on where it stopped.

    Prints first how long every run will take yet. With --minutes it ends in time.
    """

    options: Annotated[Options, tyro.conf.arg(name="")]
    tasks: tuple[Task, ...] = campaign.TASKS
    """Networks and data sets."""
    methods: tuple[Method, ...] = campaign.METHODS
    """One after the other."""
    teraflops: float = 20.0
    """What the device does in a second of training, in 10^12 operations: a guess, for
    runs of which no epoch was timed yet."""
    only_estimate: bool = False
    """Print how long it would take, and run nothing."""

    def __call__(self) -> None:
        _ = campaign.campaign(
            self.tasks,
            self.methods,
            self.options,
            teraflops=self.teraflops,
            only_estimate=self.only_estimate,
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """Write the tables and figures from the logs."""

    logs: Path = LOGS
    """Where the logs are."""
    out: Path = OUT
    """Where to write RESULTS.md and the figures."""

    def __call__(self) -> None:
        report.write(self.logs, self.out)


COMMANDS = {
    "campaign": Campaign,
    "run": Run,
    "path": Front,
    "rates": Rates,
    "select": Select,
    "report": Report,
}


def parse(
    args: Sequence[str] | None = None,
) -> Campaign | Run | Front | Rates | Select | Report:
    """Return the command that the arguments name."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=args, prog="python -m examples.poster", description=__doc__
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    try:
        parse(args)()
    except (DataError, RunError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
