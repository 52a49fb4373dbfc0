"""What is lost where AProx takes a prox in every tenth update only?

A prox of singular values is expensive, and `aprox` has ``prox_every`` for it. Between
two proxes its params move as the latent weights do; in PAT, whose ``prox_freq`` this
is, the params are the latent weights there. This runs both around SGD on the infinite
sum, with a prox in every update, in every second, and so on, at every learning rate of
a grid: nothing is selected. It is measured right after a prox, as the params between
two have no zeros; for that the first one is in the update in which ``prox_every`` ends.

    python -m examples.identification.every \
        --json examples/identification/every.jsonl
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import rmda_jax as rj
from examples.identification.comparison import PANELS
from examples.identification.methods import REGULARIZER, Run, Setting
from examples.identification.problem import STRENGTH, as_float32
from examples.identification.report import Row, mean_and_range, summarize, wrong_text
from examples.identification.simulation import RECORD_EVERY, Entry, simulate, stack

EVERY = (1, 2, 5, 10)  # they divide RECORD_EVERY
BETWEEN = {"params move": "move", "latent weights": "latent"}  # between two proxes
RATES = (0.01, 0.003, 0.001, 3e-4)
NAME = "AProx, SGD"
KEPT = ("fewest_wrong", "most_wrong", "right_since", "wrong_groups", "distance")


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare AProx with fewer and fewer proxes."""

    seeds: int = 10
    """How many runs; they differ in the batches and the noise."""
    steps: int = 6000
    """Per run, at a constant learning rate."""
    json: Path | None = None
    """Where to save the results, as JSON lines with the numbers of every seed."""


def make(setting: Setting, every: int, between: str) -> optax.GradientTransformation:
    """Return AProx around SGD, with a prox in one of so many updates."""
    rate = setting.learning_rate
    shared = optax.sgd(rate), rate, REGULARIZER, STRENGTH
    steps = {"start_step": every - 1, "prox_every": every}
    return rj.aprox(*shared, **steps, between_proxes=BETWEEN[between])


def compare(seeds: jax.Array, n_steps: int) -> list[Row]:
    """Return a row for each of EVERY, BETWEEN and RATES.

    Args:
      seeds: Shape (n,).
      n_steps: Of every run.
    """
    settings, tried = [Setting(rate) for rate in RATES], {}
    for every, between in itertools.product(EVERY, BETWEEN):
        if every > 1 or between == "params move":  # with a prox in each both are one
            method = functools.partial(make, every=every, between=between)
            tried[every, between] = Entry(NAME, method, stack(settings))
    run = jax.jit(lambda problem: simulate(problem, tried, seeds, n_steps))
    found = jax.device_get(run(as_float32(PANELS["infinite sum"])))
    steps, rows = np.arange(RECORD_EVERY, n_steps + 1, RECORD_EVERY), []
    for every, between in tried:
        for j, setting in enumerate(settings):
            record = jax.tree.map(lambda x: x[j], found[every, between])  # noqa: B023
            (row,) = summarize({Run(NAME, False): record}, {NAME: setting}, steps)
            what = {"prox_every": every, "between": between}
            what["learning_rate"] = setting.learning_rate
            rows.append(what | {key: row[key] for key in KEPT})
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Run the comparison, and print a line for every rate."""
    config = tyro.cli(Config, args=args)
    rows = compare(jnp.arange(config.seeds), config.steps)
    for row in rows:
        distance = mean_and_range(row["distance"], "{:.3f}".format)
        what = (
            f"{row['prox_every']:2d}  {row['between']:14s}  {row['learning_rate']:<6g}"
        )
        print(f"{what}  wrong {wrong_text(row):14s}  distance {distance}")
    if config.json is not None:
        _ = config.json.write_text(
            "".join(f"{json.dumps(row)}\n" for row in rows), "utf-8"
        )


if __name__ == "__main__":
    main()
