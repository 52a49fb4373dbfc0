"""The choice of rates and strengths: one rule for all methods, without test data."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.poster import logs
from examples.poster.data import Dataset, hold_out, load
from examples.poster.driver import (
    KEPT,
    Options,
    RunError,
    console,
    settings_for,
    train,
    trainer_for,
)
from examples.poster.logs import Json
from examples.poster.presets import Preset, strength_grid
from examples.poster.train import default_loop

FILE = "selection.jsonl"
FIRST_SEED = 100  # not those of reported figures
FACTORS = (1.0, 3.0, 10.0)  # on the published learning rate


def select_rate(
    task: str, methods: Sequence[str], options: Options
) -> dict[str, float]:
    """Select a learning rate for each method, for runs shorter than the published.

    Fewer steps call for longer ones. From the published rate, or ours, it climbs to
    three times and ten times that, as long as each removes a tenth or more of the error
    (on the images held out) after a few epochs without regularizer or stages. Trials
    and outcome go where those of `select` go.
    """
    trials = _Trials(task, options)
    rule = "climbs while a tenth of the error goes, without regularizer"
    selected = {}
    for method in methods:
        base = settings_for(task, method, options).changed("given", milestones=())
        best, least = base.learning_rate, math.inf
        for factor in FACTORS:
            rate = float(f"{factor * base.learning_rate:.3g}")
            settings = dataclasses.replace(base, learning_rate=rate)
            (row,) = trials.rows(settings, [0.0])
            error = 1 - row["accuracy"]
            if error > 0.9 * least:
                break
            best, least = rate, error
        selected[method] = best
        trials.conclude(base, {"selected_rate": best, "rule": rule})
        console.print(f"{task} {method}: {best} ({rule})")
    return selected


def select(
    task: str,
    methods: Sequence[str],
    options: Options,
    *,
    strengths: Sequence[float] = (),
    tolerance: float = 0.01,
    weight_sparsity: float | None = None,
) -> dict[str, float | None]:
    """Select a strength for each method, by training on five sixths of the images.

    It is the largest of the strengths with which the structured params keep the
    accuracy of dense training within `tolerance`, measured on the sixth held out, as a
    mean over the seeds, after the same number of epochs. With `weight_sparsity` it is
    the smallest with which so large a share of the weights is zero. Test data take no
    part. Trials and outcome go to ``selection.jsonl`` among the logs; a trial that is
    there already is not repeated.
    """
    trials = _Trials(task, options)
    if weight_sparsity is None:
        usual = dataclasses.replace(options, learning_rate=None)
        dense = trials.rows(settings_for(task, "dense", usual), [0.0])
        lowest = dense[0]["accuracy"] - tolerance
        passes = lambda row: row["accuracy"] >= lowest
        rule = f"largest strength within {100 * tolerance:g} points of dense accuracy"
    else:
        passes = lambda row: row["weights"] >= weight_sparsity
        rule = f"smallest strength with {weight_sparsity:.0%} of the weights zero"
    selected = {}
    for method in methods:
        settings = settings_for(task, method, options)
        tries = sorted(strengths or strength_grid(settings))
        if weight_sparsity is None:
            tries.reverse()
        # In one program where that is faster, else until the first that passes.
        at_once = (options.loop or default_loop(settings.network)) == "vmap"
        batches = [tries] if at_once else [[strength] for strength in tries]
        rows = (row for batch in batches for row in trials.rows(settings, batch))
        selected[method] = next((r["strength"] for r in rows if passes(r)), None)
        trials.conclude(settings, {"selected": selected[method], "rule": rule})
        console.print(f"{task} {method}: {selected[method]} ({rule})")
    return selected


def selected_strength(settings: Preset, folder: Path) -> tuple[float, str]:
    """Return the strength that was selected for a method, and its provenance.

    Of several selections the one of as many epochs counts, or of the nearest number.
    Where the folder has none, those count that are kept beside this file.
    """
    rows = _selections(settings, folder) or _selections(settings, KEPT)
    rows = [row for row in rows if row["selected"] is not None]
    if not rows:
        raise RunError(
            f"no strength is published or selected for {settings.method} on "
            f"{settings.task} with learning rate {settings.learning_rate:g}: call "
            "`select` first, or give --strength."
        )
    distance = lambda row: abs(math.log(row["epochs"] / settings.epochs))
    row = min(reversed(rows), key=distance)  # the latest of equally near ones
    return row["selected"], f"selected ({row['rule']}; {row['epochs']} epochs)"


_MATCHED = ("task", "method", "learning_rate")


def _selections(settings: Preset, folder: Path) -> list[Json]:
    return [
        row
        for row in logs.read_lines(folder / FILE)
        if "selected" in row
        and all(row[name] == getattr(settings, name) for name in _MATCHED)
    ]


class _Trials:
    """Trains for the selection on one task, unless the outcome is known."""

    def __init__(self, task: str, options: Options):
        self.task, self.options = task, options
        self.file = options.logs / FILE
        self._data: Dataset | None = None

    def rows(self, settings: Preset, strengths: Sequence[float]) -> list[Json]:
        """Return the outcome for each strength, as it is in the log."""
        key = self._key(settings)
        known = {
            row["strength"]: row
            for row in logs.read_lines(self.file)
            if "strength" in row and row | key == row
        }
        if not all(strength in known for strength in strengths):
            outcomes = self._train(settings, strengths)
            for strength, outcome in zip(strengths, outcomes, strict=True):
                known[strength] = key | {"strength": strength} | outcome
                logs.append(self.file, known[strength])
        return [known[strength] for strength in strengths]

    def conclude(self, settings: Preset, outcome: Json) -> None:
        row = self._key(settings) | outcome
        if row not in logs.read_lines(self.file):
            logs.append(self.file, row)

    def _key(self, settings: Preset) -> Json:
        matched = {name: getattr(settings, name) for name in _MATCHED}
        return matched | {"epochs": settings.epochs, "seeds": self.options.seeds}

    def _train(self, settings: Preset, strengths: Sequence[float]) -> list[Json]:
        if self._data is None:
            self._data = hold_out(load(settings.dataset, self.options.data_dir))
        seeds = range(FIRST_SEED, FIRST_SEED + self.options.seeds)
        trainer = trainer_for(settings, self._data, seeds, strengths, self.options)
        title = f"select {self.task} {settings.method} {strengths[0]:.3g}"
        *_, (_, _, last) = train(trainer, trainer.init(), 0, title)
        names = ("accuracy", "groups", "weights")
        shape = len(strengths), len(seeds)
        means = (np.reshape(last[name], shape).mean(axis=1) for name in names)
        rounded = [mean.round(logs.DIGITS).tolist() for mean in means]
        return [
            dict(zip(names, row, strict=True)) for row in zip(*rounded, strict=True)
        ]
