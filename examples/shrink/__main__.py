"""Shrink models, and print what becomes of them as a table in Markdown."""

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

import rmda_jax as rj
from examples._data import DataError
from examples.shrink.cases import CASES, Case, Options, factored

Model = Literal[tuple(CASES)]  # pyright: ignore[reportInvalidTypeForm]
RESULTS = Path("out/shrink.jsonl")
KEPT = Path(__file__).with_name("results.jsonl")  # those that the README shows
FASTEST = "latency, fastest multiple"
COLUMNS = (
    "model",
    "zeros",
    "test, before and after",
    "units",
    "units that cannot go",
    "parameters",
    "FLOPs",
    "latency",
    FASTEST,
    "largest difference",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Shrink models, and print what becomes of them as a table in Markdown."""

    models: tuple[Model, ...] = tuple(CASES)
    """Which to run; of none, the table of earlier runs is printed."""
    options: Annotated[Options, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=Options
    )
    repeats: int = 30
    """How often each model is timed."""
    cpu_time: bool = False
    """Count the seconds of all threads, in place of a clock's: on shared machines."""
    results: Path = RESULTS
    """Where the rows for machines are; those of models that are not run stay."""


def shrunk(case: Case, timer: Any) -> dict[str, Any]:
    """Make a model smaller; return what it was and what it became."""
    fn, params, x = case.fn, case.params, case.inputs
    plan = rj.shrink.plan(fn, params, x)
    small = factored(params) if case.low_rank else rj.shrink.apply(plan, params)
    checked = None if case.low_rank else plan
    report = rj.shrink.report(fn, params, small, x, plan=checked, timer=timer)
    free = [] if case.low_rank else [c for c in plan.cuts if not c.units.frozen]
    # Neither inputs nor outputs, but hidden: a residual stream that is normalized.
    frozen = [c for c in plan.cuts if c.units.frozen and _is_hidden(c.units)]
    fast = [] if case.low_rank else _fastest(case, timer)
    return {
        "title": case.title,
        "zeros": case.zeros,
        "scores": [case.score(fn, p) for p in (params, small)] if case.score else [],
        "units": [sum(c.units.size for c in free), sum(c.left for c in free)],
        "parameters": _pair(report.parameters),
        "flops": _pair(report.flops),
        "seconds": _pair(report.seconds),
        "fastest": fast,
        "bytes": _pair(report.disk_bytes),
        "difference": report.difference.max_abs,
        "scale": report.difference.scale,
        "frozen": [[c.units.size, *sorted(c.units.frozen)] for c in frozen],
        "environment": {"jax": jax.__version__, "device": jax.devices()[0].device_kind},
    }


def _fastest(case: Case, timer: Any) -> list[Any]:
    """Return the multiple that is fastest, and its latency as a share of the whole."""
    found = rj.shrink.fastest(case.fn, case.params, case.inputs, timer=timer)
    (trial,) = (x for x in found.trials if x.plan is found.plan)
    return [found.multiple_of, trial.latency]


def _is_hidden(units: rj.shrink.UnitGroup) -> bool:
    roles = {role for member in units.members for role in member.roles}
    return {"produces", "consumes"} <= roles


def _pair(change: rj.shrink.BeforeAfter) -> list[float]:
    return [change.before, change.after]


def row(found: dict[str, Any], *, fastest: bool = True) -> str:
    """Return a row of the table; rows of earlier runs have no fastest multiple."""
    ratio = lambda name: f"{found[name][1] / found[name][0]:.2f}"
    before, after = found["units"]
    multiple, latency = found.get("fastest") or (None, 0)
    of_fastest = f"{latency:.2f}, of {multiple}" if multiple else "-"
    cells = (
        found["title"],
        found["zeros"],
        " = ".join(dict.fromkeys(found["scores"])) or "-",
        f"{before:,} → {after:,}" if before else "-",
        "; ".join(f"{n}: {', '.join(why)}" for n, *why in found["frozen"]) or "-",
        "{:,.0f} → {:,.0f}".format(*found["parameters"]),
        ratio("flops"),
        ratio("seconds"),
        *([of_fastest] if fastest else []),
        f"{found['difference']:.0e} of {found['scale']:.2g}",
    )
    return f"| {' | '.join(cells)} |"


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return the table of what `shrunk` returned."""
    rows = list(rows)
    fastest = any(found.get("fastest") for found in rows)
    columns = [x for x in COLUMNS if fastest or x != FASTEST]
    head = (f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}")
    return "\n".join([*head, *(row(found, fastest=fastest) for found in rows)])


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    config = tyro.cli(Config, args=args)
    rows = {}
    if config.results.exists():
        lines = map(json.loads, config.results.read_text().splitlines())
        rows = {found["model"]: found for found in lines}
    for name in config.models:
        start = time.perf_counter()
        clock = time.process_time if config.cpu_time else time.perf_counter
        timer = rj.shrink.by_turns(config.repeats, clock)
        try:
            case = CASES[name](config.options)
        except (DataError, OSError) as error:
            sys.exit(f"Error: {error}")
        rows[name] = {"model": name, **shrunk(case, timer)}
        print(f"{name}: {time.perf_counter() - start:.0f} seconds", file=sys.stderr)
    rows = [rows[name] for name in CASES if name in rows]
    config.results.parent.mkdir(parents=True, exist_ok=True)
    _ = config.results.write_text("".join(f"{json.dumps(found)}\n" for found in rows))
    print(table(rows))


if __name__ == "__main__":
    main()
