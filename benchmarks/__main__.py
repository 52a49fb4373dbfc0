"""Run all benchmarks in turn, or sum up what was saved.

python -m benchmarks all --checkout rmda RAMDA    # clones of the authors' code
python -m benchmarks report                       # writes out/benchmarks/RESULTS.md
python -m benchmarks readme                       # prints the table of the README
"""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import tyro

from benchmarks import report
from benchmarks._rows import RESULTS


@dataclasses.dataclass(frozen=True)
class Config:
    """Run all benchmarks, or sum up their results."""

    command: tyro.conf.Positional[Literal["all", "report", "readme"]]
    checkout: tuple[Path, ...] = ()
    """Clones of the authors' repositories, see benchmarks/authors.py."""
    patience: float = 300.0
    """Seconds that each script waits for idle cores."""
    results: Path = RESULTS
    """Folder of the rows: `all` writes them there, the others read them."""
    page: Path = report.PAGE
    """What `report` writes."""


def scripts(config: Config) -> Iterator[list[str]]:
    """Return the command lines of all scripts."""
    for network in ("resnet50", "vgg19", "lenet5"):
        yield ["step", "--network", network]
        if config.checkout:
            folders = map(str, config.checkout)
            yield ["authors", "--network", network, "--checkout", *folders]
    for name in ("metric", "nuclear", "masks", "compile", "scaling", "training"):
        yield [name]


def run_all(config: Config) -> None:
    """Run every script in a process of its own; go on if one fails."""
    failed = []
    for name, *args in scripts(config):
        line = [f"benchmarks.{name}", *args, "--patience", str(config.patience)]
        line += ["--json", str(config.results / f"{name}.jsonl")]
        print(f"\n$ python -m {' '.join(line)}", flush=True)
        if subprocess.run([sys.executable, "-m", *line], check=False).returncode:
            failed.append(" ".join([name, *args]))
    if failed:
        raise SystemExit(f"failed: {'; '.join(failed)}")


def main(args: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    config = tyro.cli(Config, args=args)
    match config.command:
        case "all":
            run_all(config)
        case "report":
            report.write(config.results, config.page)
        case "readme":
            print(report.readme(report.results(config.results)))


if __name__ == "__main__":
    main()
