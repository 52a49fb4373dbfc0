"""The figure of the demo: fronts, and how many groups flicker."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples._style import COLORS, label_ends
from examples.demo.methods import MILESTONES
from examples.demo.report import Summary, chosen_rows

MOST_BELOW = 12  # points of accuracy below dense that are shown


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
    """Plot test accuracy against the share of zero groups, with standard deviations.

    Of points below the axes only the line that leads to them is shown; a method with
    no point in view has no name there.
    """
    best = max(100 * np.mean(x["test_accuracy"], axis=0).max() for x in summaries)
    lowest, in_view = best - MOST_BELOW, []
    for summary in summaries:
        (x, x_deviation), (y, y_deviation) = (
            (100 * np.mean(summary[key], axis=0), 100 * np.std(summary[key], 0, ddof=1))
            for key in ("groups_zero", "test_accuracy")
        )
        style = _style(summary["method"])
        color, shown = style["color"], y >= lowest
        if summary["method"] == "dense":
            axes.axhline(y[0], **style)
            band = y[0] - y_deviation[0], y[0] + y_deviation[0]
            axes.axhspan(*band, color=color, alpha=0.12, linewidth=0)
            continue
        order = np.argsort(x)
        axes.plot(x[order], y[order], **style | {"label": "_"})
        order = order[shown[order]]
        if not order.size:
            continue
        axes.plot(x[order], y[order], marker="o", markersize=5, **style)
        in_view += [*x[order]]
        bars = {"ecolor": color, "elinewidth": 1, "capsize": 2, "fmt": "none"}
        deviations = y_deviation[order], x_deviation[order]
        axes.errorbar(x[order], y[order], *deviations, **bars)
    axes.set(
        title="What zeros cost (up and to the right is better)",
        xlabel="groups zero, %",
        ylabel="test accuracy, %",
        ylim=(lowest, best + 1.5),
    )
    if in_view:
        axes.set_xlim(min(in_view) - 6, max(in_view) + 4)


def plot_flicker(axes: Axes, summaries: list[Summary]) -> None:
    """Plot how many groups change between zero and not, in the second half."""
    places = chosen_rows(summaries)
    n_epochs = len(summaries[0]["changes"]) + 1
    falls = " and ".join(str(int(share * n_epochs)) for share in MILESTONES)
    for summary in summaries:
        method = summary["method"]
        if method == "dense" or method not in places:
            continue
        changes = np.asarray(summary["changes"], float)[:, :, places[method]]
        epochs = np.arange(2, n_epochs + 1)
        late = epochs > n_epochs // 2
        mean = changes.mean(axis=1)[late]
        deviation = changes.std(axis=1, ddof=1)[late]
        style = _style(method)
        axes.plot(epochs[late], mean, **style)
        low, high = np.maximum(mean - deviation, 0), mean + deviation
        band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
        axes.fill_between(epochs[late], low, high, **band)
    axes.set(
        title="Do the zeros stay?",
        xlabel=f"epoch (rates fall and averages restart after {falls})",
        ylabel="groups that change from epoch to epoch",
        ylim=(0, None),
    )


def _style(method: str) -> dict[str, Any]:
    color = COLORS[method.removesuffix(", budget")]
    dashed = method == "RMDA"
    return {"color": color, "linestyle": "--" if dashed else "-", "label": method}
