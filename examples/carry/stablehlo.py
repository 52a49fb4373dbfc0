"""A function in a file of StableHLO, its params in another, read by a new process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

import rmda_jax as rj
from examples.carry.small import Small

FUNCTION, PARAMS = "small.stablehlo", "small.safetensors"
READER = Path(__file__).with_name("reader.py")


def write(folder: Path, small: Small) -> None:
    """Write the function of params by their names, and the params."""
    names, treedef = list(small.widths), jax.tree.structure(small.params)

    def by_name(arrays: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return small.fn(treedef.unflatten([arrays[name] for name in names]), x)

    arrays = dict(zip(names, jax.tree.leaves(small.params), strict=True))
    inputs = small.symbolic_inputs(small.sizes)
    exported = export.export(jax.jit(by_name))(arrays, inputs)
    _ = (folder / FUNCTION).write_bytes(exported.serialize())
    rj.shrink.save(folder / PARAMS, small.params)


def read(folder: Path) -> Any:
    """Return the function of the inputs that the two files hold."""
    from safetensors.numpy import load_file

    exported = export.deserialize(bytearray((folder / FUNCTION).read_bytes()))
    params = jax.tree.map(jax.numpy.asarray, load_file(folder / PARAMS))
    call = jax.jit(exported.call)
    return lambda x: call(params, x)


def outputs_elsewhere(folder: Path, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a new process that has the files and JAX alone.

    Args:
      folder: Where `write` wrote.
      inputs: Of one call each, and of any batch size.

    Raises:
      subprocess.CalledProcessError: that process failed; its text is on stderr.
    """
    for i, x in enumerate(inputs):
        np.save(folder / f"inputs{i}.npy", x)
    # -I: the process finds nothing in this folder, nor by PYTHONPATH.
    line = [sys.executable, "-I", str(READER), str(folder), str(len(inputs))]
    _ = subprocess.run(line, check=True)
    return [np.load(folder / f"outputs{i}.npy") for i in range(len(inputs))]
