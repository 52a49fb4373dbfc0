"""The results page: goals met and missed on this machine, and every table.

    python -m benchmarks report     # writes out/benchmarks/RESULTS.md
    python -m benchmarks readme     # prints the short table
    python -m benchmarks report --results benchmarks/results \
        --page benchmarks/RESULTS.md

The last one writes the page that is kept here. It reads what the scripts saved, and
computes nothing but a median's ratio. What no row tells is "not run".
"""

import dataclasses
import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks._problems import NETWORKS
from benchmarks._rows import RESULTS, read, table
from benchmarks._timing import Row

PAGE = RESULTS / "RESULTS.md"
TITLES = {
    "step": "One optimizer step",
    "authors": "The same in the authors' code",
    "metric": "The prox in a diagonal metric",
    "nuclear": "The prox of the nuclear norm",
    "masks": "The mask of the largest scores",
    "compile": "Compilation",
    "scaling": "Scaling",
    "training": "Training",
}
NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True)
class Figure:
    """One number of the results: a column of the row with these values."""

    column: str
    where: Mapping[str, object]

    def find(self, rows: Iterable[Row]) -> Row | None:
        """Return the row, the latest if there are several."""
        found = None
        for row in rows:
            if self.column in row and self.where.items() <= row.items():
                found = row
        return found


@dataclasses.dataclass(frozen=True)
class Goal:
    """A number that should not exceed its bar, at its worst over several figures."""

    name: str
    bar: float
    figures: tuple[Figure, ...]
    format: str = ".2f"

    def line(self, rows: Sequence[Row]) -> Row:
        """Return the line of the table of goals."""
        found = [(figure, figure.find(rows)) for figure in self.figures]
        known = [(row[figure.column], row) for figure, row in found if row]
        line: Row = {"goal": self.name, "at most": format(self.bar, self.format)}
        if not known or len(known) < len(found):
            return line | {"here": NOT_RUN, "result": NOT_RUN}
        worst = max(value for value, _ in known)
        busy = _busy([row for _, row in known])
        return line | {
            "here": format(worst, self.format) + busy,
            "result": "met" if worst <= self.bar else "missed",
        }


def figure(column: str, benchmark: str, what: str, **where: object) -> Figure:
    """Return a figure of a script's results on CPU, unless told otherwise."""
    keys = {"benchmark": benchmark, "what": what, "backend": "cpu"}
    return Figure(column, keys | where)


def _authors(what: str, problem: str, form: str | None = "as released") -> Figure:
    where = {} if form is None else {"theirs": form}
    return figure("times_authors", "authors", what, problem=problem, **where)


def _rmda(problem: str) -> Figure:
    # Of their two repositories, whichever was at hand: the steps are alike.
    return _authors("rmda", problem, form=None)


def _mask() -> Figure:
    problem = str(3 * 3 * 512 * 512)
    return figure("times_argsort", "masks", "keep_largest", problem=problem)


def _step(column: str, what: str, problem: str = "resnet50", **where: object) -> Figure:
    return figure(column, "step", what, problem=problem, **where)


def _training(column: str, what: str) -> Figure:
    return figure(column, "training", what, problem="lenet5", images=60_000)


def _nuclear(column: str) -> Figure:
    what = "nuclear_norm().prox"
    return figure(column, "nuclear", what, problem="2048x512", threshold=0.05)


