"""Try many random networks: `python -m tests.shrink.random_networks 0 3000`.

One line of JSON for each goes to a log. What the log has is not tried again, so that a
run which was stopped goes on. Outcomes: `ok`; `wrong`, the small network computes
something else; `raised`, an error; `stays`, a unit is left that could go.
"""

import argparse
import collections
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import conftest  # its settings, before JAX starts
from tests._x64 import float64
from tests.shrink._trial import Network, check_program, stays

FORGET_AFTER = 500  # networks, of whose compiled programs few are met again


def tried(seed: int) -> dict[str, Any]:
    """Return the outcome of one network."""
    start = time.process_time()
    network = Network.seeded(seed)
    record = {"seed": seed, "network": str(network.book), "outcome": "ok", "why": ""}
    try:
        plan = check_program(network, seed)
    except Exception as error:  # whatever it is, the others are tried, too
        is_wrong = isinstance(error, AssertionError)
        record["outcome"] = "wrong" if is_wrong else "raised"
        record["why"] = f"{type(error).__name__}: {error}"
    else:
        record["removed"] = sum(int(cut.removed.sum()) for cut in plan.cuts)
        record["can_go"] = sum(
            int(hidden.can_go(network.flat, plan.for_program).sum())
            for hidden in network.book.sets
        )
        if missed := stays(network, plan):
            record["outcome"], record["why"] = "stays", "; ".join(missed)
    return {**record, "seconds": round(time.process_time() - start, 2)}


def logged(log: Path) -> dict[int, dict[str, Any]]:
    """Return the records of a log, by seed."""
    lines = log.read_text().splitlines() if log.exists() else []
    return {record["seed"]: record for record in map(json.loads, lines)}


def parse(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=int, help="the first seed")
    parser.add_argument("count", type=int, help="how many seeds")
    parser.add_argument("--log", type=Path, default=Path("out/random_networks.jsonl"))
    return parser.parse_args(args)


def main() -> None:
    args = parse()
    seeds = range(args.first, args.first + args.count)
    args.log.parent.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", "all units are zero")
    missing = sorted(set(seeds) - logged(args.log).keys())
    with args.log.open("a") as log, float64():
        for n, seed in enumerate(missing, 1):
            print(json.dumps(tried(seed)), file=log, flush=True)
            if n % FORGET_AFTER == 0:
                conftest._forget_programs()
    records = [record for seed, record in logged(args.log).items() if seed in seeds]
    outcomes = collections.Counter(record["outcome"] for record in records)
    removed = sum(record.get("removed", 0) for record in records)
    seconds = sum(record["seconds"] for record in records)
    print(f"{len(records)} networks, {removed} units removed, {seconds:.0f} s")
    print(", ".join(f"{name} {n}" for name, n in outcomes.most_common()))
    for record in records:
        if record["outcome"] != "ok":
            print(json.dumps(record))


if __name__ == "__main__":
    main()
