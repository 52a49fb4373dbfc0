"""The table and the figure of the demo, drawn from the summaries of its runs."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

Summary = dict[str, Any]  # what `demo.summarize` returns


def print_table(summaries: dict[str, Summary], console: Console) -> None:
    """Print a row of figures for each method."""
    table = Table(title="After training")
    for column in (
        "method",
        "test accuracy",
        "groups zero",
        "by size",
        "by kernel",
        "weights left",
        "support stable since",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, summary in summaries.items():
        left, sparsity = summary["weights_left"], summary["group_sparsity"]
        table.add_row(
            method,
            f"{summary['test_accuracy']:.2%}",
            *(f"{sparsity[w]:.2%}" for w in ("unweighted", "size", "kernel")),
            f"{left:,} ({left / summary['weights']:.2%})",
            f"epoch {summary['support_stable_since']}",
        )
    console.print(table)


def print_shrunk(shrunk: dict[str, Any], console: Console) -> None:
    """Print what `demo.shrink` returned, in one line."""
    n, small_n = shrunk["parameters"]
    size, small_size = shrunk["bytes"]
    seconds, small_seconds = shrunk["seconds"]
    accuracy, small_accuracy = shrunk["test_accuracy"]
    console.print(
        f"RMDA, zeros removed: {n:,} -> {small_n:,} parameters, "
        f"{size:,} -> {small_size:,} bytes, {small_seconds / seconds:.2f} times the "
        f"latency, test accuracy {accuracy:.2%} -> {small_accuracy:.2%}",
        soft_wrap=True,
    )


def save_figure(summaries: dict[str, Summary], path: Path) -> None:
    """Plot the runs against the epochs, and the channels that each layer keeps."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    sparsity, accuracy, channels = figure.subplots(1, 3)
    width = 0.9 / len(summaries)
    for i, (method, summary) in enumerate(summaries.items()):
        curves, layers = summary["curves"], summary["channels"]
        style = {"color": f"C{i}", "label": method}
        epochs = np.arange(1, len(curves["loss"]) + 1)
        sparsity.plot(epochs, curves["group_sparsity"], **style)
        accuracy.plot(epochs, curves["accuracy"], **style)
        positions = np.arange(len(layers)) + width * i
        shares = [kept / total for kept, total in layers.values()]
        bars = channels.bar(positions, shares, width=width, **style)
        if method in ("dense SGD", "RMDA"):
            counts = [kept for kept, _ in layers.values()]
            channels.bar_label(bars, counts, fontsize="x-small")
        channels.set_xticks(np.arange(len(layers)) + 0.45 - width / 2, layers)
    sparsity.set(xlabel="epoch", ylabel="group sparsity", ylim=(-0.02, 1.02))
    accuracy.set(xlabel="epoch", ylabel="validation accuracy", ylim=(0.7, 1.005))
    channels.set(xlabel="layer", ylabel="input channels kept", ylim=(0, 1.1))
    sparsity.legend(fontsize="small")
    figure.savefig(path, dpi=110)
