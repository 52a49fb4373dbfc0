"""The table and the figure of the demo, drawn from the summaries of its runs."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

Summary = dict[str, Any]  # what `demo.summarize` returns


def print_table(summaries: dict[str, Summary], console: Console) -> None:
    """Print the figures of each method side by side."""

    def figures(summary: Summary) -> dict[str, str]:
        left, sparsity = summary["weights_left"], summary["group_sparsity"]
        return {
            "test accuracy": f"{summary['test_accuracy']:.2%}",
            **{f"group sparsity, {w}": f"{sparsity[w]:.2%}" for w in sparsity},
            "weights left": f"{left:,} ({left / summary['weights']:.2%})",
            "support stable since epoch": str(summary["support_stable_since"]),
        }

    table = Table("", *summaries, title="After training")
    by_method = [figures(summary) for summary in summaries.values()]
    for title in by_method[0]:
        table.add_row(title, *(figures[title] for figures in by_method))
    console.print(table)


def save_figure(summaries: dict[str, Summary], path: Path) -> None:
    """Plot the runs against the epochs, and the channels that each layer keeps."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    sparsity, accuracy, channels = figure.subplots(1, 3)
    for i, (method, summary) in enumerate(summaries.items()):
        curves, layers = summary["curves"], summary["channels"]
        style = {"color": f"C{i}", "label": method}
        epochs = np.arange(1, len(curves["loss"]) + 1)
        sparsity.plot(epochs, curves["group_sparsity"], **style)
        accuracy.plot(epochs, curves["accuracy"], **style)
        if method == "RMDA":
            faint = {"alpha": 0.4, "zorder": 0, "label": "RMDA, structured iterate"}
            accuracy.plot(epochs, curves["structured_accuracy"], **style | faint)
        positions = np.arange(len(layers)) + 0.4 * i
        shares = [kept / total for kept, total in layers.values()]
        counts = [f"{kept}/{total}" for kept, total in layers.values()]
        bars = channels.bar(positions, shares, width=0.4, **style)
        channels.bar_label(bars, counts, fontsize="x-small")
        channels.set_xticks(positions - 0.2 * i, layers)
    sparsity.set(xlabel="epoch", ylabel="group sparsity", ylim=(-0.02, 1.02))
    accuracy.set(xlabel="epoch", ylabel="validation accuracy", ylim=(-0.02, 1.02))
    channels.set(xlabel="layer", ylabel="input channels kept", ylim=(0, 1.3))
    for axes in (sparsity, accuracy, channels):
        axes.legend()
    figure.savefig(path, dpi=150)
