"""How far what was carried is from what JAX computes, and how long it takes."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

import rmda_jax as rj
from examples.carry import onnx_file, stablehlo
from examples.carry.small import Small

STABLEHLO, ONNX = "StableHLO, a new process", "ONNX, onnxruntime"
HEAD = (
    "| model | carried as | bytes | largest difference | seconds | those of JAX |\n"
    "|---|---|---|---|---|---|"
)


@dataclasses.dataclass(frozen=True)
class Carried:
    """What became of a model that was written, and read without its source."""

    title: str
    route: str
    bytes: int
    difference: float
    scale: float  # the largest absolute value of an output
    seconds: float  # of a call
    in_jax: float  # of one of the original function, by turns with it

    def __str__(self) -> str:
        cells = (
            self.title,
            self.route,
            f"{self.bytes:,}",
            f"{self.difference:.0e} of {self.scale:.2g}",
            f"{self.seconds:.2g}",
            f"{self.in_jax:.2g}",
        )
        return f"| {' | '.join(cells)} |"


def carried(
    small: Small,
    folder: Path,
    repeats: int,
    others: Mapping[str, tuple[Any, int]] = MappingProxyType({}),
) -> list[Carried]:
    """Write a model, and compare what reads it with the model in JAX.

    The outputs are compared for the inputs, and for twice as large a batch; the first
    is timed.

    Args:
      small: The model.
      folder: Where its files are put.
      repeats: How often each is timed.
      others: Further routes by their names: a function of the inputs, and the bytes of
        its files.

    Raises:
      ValueError: outputs have another shape.
      subprocess.CalledProcessError: the new process failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stablehlo.write(folder, small)
    onnx_file.write(folder, small)
    files = (folder / stablehlo.FUNCTION, folder / stablehlo.PARAMS)
    routes = {
        STABLEHLO: (stablehlo.read(folder), size(files)),
        ONNX: (onnx_file.read(folder), size(folder.glob(f"{onnx_file.FILE}*"))),
        **others,
    }
    function, x = jax.jit(small.fn), small.inputs
    batches = [np.asarray(x), np.concatenate([x, x])]
    expected = [np.asarray(function(small.params, batch)) for batch in batches]
    found = {
        name: [np.asarray(call(batch)) for batch in batches]
        for name, (call, _) in routes.items()
    }
    found[STABLEHLO] = stablehlo.outputs_elsewhere(folder, batches)
    calls = [lambda: function(small.params, x)]
    calls += [lambda call=call: call(x) for call, _ in routes.values()]
    in_jax, *seconds = np.median(rj.shrink.by_turns(repeats)(calls), axis=1)
    return [
        Carried(
            small.title,
            name,
            n_bytes,
            max(map(largest_difference, found[name], expected)),
            float(np.abs(expected[0]).max()),
            float(time),
            float(in_jax),
        )
        for (name, (_, n_bytes)), time in zip(routes.items(), seconds, strict=True)
    ]


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Return how far two arrays of one shape are apart."""
    if a.shape != b.shape:
        raise ValueError(f"outputs must have the shape {b.shape}, got {a.shape}.")
    return float(np.abs(a - b).max())


def size(paths: Iterable[Path]) -> int:
    """Return the bytes of some files."""
    return sum(path.stat().st_size for path in paths)
