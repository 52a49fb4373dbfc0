"""The rows and the tables of the identification example."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from examples.identification.inner import AROUND
from examples.identification.law import laws
from examples.identification.methods import Run, Setting
from examples.identification.simulation import Record

Row = dict[str, Any]  # where seeds differ, a list of their numbers
Columns = dict[str, tuple[str, str]]  # heading: key of the rows, format

STRUCTURE: Columns = {
    "right since": ("right_since", "{:.0f}"),
    "distance": ("distance", "{:.3f}"),
}
GRADIENTS: Columns = {
    "its error": ("gradient_error", "{:.2f}"),
    "certificate": ("own_certificate", "{:.2f}"),
    "by the truth": ("certificate", "{:.2f}"),
    "margin": ("own_margin", "{:.2f}"),
}
DRIFT: Columns = {
    "right after": ("steps_until_right", "{:.0f}"),
    "distance": ("distance", "{:.3f}"),
}
LAW_STEPS = (10, 30, 100, 300, 1000)  # of the table


def summarize(
    records: Mapping[Run, Record], settings: Mapping[str, Setting], steps: np.ndarray
) -> list[Row]:
    """Return a row for every run: means over the last quarter of the steps.

    Args:
      records: By run; what is in a record has the shape (seeds, time).
      settings: By method.
      steps: Shape (time,): at which steps it was recorded.
    """
    start = 3 * len(steps) // 4
    rows = []
    for (method, decays), record in records.items():
        wrong = record.wrong_groups
        setting = settings[method]
        rows.append(
            {
                "method": method,
                "decays": decays,
                "learning_rate": setting.learning_rate,
                "factor": setting.factor,
                "fewest_wrong": wrong[:, start:].min(1).tolist(),
                "most_wrong": wrong[:, start:].max(1).tolist(),
                "right_since": [first_right(curve, steps) for curve in wrong],
                **{
                    name: [rounded(x) for x in curves[:, start:].mean(1)]
                    for name, curves in record._asdict().items()
                },
            }
        )
    return rows


def first_right(wrong: np.ndarray, steps: np.ndarray) -> int | None:
    """Return the first step from which on nothing is wrong; None without one."""
    first = np.flatnonzero(wrong).max(initial=-1) + 1
    return int(steps[first]) if first < len(steps) else None


def summarize_drift(
    records: Mapping[str, Record],
    settings: Mapping[str, Setting],
    steps: np.ndarray,
    drift: int,
) -> list[Row]:
    """Return a row for every method: `summarize`, and what came before and after."""
    found = {Run(method, False): record for method, record in records.items()}
    rows = summarize(found, settings, steps)
    for row, record in zip(rows, records.values(), strict=True):
        before = record.wrong_groups[:, steps <= drift]
        since = row.pop("right_since")
        row["wrong_before"] = before[:, -1].tolist()
        row["steps_until_right"] = [None if s is None else s - drift for s in since]
    return rows


def summarize_law(noise: Mapping[str, np.ndarray]) -> list[Row]:
    """Return a row for each law and some of the steps."""
    return [
        {
            "law": method,
            "step": step,
            "measured": rounded(noise[method][step - 1]),
            "predicted": rounded(predicted),
        }
        for method, curve in laws(np.asarray(LAW_STEPS)).items()
        for step, predicted in zip(LAW_STEPS, curve, strict=True)
    ]


def rounded(number: float) -> float | None:
    """Return four digits; None for what JSON has no number for."""
    return float(f"{number:.4g}") if np.isfinite(number) else None


def tables(title: str, rows: Sequence[Row]) -> Iterator[Table]:
    """Yield the tables of structure, of a constant rate and of one that decays."""
    for decays, rate in ((False, "a constant rate"), (True, "a rate that decays")):
        some = [row for row in rows if row["decays"] == decays]
        yield table(f"{title}, {rate}", some, STRUCTURE)


def inner_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield the same for each of what is around the inner optimizers."""
    for around in AROUND:
        some = [
            row | {"method": row["method"].removeprefix(f"{around}, ")}
            for row in rows
            if row["method"].startswith(around)
        ]
        the = {"normal map": "the normal map"}.get(around, around)
        yield from tables(f"Inside of {the}", some)


def gradient_table(title: str, rows: Sequence[Row]) -> Table:
    """Return the table of the gradients that are followed, where the rate decays."""
    some = [row for row in rows if row["decays"] and row["gradient_error"][0]]
    return table(f"{title}, the gradient that is followed", some, GRADIENTS)


def table(title: str, rows: Sequence[Row], columns: Columns) -> Table:
    """Return a table of rows: mean, and in brackets the range over the seeds.

    The wrong groups have their range over seeds and steps.
    """
    found = empty(title)
    structure = columns is not GRADIENTS
    beside = ("rate", "wrong groups") if structure else ()
    for heading in ("method", *beside, *columns):
        left = heading in ("method", "rate")
        found.add_column(heading, justify="left" if left else "right", no_wrap=left)
    for row in rows:
        cells = [row["method"]]
        if structure:
            cells += [rate_text(row), wrong_text(row)]
        for key, text in columns.values():
            cells.append(mean_and_range(row[key], text.format))
        found.add_row(*cells)
    return found


def empty(title: str) -> Table:
    """Return a table without columns, as all of them look."""
    how = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    return Table(title=title, title_justify="left", **how)


def rate_text(row: Row) -> str:
    """Return the learning rate, and the factor of the strength unless it is 1."""
    factor = f" ×{row['factor']:g}" if row["factor"] != 1 else ""
    return f"{row['learning_rate']:g}{factor}"


def wrong_text(row: Row) -> str:
    """Return the mean of the wrong groups, and the fewest and the most at any time."""
    least, most = min(row["fewest_wrong"]), max(row["most_wrong"])
    mean = f"{np.mean(row['wrong_groups']):.1f}"
    return mean if least == most else f"{mean} ({least}–{most})"


def mean_and_range(values: Sequence[float | None], text: Callable[..., str]) -> str:
    """Return the mean and, where it prints as another number, the range."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) < len(values):
        return f"in {len(known)} of {len(values)}"
    mean, least, most = text(np.mean(known)), text(min(known)), text(max(known))
    return mean if least == most else f"{mean} ({least}–{most})"


def print_law(rows: Sequence[Row], console: Console) -> None:
    """Print the noise that is left at fixed params, and its law."""
    console.print("Noise left in the gradient at fixed params (and its law)")
    found = empty("")
    for heading in ("step", *laws(np.ones(1))):
        found.add_column(heading, justify="right")
    for step in LAW_STEPS:
        at_step = [row for row in rows if row["step"] == step]
        cells = (f"{row['measured']:.3f} ({row['predicted']:.3f})" for row in at_step)
        found.add_row(str(step), *cells)
    console.print(found)
