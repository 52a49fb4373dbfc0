"""The tables of the demo."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from examples.demo.choice import MOST_LOST, Row, choose

Summary = dict[str, Any]  # what `train` of the demo returns, or a line it saved
LAST = 20  # the flicker is counted over the last so-manieth of the run
COLUMNS = (
    "method",
    "strength",
    "test accuracy, %",
    "groups zero, %",
    "weights zero, %",
    "groups that change per epoch",
)


def rows_of(summary: Summary) -> list[Row]:
    """Return a row for each value of a front: means over the seeds."""
    means = {
        key: np.mean(summary[key], axis=0).tolist()
        for key in ("validation_accuracy", "groups_zero", "weights_zero")
    }
    return [
        {"method": summary["method"], "value": value}
        | {key: mean[i] for key, mean in means.items()}
        for i, value in enumerate(summary["values"])
    ]


def chosen_rows(summaries: list[Summary]) -> dict[str, int]:
    """Return for every method the place of the value that `choose` takes."""
    rows = choose([row for summary in summaries for row in rows_of(summary)])
    return {
        summary["method"]: summary["values"].index(rows[summary["method"]]["value"])
        for summary in summaries
        if summary["method"] in rows
    }


def flicker(summary: Summary) -> np.ndarray:
    """Return how many groups change from one epoch to the next at the end of the run.

    Shape (seeds, values): means over the last epochs.
    """
    changes = np.asarray(summary["changes"], float)
    return changes[-max(1, (len(changes) + 1) // LAST) :].mean(axis=0)


def cells(summary: Summary, place: int) -> list[str]:
    """Return what the tables show of one value of a front."""
    method, value = summary["method"], summary["values"][place]
    shares = ("test_accuracy", "groups_zero", "weights_zero")
    percents = [100 * np.asarray(summary[key])[:, place] for key in shares]
    how = f"keep {value:.0%}" if "budget" in method else f"{value:g}"
    return [
        method,
        "-" if method == "dense" else how,
        *(_spread(x) for x in percents),
        _spread(flicker(summary)[:, place]),
    ]


def print_tables(summaries: list[Summary], console: Console) -> None:
    """Print the fronts, and of each the value that was chosen."""
    n_seeds = len(summaries[0]["test_accuracy"])
    fronts = _table(f"Mean and standard deviation of {n_seeds} seeds")
    for summary in summaries:
        for place in range(len(summary["values"])):
            fronts.add_row(*cells(summary, place))
    console.print(fronts)
    places = chosen_rows(summaries)
    table = _table(
        f"Most zeros for at most {100 * MOST_LOST:g} point, on validation images"
    )
    for summary in summaries:
        if summary["method"] in places:
            table.add_row(*cells(summary, places[summary["method"]]))
    console.print(table)


def print_shrunk(summary: Summary, console: Console) -> None:
    """Print what `shrink` returned, in one line."""
    shrunk = summary["shrunk"]
    n, small_n = shrunk["parameters"]
    size, small_size = shrunk["bytes"]
    seconds, small_seconds = shrunk["seconds"]
    accuracy, small_accuracy = shrunk["test_accuracy"]
    console.print(
        f"{summary['method']}, seed 0, zeros removed: {n:,} -> {small_n:,} parameters, "
        f"{size:,} -> {small_size:,} bytes, {small_seconds / seconds:.2f} times the "
        f"latency, test accuracy {accuracy:.2%} -> {small_accuracy:.2%}",
        soft_wrap=True,
    )


def _table(title: str) -> Table:
    table = Table(title=title)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "method" else "right")
    return table


def _spread(values: np.ndarray) -> str:
    """Return mean and standard deviation of a sample."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return f"{np.mean(values):.1f} ± {deviation:.1f}"
