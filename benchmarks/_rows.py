"""What the scripts have in common: options, rows of results, files and tables.

A row says what was measured on which problem, and on what machine. It has no date and
no path, so that a file changes only if a result does.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax

from benchmarks._timing import Referee, Row, n_cpus

RESULTS = Path("out/benchmarks")
KEPT = Path(__file__).parent / "results"  # those that RESULTS.md shows
DIGITS = 4  # significant ones, in files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What all scripts can be told."""

    rounds: int = 15
    """Rounds of every race."""
    patience: float = 300.0
    """Seconds to wait for idle cores, altogether."""
    json: Path | None = None
    """Where to save the results as JSON lines; by default under out/benchmarks."""

    def referee(self) -> Referee:
        """Return the referee of the races."""
        return Referee(self.rounds, self.patience)


def publish(
    name: str, rows: Iterable[Row], columns: Mapping[str, str], path: Path | None
) -> None:
    """Save every row as soon as it is there, and print a table of them in the end.

    Rows of other problems and other machines stay in the file.

    Args:
      name: Of the script.
      rows: Its results; each has ``what`` was measured, on which ``problem``.
      columns: The format of each column that is printed.
      path: Of the file, if not the usual one.
    """
    path = path or RESULTS / f"{name}.jsonl"
    machine = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "cpus": n_cpus(),
    }
    before, new = read(path), []
    for row in rows:
        new.append({"benchmark": name, **row, **machine})
        replaced = {_place(line) for line in new}
        write(path, [line for line in before if _place(line) not in replaced] + new)
    print(table(new, columns))
    if any(row.get("idle") is False for row in new):
        print("\nThe cores were busy: do not trust these times, nor their ratios.")


def read(path: Path) -> list[Row]:
    """Return the rows of a file, none if it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows of a file, in the place of what it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({k: _rounded(v) for k, v in row.items()}) for row in rows]
    _ = path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Return a Markdown table that can also be read as it is.

    Args:
      rows: Its lines.
      columns: Their keys, with the format of each; those that no row has are left out.
    """
    columns = {k: f for k, f in columns.items() if any(k in row for row in rows)}
    cells = [[_heading(key) for key in columns]]
    cells += [[_cell(row.get(k), f) for k, f in columns.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [format_ != "" for format_ in columns.values()]
    ruler = [
        "-" * (w - 1) + ":" if n else "-" * w
        for w, n in zip(widths, numeric, strict=True)
    ]
    lines = [
        [
            c.rjust(w) if n else c.ljust(w)
            for c, w, n in zip(line, widths, numeric, strict=True)
        ]
        for line in (cells[0], ruler, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place(row: Row) -> tuple[object, ...]:
    return row["problem"], row["backend"], row["device"], row["cpus"]


def _heading(key: str) -> str:
    short = key.replace("bytes_per_parameter", "B/param").replace("milliseconds", "ms")
    return short.replace("_", " ")


def _cell(value: object, format_: str) -> str:
    return "-" if value is None else format(value, format_)


def _rounded(value: object) -> object:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
