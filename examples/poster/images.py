"""What is done to a batch of images, on the device and inside the compiled step.

Images stay bytes in memory until then: a data set takes a quarter of the room.
"""

import jax
import jax.numpy as jnp
import numpy as np

from examples.poster.data import Spec

PADDING = 4  # of the random crop


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Crop each image at random from itself with a black margin; flip every second."""
    n, height, width, channels = images.shape
    crop_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(crop_key, (n, 2), 0, 2 * PADDING + 1)
    flips = jax.random.bernoulli(flip_key, shape=(n,))
    margin = (PADDING, PADDING)
    padded = jnp.pad(images, ((0, 0), margin, margin, (0, 0)))

    def one(image: jax.Array, corner: jax.Array, flip: jax.Array) -> jax.Array:
        crop = jax.lax.dynamic_slice(image, (*corner, 0), (height, width, channels))
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, corners, flips)


def normalize(images: jax.Array, spec: Spec) -> jax.Array:
    """Return the images as numbers of mean 0 and deviation 1, channel by channel."""
    mean, deviation = np.float32(spec.mean), np.float32(spec.deviation)
    return (images.astype(jnp.float32) / 255 - mean) / deviation
