"""Tables and figures beside the published ones, from the logs alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from examples.poster import logs, published
from examples.poster.driver import RunError
from examples.poster.figures import plot_curves, plot_fronts
from examples.poster.logs import Json
from examples.poster.published import Figures
from examples.poster.results import NAMES, Result, Results, best_results, title
from examples.poster.selection import FILE as SELECTION

INTRODUCTION = """# Results

Written by `python -m examples.poster report` from the logs in `logs/`: do not edit.

Accuracy is that on the test images (the papers call it validation accuracy), measured
like the sparsity on the structured iterate after the last epoch; in per cent, mean ±
standard deviation over the seeds. Of several runs of a method the longest is shown, and
of those the one of most seeds. What is published was trained for 500 epochs (LeNet5 as
far as is known, logistic regression), 300 (MLP), 1,000 or 1,500 (VGG19, ResNet50).
"""
GROUP_METHODS = ("dense", "proxsgd", "proxssi", "proxgen", "ramda", "rmda")
BASELINES = ("proxsgd", "proxssi", "proxgen")
SETTINGS = ("learning_rate", "averaging", "weight_decay", "milestones")


class Section(NamedTuple):
    """A table: its rows, and the columns that it has for each of them."""

    title: str
    about: str
    rows: dict[str, tuple[str, ...]]  # methods of each task
    papers: dict[str, Mapping[str, Mapping[str, Figures]]]  # by column
    measures: dict[str, str]  # name of a curve, by column
    at_best: str = ""  # the column in which baselines have the largest of all epochs


SECTIONS = (
    Section(
        "Structured sparsity: the poster's first table",
        """Group lasso on the input channels and neurons of every layer. How the poster
counts groups is unknown, so all three definitions are shown: every group counts one
(A); its number of weights (B, as in the RAMDA paper); in convolutions, every kernel of
an input and an output channel counts one (C, as in RMDA's released evaluation).""",
        dict.fromkeys(published.POSTER, GROUP_METHODS),
        {"poster": published.POSTER, "RAMDA paper (B)": published.RAMDA},
        {
            "groups (A)": "groups",
            "by size (B)": "groups_by_size",
            "by kernel (C)": "groups_by_kernel",
        },
    ),
    Section(
        "Unstructured sparsity: the poster's second table",
        """RMDA with the l1 norm against RigL; of all weights of convolutions and dense
layers, those that are zero. LeNet5 is ours: the poster has no such row.""",
        dict.fromkeys(
            [*published.POSTER_UNSTRUCTURED, "lenet5/fashion_mnist"],
            ("rigl", "rmda_l1"),
        ),
        {"poster": published.POSTER_UNSTRUCTURED},
        {"weights": "weights"},
    ),
    Section(
        "Logistic regression: table 7 of the RAMDA paper",
        """As in the paper, the sparsity of the baselines (ProxSGD, ProxSSI, ProxGen) is
their largest over the epochs; that of RMDA and RAMDA is the last epoch's, and so is
every accuracy. The last column has what the baselines end with.""",
        {"logistic/mnist": GROUP_METHODS},
        {"RAMDA paper": published.RAMDA_LOGISTIC},
        {"groups": "groups", "groups, last epoch": "groups"},
        at_best="groups",
    ),
    Section(
        "Low rank: table 8 of the RAMDA paper",
        "Nuclear norm on every layer; of all singular values, those that are zero.",
        {"mlp/fashion_mnist": ("dense", "proxsgd", "proxgen", "ramda", "rmda")},
        {"RAMDA paper": published.RAMDA_NUCLEAR},
        {"singular values": "groups"},
    ),
)


def write(folder: Path, out: Path) -> None:
    """Write RESULTS.md and the figures into `out`, from the logs in `folder`."""
    found = [
        logs.read(p) for p in sorted(folder.glob("*.jsonl")) if p.name != SELECTION
    ]
    if not found:
        raise RunError(
            f"{folder} has no logs. Call `run` or `path` first, or report on those "
            "that are kept: --logs examples/poster/logs."
        )
    results = best_results(found)
    paths = [log for log in found if log.config["kind"] == "path" and log.is_complete]
    out.mkdir(parents=True, exist_ok=True)
    text = [INTRODUCTION, *(section_text(section, results) for section in SECTIONS)]
    if results:
        plot_curves(results, out / "sparsity.png")
        text.append("## Structured sparsity against epochs\n\n![](sparsity.png)\n")
    if paths:
        plot_fronts(paths, results, out / "fronts.png")
        text.append("## Sparsity against accuracy\n\n![](fronts.png)\n")
    text += [
        settings_text(results),
        selection_text(logs.read_lines(folder / SELECTION)),
    ]
    _ = (out / "RESULTS.md").write_text("\n".join(part for part in text if part))


