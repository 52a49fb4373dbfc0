"""How methods look in every figure: one colour each, and names beside the curves."""

import numpy as np
from matplotlib.axes import Axes

# The colours of Okabe and Ito, which the colour-blind tell apart: blue for dual
# averaging, warm for the baselines; greens for the latent methods; grey for the rest.
COLORS = {
    "RMDA": "#0072B2",
    "RAMDA": "#56B4E9",
    "RMDA, l1": "#004A75",
    "normal map": "#009E73",
    "AProx": "#5AA85E",
    "LinBreg": "#55722B",
    "ProxSGD": "#D55E00",
    "ProxGen": "#E69F00",
    "ProxSSI": "#CC79A7",
    "RigL": "#8C6D46",
    "dense": "#666666",
}


def label_ends(axes: Axes, gap: float = 0.065) -> None:
    """Write the name of every curve beside its last tenth, none over another.

    Args:
      axes: What has the curves. Those whose label begins with ``_`` have no name.
      gap: The least distance of two names, in heights of the axes.
    """
    low, high = (axes.transData.transform((0, y))[1] for y in axes.get_ylim())
    ends = {}
    for line in axes.lines:
        if str(line.get_label()).startswith("_"):
            continue
        values = np.asarray(line.get_ydata())
        end = values[-max(len(values) // 10, 1) :].mean()
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
