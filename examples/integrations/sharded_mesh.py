"""Over a mesh: data parallel, FSDP, tensor parallel. Only the shardings differ.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \
        python -m examples.integrations.sharded_mesh
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import rmda_jax as rj
from examples.integrations import _problem

RULES = _problem.RULES
WHOLE = {"kernel": P(), "bias": P()}
# How a batch lies on the mesh, and how the params do. A group of the rules is a row of
# a kernel: FSDP here leaves it in one piece, tensor parallel cuts those of ``hidden``.
LAYOUTS: dict[str, Any] = {
    "data parallel": (P("data"), {"hidden": WHOLE, "out": WHOLE}),
    "fsdp": (
        P("data"),
        {
            "hidden": {"kernel": P("data"), "bias": P("data")},
            "out": {"kernel": P("data"), "bias": P()},
        },
    ),
    "tensor parallel": (
        P(),
        {
            "hidden": {"kernel": P(None, "model"), "bias": P("model")},
            "out": {"kernel": P("model"), "bias": P()},
        },
    ),
}


def place(x: Any, mesh: Mesh, spec: P) -> jax.Array:
    """Return an array that every process has, laid out over the devices of all."""
    part = lambda index: np.asarray(x)[index]
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), part)


def train(
    layout: str,
    mesh: Mesh,
    rules: rj.RegularizerMap = RULES,
    predict: Any = _problem.predict,
) -> tuple[Any, Any]:
    """Return params and state, still where they lie."""
    batch, specs = LAYOUTS[layout]
    tx = _problem.optimizer(rules)
    params = jax.tree.map(lambda x, spec: place(x, mesh, spec), _problem.start(), specs)
    tree, step = (params, jax.jit(tx.init)(params)), _problem.step_of(tx, predict)
    for x, y in _problem.batches():
        tree = step(tree, place(x, mesh, batch), place(y, mesh, batch))
    return tree


if __name__ == "__main__":
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    for layout in LAYOUTS:
        structured = rj.structured_params(train(layout, mesh)[1], RULES)
        print(f"{layout}\n{RULES.report(structured)}")
