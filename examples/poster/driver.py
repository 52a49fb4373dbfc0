"""What every kind of run needs: options, settings, a trainer, and a progress bar."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from examples.poster.data import Dataset
from examples.poster.logs import Json
from examples.poster.presets import Preset, preset
from examples.poster.train import Loop, Member, Trainer

OUT = Path("out/poster")
LOGS = OUT / "logs"
KEPT = Path(__file__).parent / "logs"  # those that RESULTS.md shows
console = Console()


class RunError(Exception):
    """A run cannot start; the message says what to do about it."""


class Deadline:
    """The time by which a command has to end, if there is one."""

    def __init__(self, minutes: float | None):
        if minutes is not None and not minutes > 0:
            raise RunError(f"--minutes must be positive, got {minutes:g}.")
        seconds = math.inf if minutes is None else 60 * minutes
        self._end = time.perf_counter() + seconds

    @property
    def minutes_left(self) -> float:
        """How many are left; infinite without a limit."""
        return (self._end - time.perf_counter()) / 60

    def allows(self, seconds: float) -> bool:
        """Whether there is time for what takes so long, and for half as much again."""
        return 1.5 * seconds < 60 * self.minutes_left


@dataclasses.dataclass(frozen=True)
class Options:
    """What all commands that train have in common."""

    epochs: int | None = None
    """How many, with the milestones in proportion; by default as published."""
    learning_rate: float | None = None
    """Of the first stage; by default the published one, or ours."""
    seeds: int = 1
    """How many, trained side by side."""
    data_dir: Path | None = None
    """Folder (or file) of the data; without it they are downloaded, once."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; params and optimizer are float32 always."""
    loop: Loop | None = None
    """A program for an epoch of all seeds together (vmap) or in turn (map), or for a
    step; by default the faster one here."""
    logs: Path = LOGS
    """Where the logs are."""
    out: Path = OUT
    """Where the checkpoints are."""
    checkpoint_every: float = 60.0
    """Seconds from one checkpoint to the next."""
    minutes: float | None = None
    """Stop before so many have passed, with a checkpoint: the next call goes on."""
    fresh: bool = False
    """Start anew, where an unfinished run would be resumed."""


def settings_for(task: str, method: str, options: Options) -> Preset:
    """Return the preset for the epochs and the learning rate that the options give."""
    try:
        settings = preset(task, method)
    except ValueError as error:
        raise RunError(str(error)) from error
    if options.learning_rate is not None:
        settings = settings.changed("given", learning_rate=options.learning_rate)
    return settings.scaled(options.epochs or settings.epochs)


def trainer_for(
    settings: Preset,
    data: Dataset,
    seeds: Sequence[int],
    strengths: Sequence[float],
    options: Options,
) -> Trainer:
    """Return the trainer of all pairs, strength by strength."""
    pairs = [(seed, strength) for strength in strengths for seed in seeds]
    all_seeds, all_strengths = zip(*pairs, strict=True)
    return Trainer(
        settings, data, all_seeds, all_strengths, loop=options.loop, dtype=options.dtype
    )


def train(
    trainer: Trainer, members: Member, done: int, title: str
) -> Iterator[tuple[int, Member, Json]]:
    """Train to the end behind a progress bar; yield what each epoch brought.

    Args:
      trainer: Of the members.
      members: After `done` epochs; their memory is reused.
      done: Number of epochs that are behind them.
      title: Of the progress bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed}/{task.total} {task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    n_epochs = trainer.preset.epochs
    with Progress(*columns, console=console, expand=True) as progress:
        bar = progress.add_task(title, total=n_epochs, completed=done, figures="")
        for epoch in range(done, n_epochs):
            begin = time.perf_counter()
            members, losses = trainer.train_epoch(members, epoch)
            record = {"epoch": epoch + 1, "loss": losses} | trainer.evaluate(members)
            record["seconds"] = round(time.perf_counter() - begin, 2)
            accuracy, groups = record["accuracy"].mean(), record["groups"].mean()
            figures = f"accuracy {accuracy:.2%} groups zero {groups:.2%}"
            progress.update(bar, completed=epoch + 1, figures=figures)
            yield epoch + 1, members, record
