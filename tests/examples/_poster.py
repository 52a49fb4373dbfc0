"""A data set and a network that are small enough to train within a test."""

import dataclasses

import numpy as np
from flax import nnx

from examples.poster import data, models

N_TRAIN, N_TEST = 40, 16
SIZE = 8


class TinyNet(nnx.Module):
    """What VGG19 is made of, once: convolution, normalization, pooling, dense layer."""

    def __init__(self, n_classes: int = 10, **options):
        self.layer = models.ConvNorm(
            3, 4, 3, kernel_init=models.uniform_fan_in, **options
        )
        self.head = models.dense(4 * (SIZE // 2) ** 2, n_classes, **options)

    def __call__(self, x):
        x = models.max_pool(nnx.relu(self.layer(x)))
        return self.head(x.reshape(len(x), -1))


def tiny_data(n_train: int = N_TRAIN, n_test: int = N_TEST) -> data.Dataset:
    """Return random images; the brighter half of them has another label."""
    rng = np.random.default_rng(0)

    def split(n: int) -> data.Split:
        labels = rng.integers(0, 2, n, np.int32)
        images = rng.integers(0, 128, (n, SIZE, SIZE, 3), np.uint8)
        return data.Split(
            images + 127 * labels[:, None, None, None].astype(np.uint8), labels
        )

    spec = dataclasses.replace(
        data.SPECS["cifar10"], shape=(SIZE, SIZE, 3), counts=(n_train, n_test)
    )
    return data.Dataset(spec, split(n_train), split(n_test))
