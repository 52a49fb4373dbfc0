"""The table of limits: what each compiled step launches and moves, as measured."""

import json
import math
from pathlib import Path
from typing import Any

import jax

from benchmarks import _rows

PATH = Path(__file__).with_name("limits.jsonl")
# What is held below the table, and to how many digits it is rounded up there.
METRICS = {
    "kernels": 0,
    "kernels_inside": 0,
    "loops": 0,
    "host_decisions": 0,
    "copies": 0,
    "collectives": 0,
    "bytes_per_parameter": 1,
    "temporary_bytes_per_parameter": 2,
}
Row = dict[str, Any]


def limits() -> list[Row]:
    """Return the rows of the table."""
    return _rows.read(PATH)


def as_limit(row: Row) -> Row:
    """Return the row of the table that a measured row makes."""
    metrics = {name: _up(row[name], digits) for name, digits in METRICS.items()}
    return {**_place(row), "jax": jax.__version__, **metrics}


def exceeded(row: Row, limit: Row) -> dict[str, tuple[float, float]]:
    """Return what is above its limit: the figure and the limit."""
    return {
        name: (row[name], limit[name])
        for name, digits in METRICS.items()
        if _up(row[name], digits) > limit[name]
    }


def replace(rows: list[Row]) -> None:
    """Write measured rows into the table, in the place of those of the same step."""
    new = [as_limit(row) for row in rows]
    places = [_place(row) for row in new]
    kept = [row for row in limits() if _place(row) not in places]
    lines = sorted(kept + new, key=lambda row: (row["target"], row["problem"]))
    _ = PATH.write_text("".join(f"{json.dumps(row)}\n" for row in lines), "utf-8")


def _place(row: Row) -> Row:
    return {name: row[name] for name in ("target", "problem", "what")}


def _up(x: float, digits: int) -> float:
    """Round up, but for what is left of a division."""
    scaled = round(x * 10**digits, 3)
    return math.ceil(scaled) / 10**digits if digits else math.ceil(scaled)
