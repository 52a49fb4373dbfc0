"""The figure of the identification example."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from examples._style import COLORS, label_ends
from examples.identification.comparison import drift_step
from examples.identification.methods import Run, milestones
from examples.identification.problem import N_INPUTS
from examples.identification.simulation import Record

STYLES: dict[str, dict[str, Any]] = {
    "RMDA": {"color": COLORS["RMDA"], "linestyle": "-", "linewidth": 2.2},
    "RMDA, cosine": {"color": "#004A75", "linestyle": ":", "linewidth": 1.8},
    "RMDA, restart": {"color": "#004A75", "linestyle": ":", "linewidth": 1.8},
    "RAMDA": {"color": COLORS["RAMDA"], "linestyle": "--", "linewidth": 2.2},
    "RAMDA, cosine": {"color": COLORS["RAMDA"], "linestyle": ":", "linewidth": 1.8},
    "normal map": {"color": COLORS["normal map"], "linestyle": "-", "linewidth": 2.2},
    "AProx, SGD": {"color": COLORS["AProx"], "linestyle": "--"},
    "AProx, Adam": {"color": COLORS["AProx"], "linestyle": ":", "linewidth": 1.8},
    "LinBreg": {"color": COLORS["LinBreg"], "linestyle": "-."},
    "ProxSGD": {"color": COLORS["ProxSGD"], "linestyle": "-"},
    "ProxGen": {"color": COLORS["ProxGen"], "linestyle": "--"},
    "ProxSSI": {"color": COLORS["ProxSSI"], "linestyle": ":", "linewidth": 1.8},
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
