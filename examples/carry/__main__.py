"""Carry small models to other programs; print how far off and how fast they are."""

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from examples.carry.cases import CASES
from examples.carry.table import HEAD, carried

Model = Literal[tuple(CASES)]  # pyright: ignore[reportInvalidTypeForm]
NEEDED = ("safetensors", "flatbuffers", "jax2onnx", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class Config:
    """Carry small models to other programs; print how far off and how fast they are."""

    models: tuple[Model, ...] = tuple(CASES)
    """Which to carry."""
    repeats: int = 30
    """How often each is timed."""
    out: Path = Path("out/carry")
    """Where the files are put."""


def check_installed(needed: Sequence[str], command: str) -> None:
    """Exit with the command that installs a package which is missing."""
    for name in needed:
        try:
            _ = importlib.import_module(name)
        except ImportError:
            sys.exit(f"Error: the package {name} is not installed. Run: {command}.")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    config = tyro.cli(Config, args=args)
    check_installed(NEEDED, 'pip install ".[cpu,examples,export]"')
    rows = []
    for name in config.models:
        rows += carried(CASES[name](), config.out / name, config.repeats)
    print("\n".join([HEAD, *map(str, rows)]))


if __name__ == "__main__":
    main()
