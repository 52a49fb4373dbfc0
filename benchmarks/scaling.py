"""How the time of a step grows: with parameters, with leaves, and with groups.

    python -m benchmarks.scaling

One size varies at a time; the other two are those of `Config`. Good scaling is a line
of slope one in parameters, and flat ones in leaves and groups until their number
outweighs the work in each. With matplotlib there is a plot of it beside the results.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks._problems import (
    ADAM,
    OPTIMIZERS,
    Shapes,
    fill,
    many_leaves,
    size,
)
from benchmarks._programs import Stepper
from benchmarks._rows import RESULTS, Options, publish, read
from benchmarks._timing import Row

NAME = "scaling"
COLUMNS = {
    "what": "",
    "problem": "",
    "varied": "",
    "count": "d",
    "milliseconds": ".3f",
    "times_adam": ".2f",
    "times_adam_iqr": ".2f",
    "kernels": "d",
}
# The names of the colours that every figure has.
NAMES = {"rmda": "RMDA", "ramda": "RAMDA", ADAM: "dense"}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Measure steps on made-up kernels, of one size after another."""

    rounds: int = 9
    parameters: tuple[int, ...] = (10**4, 10**5, 10**6, 10**7, 3 * 10**7)
    """Sizes of ten kernels together."""
    leaves: tuple[int, ...] = (1, 10, 100, 300)
    """Numbers of kernels of ``total`` entries together."""
    groups: tuple[int, ...] = (1, 10, 10**2, 10**3, 10**4, 10**5, 10**6)
    """Numbers of groups of one kernel of ``total`` entries."""
    total: int = 10**6
    optimizers: tuple[str, ...] = (ADAM, "rmda", "ramda")


def problems(config: Config) -> Iterator[tuple[str, int, Shapes]]:
    """Return what varies, its value, and the shapes."""
    for n in config.parameters:
        yield "parameters", n, many_leaves(10, n // 10)
    for n in config.leaves:
        yield "leaves", n, many_leaves(n, config.total // n)
    for n in config.groups:
        # A row of a dense kernel is a group.
        yield "groups", n, {"layer": {"kernel": (n, config.total // n)}}


def measure(config: Config) -> Iterator[Row]:
    """Return the time of a step of every optimizer, for every size."""
    referee = config.referee()
    for varied, count, tree in problems(config):
        params, grads = fill(tree, seed=0), fill(tree, seed=1, scale=2e-3)
        steppers = {
            name: Stepper(OPTIMIZERS[name](), params, grads)
            for name in config.optimizers
        }
        times = referee.race(steppers)
        for name, stepper in steppers.items():
            yield {
                "what": name,
                "problem": f"{count:,} {varied}",
                "varied": varied,
                "count": count,
                "parameters": size(params),
                **times.row(name, adam=ADAM),
                "kernels": stepper.costs()["kernels"],
            }


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plot how often Adam's time a step takes, with the middle half of the trials."""
    from matplotlib.figure import Figure

    from examples._style import COLORS, label_ends

    varied = list(dict.fromkeys(row["varied"] for row in rows))
    figure = Figure(figsize=(4.2 * len(varied), 3.8), layout="constrained")
    panels: Any = figure.subplots(1, len(varied), squeeze=False, sharey=True)[0]
    for axis, name in zip(panels, varied, strict=True):
        for what in dict.fromkeys(row["what"] for row in rows):
            line = [r for r in rows if (r["what"], r["varied"]) == (what, name)]
            x = [row["count"] for row in line]
            y = [row["times_adam"] for row in line]
            halves = [row["times_adam_iqr"] / 2 for row in line]
            color = COLORS.get(NAMES.get(what, ""), "black")
            axis.loglog(x, y, "o-", ms=4, lw=1, color=color, label=what)
            axis.errorbar(x, y, halves, fmt="none", capsize=2, color=color)
        axis.set(xlabel=name)
    panels[0].set(ylabel="step, times Adam's")
    ticks = [0.5, 1, 2, 4, 8, 16]
    panels[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].minorticks_off()
    label_ends(panels[-1])
    last = rows[-1]
    figure.suptitle(
        f"A step beside Adam's: {last['backend']} ({last['device']}), {last['cpus']} "
        f"cores, JAX {last['jax']}; bars: the middle half of the trials",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)


def main(args: Sequence[str] | None = None) -> None:
    """Print the table, save the lines and plot them."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)
    path = config.json or RESULTS / f"{NAME}.jsonl"
    rows = [row for row in read(path) if row["benchmark"] == NAME]
    machine = [(row["backend"], row["device"], row["cpus"]) for row in rows]
    try:
        latest = [r for r, m in zip(rows, machine, strict=True) if m == machine[-1]]
        plot(latest, path.with_suffix(".png"))
    except ImportError:
        print("\nNo plot: it needs matplotlib.")


if __name__ == "__main__":
    main()
