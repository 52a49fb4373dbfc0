"""The figure of the demo: fronts, and how many groups flicker."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples._style import COLORS, label_ends
from examples.demo.report import Summary, chosen_rows

MOST_BELOW = 15  # points of accuracy below dense that are shown


def save_figure(summaries: list[Summary], path: Path) -> None:
    """Plot accuracy against zero groups, and the groups that change, over epochs."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    fronts, flicker = figure.subplots(1, 2)
    plot_fronts(fronts, summaries)
    plot_flicker(flicker, summaries)
    for axes in (fronts, flicker):
        axes.spines[["top", "right"]].set_visible(False)
        label_ends(axes)
    figure.savefig(path, dpi=110)


def plot_fronts(axes: Axes, summaries: list[Summary]) -> None:
    """Plot test accuracy against the share of zero groups, with standard deviations."""
    top = 0.0
    for summary in summaries:
        x, y = (
            100 * np.asarray(summary[key]) for key in ("groups_zero", "test_accuracy")
        )
        (x, x_deviation), (y, y_deviation) = (
            (z.mean(axis=0), z.std(axis=0, ddof=1)) for z in (x, y)
        )
        order = np.argsort(x)
        style = _style(summary["method"])
        if summary["method"] == "dense":
            axes.axhline(y[0], **style)
            low, high = y[0] - y_deviation[0], y[0] + y_deviation[0]
            axes.axhspan(low, high, color=style["color"], alpha=0.12, linewidth=0)
        else:
            axes.plot(x[order], y[order], marker="o", markersize=5, **style)
            bars = {"ecolor": style["color"], "elinewidth": 1, "capsize": 2}
            axes.errorbar(x, y, y_deviation, x_deviation, fmt="none", **bars)
        top = max(top, y.max())
    axes.set(
        title="What it costs (up and to the right is better)",
        xlabel="groups zero, %",
        ylabel="test accuracy, %",
        xlim=(0, 100),
        ylim=(top - MOST_BELOW, top + 2),
    )


def plot_flicker(axes: Axes, summaries: list[Summary]) -> None:
    """Plot how many groups change between zero and not from epoch to epoch."""
    places = chosen_rows(summaries)
    for summary in summaries:
        method = summary["method"]
        if method == "dense" or method not in places:
            continue
        changes = np.asarray(summary["changes"], float)[:, :, places[method]]
        epochs = np.arange(2, len(changes) + 2)
        style = _style(method)
        mean, deviation = changes.mean(axis=1), changes.std(axis=1, ddof=1)
        axes.plot(epochs, mean, **style)
        band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
        low, high = np.maximum(mean - deviation, 0), mean + deviation
        axes.fill_between(epochs, low, high, **band)
    axes.set(
        title="Do the zeros stay?",
        xlabel="epoch",
        ylabel="groups that change between zero and not",
        ylim=(0, None),
    )


def _style(method: str) -> dict[str, Any]:
    color = COLORS[method.removesuffix(", budget")]
    dashed = method == "RMDA"
    return {"color": color, "linestyle": "--" if dashed else "-", "label": method}
