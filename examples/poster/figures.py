"""The figures of the report."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples._style import COLORS, label_ends
from examples.poster.logs import Log
from examples.poster.presets import TASKS
from examples.poster.results import NAMES, Results, title


def plot_curves(results: Results, path: Path) -> None:
    """Plot group sparsity and accuracy against epochs, a column for each task."""
    shown = {k: r for k, r in results.items() if k[1] not in ("rmda_l1", "rigl")}
    tasks = list(dict.fromkeys(task for task, _ in shown))
    figure = Figure(figsize=(4.2 * len(tasks), 6.5), layout="constrained")
    axes = figure.subplots(2, len(tasks), squeeze=False, sharex="col")
    for (task, method), result in shown.items():
        column = axes[:, tasks.index(task)]
        for axis, name in zip(column, ("groups", "accuracy"), strict=True):
            curve = 100 * result.curves[name]
            epochs = np.arange(1, len(curve) + 1)
            style = {"color": _color(method)}
            axis.plot(epochs, curve.mean(axis=1), label=NAMES[method], lw=1, **style)
            low, high = curve.min(axis=1), curve.max(axis=1)
            axis.fill_between(epochs, low, high, alpha=0.2, lw=0, **style)
    for i, task in enumerate(tasks):
        best = max(r.curves["accuracy"].max() for k, r in shown.items() if k[0] == task)
        limits = 100 * best - 10, 100 * best + 1
        axes[0, i].set(title=title(task), ylabel="groups zero, %")
        axes[1, i].set(xlabel="epoch", ylabel="test accuracy, %", ylim=limits)
        for axis in axes[:, i]:
            label_ends(axis)
    figure.savefig(path, dpi=110)


def plot_fronts(paths: list[Log], results: Results, path: Path) -> None:
    """Plot accuracy against sparsity, a panel for each task."""
    tasks = [task for task in TASKS if any(task == p.config["task"] for p in paths)]
    figure = Figure(figsize=(5 * len(tasks), 4), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    panels = dict(zip(tasks, axes, strict=True))
    for log in paths:
        config = log.config
        share = "weights" if config["method"] == "rmda_l1" else "groups"
        shape = len(config["strengths"]), len(config["seeds"])
        x, y = (
            100 * np.reshape(log.epochs[-1][name], shape).mean(axis=1)
            for name in (share, "accuracy")
        )
        label = f"{NAMES[config['method']]}, {config['epochs']} epochs"
        panels[config["task"]].plot(
            x, y, "o-", color=_color(config["method"]), label=label
        )
    for task, axis in panels.items():
        if (task, "dense") in results:
            dense = 100 * results[task, "dense"].curves["accuracy"][-1].mean()
            axis.axhline(dense, color=_color("dense"), ls=":", label="Dense")
        axis.set(title=title(task), xlabel="zero, %", ylabel="test accuracy, %")
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _color(method: str) -> str:
    return COLORS["dense" if method == "dense" else NAMES[method]]