THEIRS = "the authors' PyTorch"
# What stands between a goal that was missed and its bar (two CPU cores, JAX 0.10.2).
BETWEEN = {
    f"RMDA, group lasso / {THEIRS}: ResNet50": (
        "the step accesses 48 bytes per parameter, at two thirds of the triad's "
        "bandwidth. Of these 12 are the anchor, which a selection rewrites at every "
        "step; a `lax.cond` in its place copies as many leaves and takes the same "
        "time (1.01 of Adam's against 1.01)."
    ),
    "RAMDA / the authors' 100 iterations: the worst of ResNet50 and VGG19": (
        "it is four times RMDA, in the seven to ten sums per group that the root "
        "takes. The bar was set where their 100 iterations took 9.3 s; here they take "
        "4 to 5 s."
    ),
    f"nuclear norm, 2048 x 512 / {THEIRS}": (
        "of 23 ms, the Gram matrix takes 5.3, `eigh` 9.0 and the product with the "
        "shrunk vectors 4.7: a third of their SVD before anything else is done."
    ),
}
STEPS_OF_RAMDA = (1, 10, 100)
GOALS = (
    *(
        Goal(f"RMDA, group lasso / {THEIRS}: {name}", bar, (_rmda(problem),))
        for name, problem, bar in (
            ("ResNet50", "resnet50", 0.30),
            ("VGG19", "vgg19", 0.42),
            ("LeNet5", "lenet5", 0.50),
        )
    ),
    Goal(
        f"RMDA, l1 / {THEIRS}: the worst of the three",
        0.30,
        tuple(_authors("rmda, l1", network) for network in NETWORKS),
    ),
    Goal("RMDA, group lasso / `optax.adam`", 1.0, (_step("times_adam", "rmda"),)),
    Goal(
        "RMDA, temporary bytes per parameter",
        0.05,
        (_step("temporary_bytes_per_parameter", "rmda"),),
        ".3f",
    ),
    Goal(
        "RAMDA / the authors' 100 iterations: the worst of ResNet50 and VGG19",
        0.01,
        tuple(
            _authors("ramda", network, "100 iterations")
            for network in ("resnet50", "vgg19")
        ),
        ".4f",
    ),
    Goal("RAMDA / RMDA", 5.0, (_step("times_rmda", "ramda"),)),
    Goal(
        "RAMDA's subproblem, error of the worst group",
        1e-6,
        tuple(
            figure("error", "metric", f"ramda, step {n}", problem="3x3x512x512")
            for n in STEPS_OF_RAMDA
        ),
        ".1e",
    ),
    Goal(
        f"nuclear norm, 2048 x 512 / {THEIRS}",
        0.35,
        (_authors("nuclear norm", "2048x512"),),
    ),
    Goal(
        "RigL's mask / argsort",
        0.02,
        (_mask(),),
        ".3f",
    ),
    Goal(
        "RMDA, seconds to compile: ResNet50",
        2.0,
        (figure("seconds", "compile", "rmda", problem="resnet50"),),
    ),
    Goal(
        "RMDA, group lasso / `optax.adam` on a GPU",
        1.2,
        (_step("times_adam", "rmda", backend="gpu"),),
    ),
    Goal(
        "input, metrics and log / a training step: LeNet5",
        0.05,
        (_training("of_step", "rmda, overhead"),),
        ".1%",
    ),
)
SHORT = (
    ("RMDA, ResNet50", "`optax.adam`", _step("times_adam", "rmda")),
    ("", THEIRS, _rmda("resnet50")),
    ("RAMDA, ResNet50", THEIRS, _authors("ramda", "resnet50")),
    ("ProxGen, ResNet50", THEIRS, _authors("proxgen", "resnet50")),
    ("nuclear norm's prox, 2048 x 512", "by an SVD", _nuclear("times_svd")),
    ("RigL's mask of 2.4 M", "by a sort", _mask()),
)


def results(folder: Path = RESULTS) -> list[Row]:
    """Return all rows that were saved; exit if there are none."""
    rows = [row for path in sorted(folder.glob("*.jsonl")) for row in read(path)]
    if not rows:
        raise SystemExit(
            f"{folder} has no results. Measure some, for example with `python -m "
            "benchmarks.masks`, or show those that are kept: "
            "--results benchmarks/results."
        )
    return rows


def readme(rows: Sequence[Row]) -> str:
    """Return the table for the README."""
    lines = []
    for label, rival, wanted in SHORT:
        row = wanted.find(rows)
        line: Row = {"one step, or one call": label, "ms": NOT_RUN}
        line |= {"compared with": rival, "times": NOT_RUN}
        if row is not None:
            line["ms"] = f"{row['milliseconds']:.3g}"
            noise = row.get(f"{wanted.column}_iqr", 0)
            line["times"] = f"{row[wanted.column]:.3g} ± {noise / 2:.1g}{_busy([row])}"
        lines.append(line)
    return table(lines, dict.fromkeys(lines[0], ""))


def page(rows: Sequence[Row]) -> str:
    """Return the results page."""
    goals = [goal.line(rows) for goal in GOALS]
    parts = [
        "# What the benchmarks measured",
        "Written by `python -m benchmarks report`. Times are medians over interleaved "
        "rounds, a ratio is the median of those within a round, and `iqr` is its "
        "interquartile range: the noise.",
        "## Goals",
        table(goals, dict.fromkeys(goals[0], "")),
    ]
    missed = [line["goal"] for line in goals if line["result"] == "missed"]
    notes = [f"- {name}: {BETWEEN[name]}" for name in missed if name in BETWEEN]
    if notes:
        parts += ["What stands between:", "\n".join(notes)]
    for name, title in TITLES.items():
        own = [row for row in rows if row["benchmark"] == name]
        parts += [f"## {title}", f"`python -m benchmarks.{name}`"]
        if not own:
            parts.append("Not run.")
            continue
        columns = importlib.import_module(f"benchmarks.{name}").COLUMNS
        for machine in dict.fromkeys(map(_machine, own)):
            lines = [row for row in own if _machine(row) == machine]
            parts.append(f"{machine}{_busy(lines)}:")
            parts.append(table(lines, columns))
    return "\n\n".join(parts) + "\n"


def _busy(rows: Sequence[Row]) -> str:
    return " (busy cores)" * any(row.get("idle") is False for row in rows)


def _machine(row: Row) -> str:
    device = "CPU" if row["backend"] == "cpu" else row["device"]
    return f"{device}, {row['cpus']} CPU cores, JAX {row['jax']}"


def write(folder: Path = RESULTS, path: Path = PAGE) -> None:
    """Write the results page, with the plots that lie beside the results."""
    text = page(results(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    for plot in sorted(folder.glob("*.png")):
        name = os.path.relpath(plot, path.parent).replace(os.sep, "/")
        text += f"\n![{plot.stem}]({name})\n"
    _ = path.write_text(text, "utf-8")