def section_text(section: Section, results: Results) -> str:
    """Return one table, with a row for every task and method, run or not."""
    rows = []
    for task, methods in section.rows.items():
        # A row of its own for almost the same images, where that was run.
        jpeg = f"{task}_jpeg75"
        ran = any((jpeg, method) in results for method in methods)
        for variant in [task, jpeg] if ran else [task]:
            for method in methods:
                figures = (p.get(task, {}).get(method) for p in section.papers.values())
                ours = _our_cells(section, method, results.get((variant, method)))
                rows.append(
                    [title(variant), NAMES[method], *map(_published, figures), *ours]
                )
    header = ["task", "method", *section.papers, "accuracy", *section.measures, "runs"]
    return f"## {section.title}\n\n{section.about}\n\n{_table(header, rows)}"


def settings_text(results: Results) -> str:
    """Return the settings of what was run, each with its source."""
    sources: dict[str, int] = {}
    rows = []
    for (task, method), result in results.items():
        config = result.config
        values = {"strength": config["strengths"][0]}
        values |= {name: config["settings"][name] for name in SETTINGS}
        cells = [title(task), NAMES[method]]
        for name, value in values.items():
            source = config["sources"].get(name)
            if source is None:  # the method has no such setting
                cells.append("-")
                continue
            number = sources.setdefault(source, len(sources) + 1)
            shown = " ".join(map(str, value)) if name == "milestones" else f"{value:g}"
            cells.append(f"{shown} [{number}]")
        rows.append(cells)
    if not rows:
        return ""
    header = ["task", "method", "strength", *(n.replace("_", " ") for n in SETTINGS)]
    notes = "".join(f"- [{number}] {source}\n" for source, number in sources.items())
    return f"## Settings, and where they come from\n\n{_table(header, rows)}\n{notes}"


def selection_text(lines: list[Json]) -> str:
    """Return what was selected, and from which trials."""
    if not lines:
        return ""
    rows = []
    for line in lines:
        if "strength" in line:
            shares = (
                f"{100 * line[name]:.2f}" if name in line else "-"
                for name in ("accuracy", "groups", "weights")
            )
            numbers = (f"{line[name]:g}" for name in ("learning_rate", "strength"))
            names = title(line["task"]), NAMES[line["method"]]
            rows.append([*names, *numbers, *shares, _extent(line["seeds"], line)])
    chosen = "".join(
        f"- {title(line['task'])}, {NAMES[line['method']]}: {what} **{line[name]}**, "
        f"{line['rule']} ({_extent(line['seeds'], line)})\n"
        for line in lines
        for name, what in (("selected_rate", "rate"), ("selected", "strength"))
        if name in line
    )
    header = ["task", "method", "rate", "strength", "accuracy", "groups", "weights"]
    about = "On the sixth of the training images that is held out, with other seeds."
    table = _table([*header, "runs"], rows)
    return f"## Selection of rates and strengths\n\n{about}\n\n{table}\n{chosen}"


def _our_cells(section: Section, method: str, result: Result | None) -> list[str]:
    if result is None:
        return ["not run", *("-" for _ in section.measures), "-"]
    cells = [_mean(result.curves["accuracy"][-1])]
    for column, name in section.measures.items():
        curve = result.curves[name]
        at_best = column == section.at_best and method in BASELINES
        cells.append(_mean(curve.max(axis=0) if at_best else curve[-1]))
    return [*cells, _extent(len(result.seeds), result.config)]


def _extent(n_seeds: int, config: Json) -> str:
    extent = f"{n_seeds} x {config['epochs']} epochs"
    dtype = config.get("dtype", "float32")
    return extent if dtype == "float32" else f"{extent}, {dtype}"


def _published(figures: Figures | None) -> str:
    if figures is None:
        return "-"
    accuracy, sparsity, deviation = figures
    shown = accuracy if sparsity is None else f"{accuracy} / {sparsity}"
    return shown if deviation is None else f"{shown} ± {deviation}"


def _mean(shares: np.ndarray) -> str:
    mean = f"{100 * shares.mean():.2f}"
    return f"{mean} ± {100 * shares.std(ddof=1):.2f}" if len(shares) > 1 else mean


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
