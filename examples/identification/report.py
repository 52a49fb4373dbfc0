"""The rows, the tables and the figure of the identification example."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from examples.identification.methods import (
    DUAL_AVERAGING,
    METHODS,
    MOMENTUM,
    Run,
    milestones,
)

Row = dict[str, Any]
Columns = dict[str, tuple[str, str]]  # heading: key of the rows, format

STRUCTURE: Columns = {
    "wrong groups": ("wrong_groups", "{:.1f}"),
    "rows kept": ("rows_kept", "{:.0f}"),
    "right since": ("right_since", "{:.0f}"),
    "distance": ("distance", "{:.3f}"),
}
GRADIENTS: Columns = {
    "gradient error": ("gradient_error", "{:.2f}"),
    "certificate,\ntrue gradient": ("certificate", "{:.2f}"),
    "certificate,\nown gradient": ("own_certificate", "{:.2f}"),
    "margin,\nown gradient": ("own_margin", "{:.2f}"),
}
LAW_STEPS = (10, 30, 100, 300, 1000)  # of the table
# The colours of Okabe and Ito, which the colour-blind tell apart: blue for dual
# averaging, warm for the baselines.
STYLES = {
    "RMDA": {"color": "#0072B2", "linestyle": "-", "linewidth": 2.2},
    "RAMDA": {"color": "#56B4E9", "linestyle": "--", "linewidth": 2.2},
    "ProxSGD": {"color": "#D55E00", "linestyle": "-"},
    "ProxGen": {"color": "#E69F00", "linestyle": "--"},
    "ProxSSI": {"color": "#CC79A7", "linestyle": ":", "linewidth": 1.8},
}
LAW = {"color": "black", "linestyle": ":", "linewidth": 1.3, "zorder": 4}


def laws(t: np.ndarray) -> dict[str, np.ndarray]:
    """Return the noise left, of 1, in the gradient that a method follows at step t."""
    rho = 1 - MOMENTUM
    return {
        "RMDA": np.sqrt(9 / (8 * t)),
        "ProxSGD": np.full(len(t), np.sqrt(rho / (2 - rho))),
    }


def summarize(records: Mapping[Run, Any], steps: np.ndarray) -> list[Row]:
    """Return a row for every run and seed: means over the last quarter of the steps."""
    rows = []
    for (method, decay), record in records.items():
        start = 3 * len(steps) // 4
        for seed, wrong in enumerate(record.wrong_groups):
            # The first record from which on all are right; None without one.
            first = np.flatnonzero(wrong).max(initial=-1) + 1
            rows.append(
                {
                    "method": method,
                    "decay": decay,
                    "learning_rate": METHODS[method],
                    "seed": seed,
                    "fewest_wrong": int(wrong[start:].min()),
                    "most_wrong": int(wrong[start:].max()),
                    "right_since": int(steps[first]) if first < len(steps) else None,
                    **{
                        name: _rounded(curves[seed, start:].mean())
                        for name, curves in record._asdict().items()
                    },
                }
            )
    return rows


def summarize_law(noise: Mapping[str, np.ndarray]) -> list[Row]:
    """Return a row for each law and some of the steps."""
    return [
        {
            "law": method,
            "step": step,
            "measured": _rounded(noise[method][step - 1]),
            "predicted": _rounded(predicted),
        }
        for method, curve in laws(np.asarray(LAW_STEPS)).items()
        for step, predicted in zip(LAW_STEPS, curve, strict=True)
    ]


def _rounded(number: float) -> float | None:
    # JSON knows no infinity, which is the margin where no row is zero.
    return float(f"{number:.4g}") if np.isfinite(number) else None


def print_tables(rows: Sequence[Row], law: Sequence[Row], console: Console) -> None:
    """Print structure and distance, gradients and certificates, and the law."""
    console.print("Last quarter of the run: mean (and range over seeds)")
    for columns in (STRUCTURE, GRADIENTS):
        table = Table("method", "rate", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in columns:
            table.add_column(heading, justify="right")
        for run in dict.fromkeys((row["method"], row["decay"]) for row in rows):
            seeds = [row for row in rows if (row["method"], row["decay"]) == run]
            cells = (
                mean_and_range([row[key] for row in seeds], text.format)
                for key, text in columns.values()
            )
            rate = f"{seeds[0]['learning_rate']:g}{' decays' if run[1] else ''}"
            table.add_row(run[0], rate, *cells)
        console.print(table)
    console.print("Noise left in the gradient at fixed params (and its law)")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("step", *laws(np.ones(1))):
        table.add_column(heading, justify="right")
    for step in LAW_STEPS:
        at_step = [row for row in law if row["step"] == step]
        cells = (f"{row['measured']:.3f} ({row['predicted']:.3f})" for row in at_step)
        table.add_row(str(step), *cells)
    console.print(table)


def mean_and_range(values: Sequence[float | None], text: Callable[..., str]) -> str:
    """Return the mean and, where it prints as another number, the range."""
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    if len(known) < len(values):
        return f"in {len(known)} of {len(values)}"
    mean, least, most = text(np.mean(known)), text(min(known)), text(max(known))
    return mean if least == most else f"{mean} ({least}–{most})"


def save_figure(
    records: Mapping[Run, Any],
    steps: np.ndarray,
    law: Mapping[str, np.ndarray],
    gradient_noise: float,
    path: Path,
) -> None:
    """Plot the runs whose rate decays, and the noise at fixed params, with the laws."""
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    (distance, wrong), (error, noise) = figure.subplots(2, 2)
    decaying = {method: record for (method, decay), record in records.items() if decay}
    for method, record in decaying.items():
        _plot(distance, steps, record.distance, method)
        _plot(wrong, steps, record.wrong_groups, method)
        _plot(error, steps, record.gradient_error, method)
    _draw_laws(error, noise, steps, law, gradient_noise)
    _write_ends(distance, wrong, decaying, steps)
    distance.set(title="Distance to the optimum", yscale="log")
    wrong.set(title="Rows that are wrongly zero or not, of 40", ylim=(-1, 33))
    error.set(title="Error of the gradient that is followed", yscale="log")
    noise.set(title="Noise left in it at fixed params", yscale="log", xscale="log")
    for axes in figure.axes:
        axes.set(xlabel="step", xlim=(1 if axes is noise else 0, axes.dataLim.x1))
        axes.spines[["top", "right"]].set_visible(False)
    legend = [*distance.lines, noise.lines[-1]]
    figure.legend(handles=legend, loc="outside upper center", ncols=6, frameon=False)
    figure.savefig(path, dpi=110)
    # The bands are a quarter of a megabyte, unless their colours are few.
    Image.open(path).convert("RGB").quantize(64).save(path, "png", optimize=True)


def _plot(axes: Axes, steps: np.ndarray, curves: np.ndarray, method: str) -> None:
    """Plot the mean over the seeds, in the band of their range."""
    axes.plot(steps, curves.mean(0), label=method, **STYLES[method])
    band = {"color": STYLES[method]["color"], "alpha": 0.15, "linewidth": 0}
    axes.fill_between(steps, curves.min(0), curves.max(0), **band)


def _draw_laws(
    error: Axes,
    noise: Axes,
    steps: np.ndarray,
    law: Mapping[str, np.ndarray],
    gradient_noise: float,
) -> None:
    """Plot the noise at fixed params; beside it, and beside the errors, the laws."""
    t = np.arange(1, 1 + len(law["RMDA"]))
    for method, predicted in laws(t).items():
        noise.plot(t, law[method], **STYLES[method])
        noise.plot(t, predicted, label="the laws", **LAW)
    noise.text(120, 0.13, "$\\sqrt{9/(8t)}$")
    noise.text(120, 0.26, "$\\sqrt{\\rho/(2-\\rho)}$")
    error.plot(steps, gradient_noise * laws(steps)["ProxSGD"], **LAW)
    starts = [0, *milestones(steps[-1])]
    stage = steps[steps <= starts[1]]
    for start in starts:
        error.plot(start + stage, gradient_noise * laws(stage)["RMDA"], **LAW)


def _write_ends(
    distance: Axes, wrong: Axes, records: Mapping[str, Any], steps: np.ndarray
) -> None:
    """Write what the last quarter brought, and where dual averaging restarts."""
    start = 3 * len(steps) // 4
    baselines = [method for method in METHODS if method not in DUAL_AVERAGING]
    for methods, height in ((DUAL_AVERAGING, 1), (baselines, 27)):
        mean = np.mean([records[m].wrong_groups[:, start:].mean() for m in methods])
        text = f"{', '.join(methods)}: {mean:.1f}"
        wrong.text(steps[-1], height, text, ha="right", fontsize="small")
    for milestone in milestones(steps[-1]):
        wrong.text(milestone + steps[-1] / 50, 6, "restart", fontsize="small")
    ends = [record.distance[:, start:].mean() for record in records.values()]
    text = f"last quarter: {min(ends):.3f} to {max(ends):.3f}"
    distance.text(steps[-1], 0.1, text, ha="right", fontsize="small")
