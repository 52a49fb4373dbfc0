"""Several processes, a device each: the script is the same, and so are the bits.

for i in 0 1; do
    python -m examples.integrations.processes $i 2 localhost:12345 /tmp/params.npz &
done
"""

import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType

from examples.integrations import sharded_mesh


def main(process: int, n_processes: int, address: str, path: str) -> None:
    """Train as one of several processes; the first saves the params."""
    # Without it, CPUs of several processes do not talk to each other.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, n_processes, process)
    mesh = jax.make_mesh((n_processes,), ("data",), axis_types=(AxisType.Auto,))
    params, _ = sharded_mesh.train("fsdp", mesh)
    params = multihost_utils.process_allgather(params, tiled=True)
    if process == 0:
        np.savez(path, *jax.tree.leaves(params))
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
