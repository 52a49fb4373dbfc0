"""Measure steps anew, and write what they launch and move into the table of limits.

python -m tests.aot.measure h100 small rmda "rmda, l1"    # without names, all steps
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro

from benchmarks import compiled, proxes
from tests.aot import _limits


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile steps, and write what they launch and move into the table of limits."""

    target: tyro.conf.Positional[Literal["h100", "v5e"]]
    tree: tyro.conf.Positional[Literal["small", "resnet50", "gpt2", "prox"]]
    """With "prox", no steps of a tree but the proxes of benchmarks/proxes.py."""
    steps: tyro.conf.Positional[tuple[str, ...]] = ()
    """All of them, if none is named."""
    devices: int = 1
    """How many devices share the params of a step."""


def main(args: Sequence[str] | None = None) -> None:
    """Compile the steps, and write a row as soon as it is there."""
    config = tyro.cli(Config, args=args)
    if config.tree == "prox":
        rows = proxes.rows(config.target, config.steps or proxes.NAMES)
    else:
        steps = config.steps or tuple(compiled.STEPS)
        rows = compiled.rows(config.target, config.tree, steps, config.devices)
    for row in rows:
        _limits.replace([row])
        print(_limits.as_limit(row), flush=True)


if __name__ == "__main__":
    main()
