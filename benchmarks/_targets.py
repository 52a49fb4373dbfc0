"""Accelerators to compile for that are not there: XLA's compilers need no device.

They come with JAX's plugins, from the package registry: the extras `aot-cuda` and
`aot-tpu`. JAX itself stays on the CPU, so that no plugin looks for its device.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P, SingleDeviceSharding

# What XLA asks about a GPU, from NVIDIA's data sheet of the H100 SXM.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# What libtpu would else ask the machine, and the network, about the TPU it runs on. It
# also admits one process at a time, by a lock that outlives one that was killed.
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
}


class Target(NamedTuple):
    """An accelerator, and what compiles for it."""

    device: str
    plugin: str  # the module that has the compiler
    remedy: str  # what installs it
    bandwidth: float  # bytes a second, of its data sheet


TARGETS = {
    "h100": Target(
        "NVIDIA H100", "jax_plugins.xla_cuda12", 'pip install ".[aot-cuda]"', 3.35e12
    ),
    "v5e": Target("TPU v5e", "libtpu", 'pip install ".[aot-tpu]"', 819e9),
}


def missing(name: str) -> str:
    """Return what has to be installed to compile for a target; "" if nothing has to."""
    target = TARGETS[name]
    try:
        found = importlib.util.find_spec(target.plugin)
    except ModuleNotFoundError:  # of the package that it is in
        found = None
    if found is not None:
        return ""
    return f"the compiler for {target.device} is not installed: {target.remedy}"


def placed_on(name: str) -> SingleDeviceSharding:
    """Return the placement of arrays on one device of a target.

    Raises:
      SystemExit: its compiler is not installed.
    """
    return SingleDeviceSharding(_devices(name, 1)[0])


def shared_by(name: str, n_devices: int) -> Callable[[tuple[int, ...]], NamedSharding]:
    """Return how so many devices of a target share an array, from its shape.

    Each holds a part of the last axis of a matrix or kernel, and all of a vector.

    Raises:
      SystemExit: its compiler is not installed.
    """
    mesh = Mesh(np.array(_devices(name, n_devices)), ("x",))

    def place(shape: tuple[int, ...]) -> NamedSharding:
        shared = len(shape) > 1 and shape[-1] % n_devices == 0
        return NamedSharding(
            mesh, P(*[None] * (len(shape) - 1), "x") if shared else P()
        )

    return place


def _devices(name: str, n_devices: int) -> list[Any]:
    if missing(name):
        raise SystemExit(missing(name))
    jax.config.update("jax_platforms", "cpu")
    if name == "h100":
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=_H100, topology=f"1x1x{n_devices}"
        )
    else:
        os.environ |= _NO_TPU_HERE
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{name}:2x{2 if n_devices <= 4 else 4}"
        )
    return list(topology.devices[:n_devices])
