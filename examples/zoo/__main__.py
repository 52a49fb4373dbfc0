"""Shrink models that others wrote, and print what becomes of them as a table."""

import dataclasses
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

from examples.zoo.entries import ENTRIES, Entry
from examples.zoo.measure import measured

Name = Literal[tuple(ENTRIES)]  # pyright: ignore[reportInvalidTypeForm]
RESULTS = Path("out/zoo.jsonl")
KEPT = Path(__file__).with_name("results.jsonl")  # those that the page shows
# What is no hidden unit: it cannot go from any model.
OUTSIDE = {
    "an input",
    "an output",
    "the window of a convolution",
    "the space of a convolution",
}
COLUMNS = (
    "model",
    "framework",
    "package",
    "units",
    "zero",
    "go by itself",
    "go by `program`",
    "parameters",
    "difference",
    "stay, and why",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Shrink models that others wrote, and print what becomes of them as a table."""

    models: tuple[Name, ...] = tuple(ENTRIES)  # pyright: ignore[reportInvalidTypeForm]
    """Which to run; of none, the table of earlier runs is printed."""
    results: Path = RESULTS
    """Where the rows for machines are; those of models that are not run stay."""


def made(entry: Entry) -> dict[str, Any]:
    """Make a model and measure it; or say why it cannot be made."""
    found = {
        "title": entry.title,
        "framework": entry.framework,
        "package": entry.package,
        "version": _version(entry.package),
        "environment": {"jax": jax.__version__, "device": jax.devices()[0].device_kind},
    }
    if not found["version"]:
        return found | {"missing": "not installed"}
    try:
        model = entry.make()
        _ = jax.eval_shape(model.fn, model.params, *model.inputs)
    except Exception as error:  # of packages that do not work with this JAX
        return found | {"missing": f"{type(error).__name__}: {error}"[:100]}
    return found | measured(model)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def row(found: dict[str, Any]) -> str:
    """Return a row of the table."""
    cells = [found["title"], found["framework"]]
    cells.append(f"{found['package']} {found['version']}".strip())
    if "missing" in found:
        cells += ["-"] * 6 + [found["missing"]]
        return f"| {' | '.join(cells)} |"
    itself, program = found["itself"], found["program"]
    cells += [str(found["free"]), str(found["zeros"]), _gone(itself), _gone(program)]
    if "error" in program:
        return f"| {' | '.join([*cells, '-', '-', program['error']])} |"
    stay = [f"{n}: {why}" for why, n in program["stay"].items()]
    stay += [
        f"{n} frozen: {why}"
        for why, n in program["frozen"].items()
        if not OUTSIDE & set(why.split(", "))
    ]
    cells += [
        f"{found['parameters']:,} → {program['parameters']:,}",
        f"{program['difference']:.0e} of {program['scale']:.2g}",
        "; ".join(stay) or "-",
    ]
    return f"| {' | '.join(cells)} |"


def _gone(found: dict[str, Any]) -> str:
    """Return how many units are removed, or that nothing runs."""
    return "refuses" if "error" in found else str(found["removed"])


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the table of what `made` returned."""
    head = (f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}")
    return "\n".join([*head, *map(row, rows)])


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    config = tyro.cli(Config, args=args)
    rows: dict[str, Any] = {}
    if config.results.exists():
        lines = map(json.loads, config.results.read_text("utf-8").splitlines())
        rows = {found["model"]: found for found in lines}
    config.results.parent.mkdir(parents=True, exist_ok=True)
    for name in config.models:
        rows[name] = {"model": name, **made(ENTRIES[name])}
        print(f"{name}: {rows[name].get('seconds', 0)} seconds", file=sys.stderr)
        # After each, for they take minutes together.
        found = [json.dumps(rows[x]) for x in ENTRIES if x in rows]
        _ = config.results.write_text("\n".join(found) + "\n", "utf-8")
    print(table(rows[name] for name in ENTRIES if name in rows))


if __name__ == "__main__":
    main()
