"""The figure of the identification example."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from examples.identification.comparison import drift_step
from examples.identification.methods import Run, milestones
from examples.identification.problem import N_INPUTS
from examples.identification.simulation import Record

# The colours of Okabe and Ito, which the colour-blind tell apart: blue for dual
# averaging, warm for the baselines; greens for the latent methods.
STYLES: dict[str, dict[str, Any]] = {
    "RMDA": {"color": "#0072B2", "linestyle": "-", "linewidth": 2.2},
    "RMDA, cosine": {"color": "#004A75", "linestyle": ":", "linewidth": 1.8},
    "RMDA, restart": {"color": "#004A75", "linestyle": ":", "linewidth": 1.8},
    "RAMDA": {"color": "#56B4E9", "linestyle": "--", "linewidth": 2.2},
    "RAMDA, cosine": {"color": "#56B4E9", "linestyle": ":", "linewidth": 1.8},
    "normal map": {"color": "#009E73", "linestyle": "-", "linewidth": 2.2},
    "AProx, SGD": {"color": "#5AA85E", "linestyle": "--"},
    "AProx, Adam": {"color": "#5AA85E", "linestyle": ":", "linewidth": 1.8},
    "LinBreg": {"color": "#55722B", "linestyle": "-."},
    "ProxSGD": {"color": "#D55E00", "linestyle": "-"},
    "ProxGen": {"color": "#E69F00", "linestyle": "--"},
    "ProxSSI": {"color": "#CC79A7", "linestyle": ":", "linewidth": 1.8},
}
# Few enough to be told apart; the tables have all of them.
SHOWN = ("RMDA", "RAMDA", "normal map", "AProx, SGD", "LinBreg", "ProxSGD", "ProxGen")
IN_DRIFT = ("RMDA", "RMDA, restart", "normal map", "AProx, SGD", "LinBreg", "ProxSGD")
WITH_GRADIENT = ("RMDA", "RAMDA", "normal map", "ProxSGD", "ProxGen")
BEFORE_DRIFT = 300  # steps that are shown


def save_figure(
    records: Mapping[Run, Record],
    in_drift: Mapping[str, Record],
    steps: np.ndarray,
    path: Path,
) -> None:
    """Plot the runs whose rate decays, and the wrong rows when the data drift.

    Args:
      records: Of the infinite sum.
      in_drift: Of constant rates.
      steps: Shape (time,): at which steps it was recorded.
      path: Where to save the picture.
    """
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    (distance, wrong), (error, drift) = figure.subplots(2, 2)
    decaying = {run.method: record for run, record in records.items() if run.decays}
    curves_of = lambda name, methods: {
        method: getattr(decaying[method], name)
        for method in methods
        if method in decaying
    }
    start = drift_step(int(steps[-1]))
    near = steps > start - BEFORE_DRIFT
    drifting = {
        method: in_drift[method].wrong_groups[:, near]
        for method in IN_DRIFT
        if method in in_drift
    }
    plot(distance, steps, curves_of("distance", SHOWN))
    plot(wrong, steps, curves_of("wrong_groups", SHOWN))
    plot(error, steps, curves_of("gradient_error", WITH_GRADIENT))
    plot(drift, steps[near] - start, drifting)
    distance.set(title="Distance to the optimum", yscale="log")
    wrong.set(title=f"Rows that are wrongly zero or not, of {N_INPUTS}")
    error.set(title="Error of the gradient that is followed", yscale="log")
    drift.set(title="Wrong rows when the data drift")
    falls = milestones(int(steps[-1]))
    when = f"step (the learning rate falls at {falls[0]} and {falls[1]})"
    for axes in figure.axes:
        left = axes.dataLim.x0 if axes is drift else 0
        axes.set(xlabel=when, xlim=(left, axes.dataLim.x1))
        axes.spines[["top", "right"]].set_visible(False)
        label_ends(axes)
    drift.set_xlabel("steps since the drift (the learning rate is constant)")
    for fall in falls:
        wrong.text(fall + steps[-1] / 60, 8, "restart", fontsize="small")
    figure.savefig(path, dpi=110)
    # The bands are a quarter of a megabyte, unless their colours are few.
    Image.open(path).convert("RGB").quantize(160).save(path, "png", optimize=True)


def plot(axes: Axes, steps: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    """Plot the mean over the seeds, in the band of their range, of every method."""
    for method, values in curves.items():
        axes.plot(steps, values.mean(0), label=method, **STYLES[method])
        band = {"color": STYLES[method]["color"], "alpha": 0.12, "linewidth": 0}
        axes.fill_between(steps, values.min(0), values.max(0), **band)


def label_ends(axes: Axes, gap: float = 0.065) -> None:
    """Write the name of every curve beside its last tenth, none over another.

    Args:
      axes: What has the curves.
      gap: The least distance of two names, in heights of the axes.
    """
    low, high = (axes.transData.transform((0, y))[1] for y in axes.get_ylim())
    ends = {}
    for line in axes.lines:
        values = np.asarray(line.get_ydata())
        end = values[-len(values) // 10 :].mean()
        ends[line] = (axes.transData.transform((0, end))[1] - low) / (high - low)
    lines = sorted(ends, key=lambda line: ends[line])
    heights = spread(np.asarray([ends[line] for line in lines]), gap)
    for line, height in zip(lines, heights, strict=True):
        style = {"color": line.get_color(), "fontsize": "small", "va": "center"}
        name = str(line.get_label())
        axes.text(1.02, height, name, transform=axes.transAxes, **style)


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Return ascending heights moved apart, but not below 0 or above 1."""
    heights = heights.copy()
    for _ in range(500):
        lack = np.maximum(gap - np.diff(heights), 0) / 2
        heights[:-1] -= lack
        heights[1:] += lack
        heights = np.clip(heights, 0, 1)
    return heights
