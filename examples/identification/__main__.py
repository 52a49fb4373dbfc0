"""Find the structure of an optimum that is known: RMDA, its baselines, its rivals.

Least squares and a group lasso on the 40 rows of the params (see `problem`): which rows
of the optimum are zero is certified. All methods see the same batches and the same
noise; each takes the learning rate that brings it nearest to the optimum (see
`selection`). There are three kinds of data: an infinite sum, with noise on the inputs;
a finite sum, without; and data whose true rows change once.

ProxSGD, ProxGen and ProxSSI come as near to the optimum as any. But their momentum
keeps a share of the noise indefinitely, and with it rows that should be zero: many on
the infinite sum, few on the finite one, whose gradients have less noise. RMDA, RAMDA,
the normal map and AProx around SGD average longer: they find the 8 rows that are not
zero, all of them and no other. RMDA forgets the average at a restart, and for some 200
steps the structure with it; without restarts it stays, but the first params hold the
iterate back. LinBreg finds the rows, but not the optimum: its limit is that of the loss
alone. `docs/identification.md` shows all that.

    python -m examples.identification               # a minute; writes under out/
    python -m examples.identification --inner       # other optimizers inside of AProx
    python -m examples.identification \
        --figure examples/identification/identification.png \
        --json examples/identification/results.jsonl   # what is kept here
    python -m examples.identification --select \
        > examples/identification/selection.jsonl      # how the rates were chosen

What is kept of ``--inner`` are ``inner.jsonl`` and ``inner_selection.jsonl``. Structure
is measured where it lives, and the distance with it: on the structured iterate of RMDA
and RAMDA, on the params of the others.
"""

import concurrent.futures
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console

from examples.identification import comparison, inner, selection
from examples.identification.figure import save_figure
from examples.identification.law import variance_law
from examples.identification.methods import METHODS
from examples.identification.problem import (
    Problem,
    as_float32,
    error_bound,
    gradient_noise,
    margins,
)
from examples.identification.report import (
    DRIFT,
    Row,
    gradient_table,
    inner_tables,
    print_law,
    summarize,
    summarize_drift,
    summarize_law,
    table,
    tables,
)
from examples.identification.simulation import BATCH_SIZE, RECORD_EVERY

console = Console()


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the structures that methods find with the true one."""

    seeds: int = 20
    """How many runs of each method; they differ in the batches and the noise."""
    steps: int = 6000
    """Per run, in three stages of equal length when the learning rate decays."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which methods to compare, by their names in the tables."""
    figure: Path = Path("out/identification.png")
    """Where to save the figure."""
    json: Path | None = None
    """Where to save the results, as JSON lines with the numbers of every seed."""
    inner: bool = False
    """Compare optimizers inside of AProx and the normal map, in place of the rest."""
    select: bool = False
    """Choose the learning rates on other seeds, in place of the comparison."""


def main(args: Sequence[str] | None = None) -> None:
    """Run a comparison from the command line."""
    start = time.perf_counter()
    config = tyro.cli(Config, args=args)
    if config.select:
        from_inner = (
            selection.inner_candidates if config.inner else selection.candidates
        )
        problem = as_float32(comparison.PANELS["infinite sum"])
        selection.select(problem, from_inner(config.steps), config.steps)
        return
    for path in filter(None, (config.figure, config.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
    rows = compare_inner(config) if config.inner else compare(config)
    if config.json is not None:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        config.json.write_text("\n".join(lines) + "\n", "utf-8")
    seconds = time.perf_counter() - start
    console.print(f"Done after {seconds:.0f} seconds.")


def compare(config: Config) -> list[Row]:
    """Run the methods on all data, print the tables, save the figure; return rows."""
    seeds, steps = jnp.arange(config.seeds), recorded_steps(config)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        what = seeds, config.steps, config.methods
        on_sums = pool.submit(comparison.compare, *what)
        in_drift = comparison.compare_in_drift(*what)
        panels = on_sums.result()
    law = jax.device_get(variance_law())
    rows = [truth(name, problem) for name, problem in truths().items()]
    print_caption(config)
    for panel, records in panels.items():
        found = summarize(records, METHODS, steps)
        rows += [{"panel": panel} | row for row in found]
        for structure in tables(panel.capitalize(), found):
            console.print(structure)
        console.print(gradient_table(panel.capitalize(), found))
    start = comparison.drift_step(config.steps)
    settings = {
        name: METHODS[comparison.RESTARTED.get(name, name)] for name in in_drift
    }
    found = summarize_drift(in_drift, settings, steps, start)
    rows += [{"panel": "drift"} | row for row in found]
    title = f"Data that drift at step {start}, a constant rate"
    console.print(table(title, found, DRIFT))
    laws = summarize_law(law)
    print_law(laws, console)
    save_figure(panels["infinite sum"], in_drift, steps, config.figure)
    console.print(f"Saved {config.figure}.")
    return rows + laws


def compare_inner(config: Config) -> list[Row]:
    """Run the inner optimizers, print their table and return its rows."""
    records = comparison.compare_inner(jnp.arange(config.seeds), config.steps)
    rows = summarize(records, inner.SELECTED, recorded_steps(config))
    print_caption(config)
    for structure in inner_tables(rows):
        console.print(structure)
    return rows


def recorded_steps(config: Config) -> np.ndarray:
    """Return at which steps something is measured."""
    return np.arange(RECORD_EVERY, config.steps + 1, RECORD_EVERY)


def print_caption(config: Config) -> None:
    """Print what the numbers of all tables are."""
    console.print(
        f"Last quarter of {config.steps} steps: mean (and range) over {config.seeds} "
        "seeds; of the wrong groups, the range over seeds and steps.\n"
    )


def truths() -> dict[str, Problem]:
    """Return all problems by name."""
    return comparison.PANELS | {"drift": comparison.DRIFTED}


def truth(name: str, problem: Problem) -> Row:
    """Return what is known of the optimum, and how noisy a gradient is there."""
    return {
        "truth": name,
        "optimum_error_bound": error_bound(
            problem.curvature, problem.linear, problem.optimum
        ),
        **margins(problem),
        "gradient_noise": gradient_noise(problem, BATCH_SIZE),
    }


if __name__ == "__main__":
    main()
