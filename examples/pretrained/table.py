"""The log of the runs as a table."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any, ClassVar

from examples.pretrained import campaign
from examples.pretrained.training import PRETRAINED, Run

SAME = tuple(name for name in Run._fields if name != "seed")
HEAD = (
    "method",
    "kept",
    "steps",
    "rates",
    "runs",
    "parameters",
    "Brown: zeros",
    "Brown: end",
    "addresses: zeros",
    "addresses: end",
    "seconds",
)


@dataclasses.dataclass(frozen=True)
class Report:
    """Print the perplexities of all runs in the log."""

    folder: Path = Path("out/pretrained")
    """Where the logs are."""
    needed: ClassVar[tuple[str, ...]] = ()

    def __call__(self) -> None:
        print(table(campaign.read(self.folder / campaign.RESULTS)))


def table(rows: list[dict[str, Any]]) -> str:
    """Return a line for each method, budget and setting; means over seeds.

    A rate that is the first or the last of its grid has a star: the best may lie
    beyond.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    # Two processes may have done the same run.
    for row in {tuple(row[x] for x in Run._fields): row for row in rows}.values():
        groups.setdefault(tuple(row[x] for x in SAME), []).append(row)
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cells(found)) + " |" for found in groups.values()]
    return "\n".join(lines)


def cells(rows: list[dict[str, Any]]) -> list[str]:
    """Return the cells of runs that differ in their seeds."""
    first, done = rows[0], [row for row in rows if "diverged" not in row]
    diverged = len(rows) - len(done)
    runs = f"{len(rows)}, {diverged} diverged" if diverged else str(len(rows))
    layers = "" if first["layers"] is None else f", {first['layers']} layers"
    penalty = f", {first['penalty']}" if first["penalty"] else ""
    start = [
        first["method"] + penalty + layers,
        f"{first['keep']:.0%}",
        str(first["steps"]),
    ]
    start += [rates(first), runs]
    if not done:
        return start + ["-"] * (len(HEAD) - len(start))
    of = lambda text, when: spread([r[when][text] for r in done if r[when]])
    measured = [
        of(text, when) for text in ("brown", "sotu") for when in ("zeros", "end")
    ]
    sizes = sorted({f"{row['parameters']:,}" for row in done})
    seconds = f"{statistics.mean(row['seconds'] for row in done):,.0f}"
    return [*start, "; ".join(sizes), *measured, seconds]


def rates(row: dict[str, Any]) -> str:
    """Return the rates: the method's own, where it has one, and AdamW's."""
    if row["method"] == PRETRAINED:
        return "-"
    grid = campaign.GRIDS[row["method"]]
    star = "*" if row["rate"] in (grid[0], grid[-1]) else ""
    own = f"{row['rate']:.3g}{star}"
    if row["method"] in campaign.OWN_RATE:
        return f"{own}, then {row['recovery']:.3g}"
    return own


def spread(values: list[float]) -> str:
    """Return the mean, and the standard deviation if there are several values."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean
