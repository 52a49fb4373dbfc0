"""The network of the demo."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from examples._data import N_CLASSES


class LeNet(nnx.Module):
    """Two convolutions and two dense layers; on images of 28x28, LeNet-5's large form.

    Images as small as the digits take 3x3 windows for 5x5, and fewer units.

    Args:
      image_size: Height and width of the images.
      convolution: What the convolutions call: `jax.lax.conv_general_dilated`, or
        `matrix_convolution`, with the same result.
      rngs: For the initial params.
    """

    def __init__(
        self,
        image_size: int,
        *,
        convolution: Any = jax.lax.conv_general_dilated,
        rngs: nnx.Rngs,
    ):
        if image_size >= 16:
            window, padding, final_size = (5, 5), "VALID", (image_size - 12) // 4
            width1, width2, width3 = 20, 50, 500
        else:
            window, padding, final_size = (3, 3), "SAME", image_size // 4
            width1, width2, width3 = 10, 20, 100
        options = {
            "padding": padding,
            "conv_general_dilated": convolution,
            "rngs": rngs,
        }
        self.conv1 = nnx.Conv(1, width1, window, **options)
        self.conv2 = nnx.Conv(width1, width2, window, **options)
        self.dense1 = nnx.Linear(final_size**2 * width2, width3, rngs=rngs)
        self.dense2 = nnx.Linear(width3, N_CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of images (n, size, size, 1)."""
        x = nnx.relu(_max_pool(self.conv1(x)))
        x = nnx.relu(_max_pool(self.conv2(x)))
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        return self.dense2(x)


def matrix_convolution(
    images: jax.Array, kernel: jax.Array, strides: Any, padding: str, **_: Any
) -> jax.Array:
    """Convolve with stride 1, as one product of matrices.

    Of many networks under `jax.vmap` that is a batched product. XLA makes a grouped
    convolution of theirs, and on a CPU runs that, and any convolution in a scan, many
    times slower.

    Args:
      images: Shape (n, height, width, channels).
      kernel: Shape (rows, columns, channels, units), rows and columns odd.
      strides: Taken to be 1.
      padding: ``"SAME"`` or ``"VALID"``.

    Returns:
      Shape (n, height, width, units); VALID leaves fewer rows and columns.
    """
    del strides
    rows, columns, _, units = kernel.shape
    if padding == "SAME":
        margins = [(size // 2, size // 2) for size in (rows, columns)]
        images = jnp.pad(images, ((0, 0), *margins, (0, 0)))
    height, width = images.shape[1] - rows + 1, images.shape[2] - columns + 1
    windows = [
        images[:, i : i + height, j : j + width]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, units)


def _max_pool(x: jax.Array) -> jax.Array:
    # A reshape, because the gradient of a windowed reduction is slow on CPU.
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
