"""Measure steps anew, and write what they launch and move into the table of limits.

python -m tests.aot.measure h100 small rmda "rmda, l1"    # without names, all steps
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro

from benchmarks import compiled
from tests.aot import _limits


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile steps, and write what they launch and move into the table of limits."""

    target: tyro.conf.Positional[Literal["h100", "v5e"]]
    tree: tyro.conf.Positional[Literal["small", "resnet50", "gpt2"]]
    steps: tyro.conf.Positional[tuple[str, ...]] = ()
    """All of them, if none is named."""


def main(args: Sequence[str] | None = None) -> None:
    """Compile the steps, and write a row as soon as it is there."""
    config = tyro.cli(Config, args=args)
    steps = config.steps or tuple(compiled.STEPS)
    for row in compiled.rows(config.target, config.tree, steps):
        _limits.replace([row])
        print(_limits.as_limit(row), flush=True)


if __name__ == "__main__":
    main()
