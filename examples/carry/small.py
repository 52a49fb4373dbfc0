"""What is carried: a small function, its params and inputs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import export


@dataclasses.dataclass(frozen=True)
class Small:
    """A model that was made smaller, and the sizes of inputs that it is to take."""

    title: str
    fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    widths: dict[str, tuple[int, ...]]  # by the names of the leaves, in their order
    inputs: jax.Array
    sizes: str  # of the inputs, with letters for any size: "b, 28, 28, 1"
    onnx_sizes: str  # the same, as far as jax2onnx follows letters

    def symbolic_inputs(self, sizes: str) -> jax.ShapeDtypeStruct:
        """Return inputs of some sizes, as shapes."""
        return jax.ShapeDtypeStruct(export.symbolic_shape(sizes), self.inputs.dtype)
