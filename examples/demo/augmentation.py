"""Random changes of the images, anew at every step: the noise never dies.

With them the loss is a mean over infinitely many images, an "infinite sum". The
gradient of a batch is noisy even where all weights fit all training images.
"""

import jax
import jax.numpy as jnp

MOST_SHIFT = 1  # pixels
NOISE = 0.3  # standard deviation, where that of the standardized pixels is 1


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shift each image by up to a pixel along each axis, and add noise to its pixels.

    Args:
      key: Of the shifts, each with the same probability, and of the Gaussian noise.
      images: Standardized, shape (n, height, width, 1). What a shift uncovers gets the
        least value there is, that of the black background.

    Returns:
      Images of the same shape and dtype.
    """
    shift_key, noise_key = jax.random.split(key)
    corners = jax.random.randint(shift_key, (len(images), 2), 0, 2 * MOST_SHIFT + 1)
    margin = (MOST_SHIFT, MOST_SHIFT)
    margins = ((0, 0), margin, margin, (0, 0))
    padded = jnp.pad(images, margins, constant_values=images.min())
    crop = lambda image, corner: jax.lax.dynamic_slice(
        image, (*corner, 0), images.shape[1:]
    )
    noise = jax.random.normal(noise_key, images.shape, images.dtype)
    return jax.vmap(crop)(padded, corners) + NOISE * noise
