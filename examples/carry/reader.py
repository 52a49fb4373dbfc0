"""Run a function of StableHLO: a program of its own, which needs JAX and safetensors.

python reader.py FOLDER 2    # reads inputs0.npy and inputs1.npy, writes the outputs
"""

import sys
from pathlib import Path

import numpy as np
from jax import export
from safetensors.numpy import load_file

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    function = export.deserialize(bytearray((folder / "small.stablehlo").read_bytes()))
    params = load_file(folder / "small.safetensors")
    for i in range(int(sys.argv[2])):
        outputs = function.call(params, np.load(folder / f"inputs{i}.npy"))
        np.save(folder / f"outputs{i}.npy", outputs)
    absent = {"rmda_jax", "flax", "optax"} & sys.modules.keys()
    if absent:
        sys.exit(f"Error: only JAX should be needed, got {sorted(absent)}, too.")
