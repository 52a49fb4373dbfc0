"""A list of runs, one after the other, in as many sittings as it takes.

A machine may be lent for minutes, and a run takes hours. So a campaign goes on where
the last one stopped, ends in time, and says first how long is left. The seeds of a run
are trained side by side in one program, on a GPU an epoch in one scan: see `train`.
"""

import dataclasses
import functools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import nnx
from rich.table import Table

from examples.poster import logs, runs
from examples.poster.data import SPECS
from examples.poster.driver import Deadline, Options, RunError, console, settings_for
from examples.poster.presets import Preset, preset
from examples.poster.train import Program

# Dense first: the accuracy that the others are held against.
METHODS = ("dense", "rmda", "ramda", "proxsgd", "proxssi", "proxgen", "rmda_l1", "rigl")
TASKS = ("vgg19/cifar10_jpeg75", "resnet50/cifar10_jpeg75")
BACKWARD = 2  # a gradient costs twice the network, after it


class Row(NamedTuple):
    """A run of a campaign, and what is left of it."""

    settings: Preset
    epochs_done: int
    seconds: float  # an epoch of all seeds; measured if there is a log, else estimated
    is_measured: bool
    problem: str = ""  # why it cannot run

    @property
    def hours_left(self) -> float:
        return (self.settings.epochs - self.epochs_done) * self.seconds / 3600


def campaign(
    tasks: Sequence[str],
    methods: Sequence[str],
    options: Options,
    *,
    teraflops: float,
    only_estimate: bool = False,
) -> list[Row]:
    """Run what is not complete, and return the rows as they were before.

    Args:
      tasks: Networks and data sets; all methods of one before the next.
      methods: In this order.
      options: Of all runs. `minutes` is for all of them together.
      teraflops: Floating-point operations that the device does in a second of training,
        in 10^12, where no epoch was timed yet. An assumption: a guess of the user's.
      only_estimate: Print how long it would take, and run nothing.
    """
    deadline = Deadline(options.minutes)
    rows = [
        _row(task, method, options, teraflops) for task in tasks for method in methods
    ]
    _print(rows, teraflops)
    if only_estimate:
        return rows
    for row in rows:
        if row.problem or not row.hours_left:
            continue
        if not deadline.allows(0.0):
            break
        left = None if options.minutes is None else deadline.minutes_left
        limited = dataclasses.replace(options, minutes=left)
        _ = runs.run(row.settings.task, row.settings.method, limited)
    return rows


def _row(task: str, method: str, options: Options, teraflops: float) -> Row:
    settings = settings_for(task, method, options)
    estimate = _seconds(settings, options, teraflops)
    try:
        log = runs.log_of(task, method, options)
    except RunError as error:
        return Row(settings, 0, estimate, False, str(error))
    epochs = logs.read(log).epochs if logs.read_lines(log) else []
    # The first epoch of a sitting has compiled; the median is not one of those.
    seconds = [epoch["seconds"] for epoch in epochs[1:]]
    if not seconds:
        return Row(settings, len(epochs), estimate, False)
    return Row(settings, len(epochs), statistics.median(seconds), True)


def _seconds(settings: Preset, options: Options, teraflops: float) -> float:
    """Return how long an epoch of all seeds takes at that rate."""
    spec = SPECS[settings.dataset]
    program = Program(preset(settings.task, "dense"), spec, spec.counts[0], "float32")
    return options.seeds * _training_flops(program) / (1e12 * teraflops)


@functools.cache
def _training_flops(program: Program) -> float:
    """Return the floating-point operations of an epoch, as XLA counts the network's."""
    model = nnx.eval_shape(lambda: program.network(nnx.Rngs(0)))
    _, params, batch_stats = nnx.split(model, nnx.Param, ...)
    images = jax.ShapeDtypeStruct((1, *program.spec.shape), "uint8")
    labels = jax.ShapeDtypeStruct((1,), "int32")
    lowered = Program.count_correct.lower(program, params, batch_stats, images, labels)
    cost = lowered.cost_analysis()
    return program.n_images * (1 + BACKWARD) * cost["flops"]


def _print(rows: Sequence[Row], teraflops: float) -> None:
    table = Table("run", "epochs done", "seconds an epoch", "hours left")
    for row in rows:
        settings = row.settings
        name = f"{settings.task} {settings.method}"
        if row.problem:
            table.add_row(name, "-", "-", "cannot run: see below")
            continue
        seconds = f"{row.seconds:.1f}" + ("" if row.is_measured else " *")
        done = f"{row.epochs_done} of {settings.epochs}"
        table.add_row(name, done, seconds, f"{row.hours_left:.1f}")
    total = sum(row.hours_left for row in rows if not row.problem)
    table.add_row("all", "", "", f"{total:.1f}")
    console.print(table)
    if not all(row.is_measured for row in rows):
        console.print(
            f"* estimated from the operations of the network, {teraflops:g} * 10^12 of "
            "them a second: nothing was timed."
        )
    for problem in dict.fromkeys(row.problem for row in rows if row.problem):
        console.print(problem)
