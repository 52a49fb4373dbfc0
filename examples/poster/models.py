"""The networks of the poster and of the RAMDA paper, in Flax NNX.

Layers, sizes and the distributions of the initial weights are those of the authors'
PyTorch models. PyTorch's default draws weights and biases from U(-b, b) with b =
1/sqrt(fan in); NNX's default has three times that variance, and biases of zero.

Transplanted from PyTorch models of the same architecture (2.13.0, CPU, 16 random
images), the weights give the same logits. The largest difference, and the largest
logit, with running statistics and with those of the batch:

============  ================  ================
Network       evaluation        training
============  ================  ================
lenet5        1.5e-7 of 0.22    (no statistics)
lenet5_small  4.5e-8 of 0.19    (no statistics)
vgg19         2.4e-7 of 0.32    1.4e-5 of 2.5
resnet50      5.4e-7 of 0.87    6.2e-6 of 2.5
============  ================  ================

The test `test_poster_parity.py` repeats this where PyTorch is installed.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

uniform_fan_in = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
he_normal_fan_out = nnx.initializers.variance_scaling(2, "fan_out", "normal")


def uniform(bound: float) -> nnx.Initializer:
    """Return the initializer of U(-bound, bound)."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def dense(n_in: int, n_out: int, **options: Any) -> nnx.Linear:
    """Return a dense layer as PyTorch initializes it."""
    bias_init = uniform(1 / math.sqrt(n_in))
    return nnx.Linear(
        n_in, n_out, kernel_init=uniform_fan_in, bias_init=bias_init, **options
    )


def conv5(n_in: int, n_out: int, padding: int = 0, **options: Any) -> nnx.Conv:
    """Return a 5x5 convolution as PyTorch initializes it.

    Measured on two CPU cores, a step of the large LeNet-5 takes 31 ms with it; with
    patches and a matrix product in its place 45 ms, with a sum of 25 products 104 ms.
    """
    return nnx.Conv(
        n_in,
        n_out,
        (5, 5),
        padding=padding,
        kernel_init=uniform_fan_in,
        bias_init=uniform(1 / math.sqrt(25 * n_in)),
        **options,
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Halve height and width.

    A reshape, because the gradient of a windowed reduction is slow on CPU.
    """
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


class Logistic(nnx.Module):
    """Multinomial logistic regression, from the origin as in the RAMDA paper."""

    def __init__(self, n_classes: int = 10, **options: Any):
        self.head = nnx.Linear(
            784, n_classes, kernel_init=nnx.initializers.zeros, **options
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(x.reshape(x.shape[0], -1))


class MLP(nnx.Module):
    """Seven dense layers, as in the RAMDA code (its paper says six)."""

    sizes = (784, 512, 256, 128, 64, 32, 16)

    def __init__(self, n_classes: int = 10, **options: Any):
        sizes = (*self.sizes, n_classes)
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            setattr(self, f"dense{i}", dense(n_in, n_out, **options))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        for i in range(len(self.sizes) - 1):
            x = nnx.relu(getattr(self, f"dense{i}")(x))
        return getattr(self, f"dense{len(self.sizes) - 1}")(x)


class LeNet5(nnx.Module):
    """The large LeNet-5: 20, 50, 500 and 10 units, 431,080 parameters."""

    def __init__(self, n_classes: int = 10, **options: Any):
        self.conv1 = conv5(1, 20, **options)
        self.conv2 = conv5(20, 50, **options)
        self.dense1 = dense(800, 500, **options)
        self.dense2 = dense(500, n_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(max_pool(self.conv1(x)))
        x = nnx.relu(max_pool(self.conv2(x)))
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        return self.dense2(x)


class SmallLeNet5(nnx.Module):
    """The small LeNet-5: 6, 16, 120, 84 and 10 units, 61,706 parameters."""

    def __init__(self, n_classes: int = 10, **options: Any):
        self.conv1 = conv5(1, 6, padding=2, **options)
        self.conv2 = conv5(6, 16, **options)
        self.dense1 = dense(400, 120, **options)
        self.dense2 = dense(120, 84, **options)
        self.dense3 = dense(84, n_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(max_pool(self.conv1(x)))
        x = nnx.relu(max_pool(self.conv2(x)))
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        return self.dense3(nnx.relu(self.dense2(x)))


class ConvNorm(nnx.Module):
    """A convolution, and batch normalization with the constants of PyTorch."""

    def __init__(
        self, n_in: int, n_out: int, window: int, *, rngs: nnx.Rngs, **options
    ):
        dtype = options.pop("dtype", None)
        padding = window // 2  # on both sides: "SAME" differs where the stride is 2
        self.conv = nnx.Conv(
            n_in,
            n_out,
            (window, window),
            padding=padding,
            dtype=dtype,
            rngs=rngs,
            **options,
        )
        # PyTorch's momentum of 0.1 is NNX's 0.9. PyTorch keeps the unbiased variance of
        # a batch, NNX the biased one: 0.2% apart in the smallest layers.
        self.norm = nnx.BatchNorm(
            n_out, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class VGG19(nnx.Module):
    """VGG19 with batch normalization and one dense layer, 20,040,522 parameters."""

    stages = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, layers

    def __init__(self, n_classes: int = 10, **options: Any):
        widths = [width for width, n_layers in self.stages for _ in range(n_layers)]
        for i, (n_in, n_out) in enumerate(zip([3, *widths], widths, strict=False)):
            layer = ConvNorm(n_in, n_out, 3, kernel_init=he_normal_fan_out, **options)
            setattr(self, f"layer{i}", layer)
        small = nnx.initializers.normal(0.01)
        self.head = nnx.Linear(widths[-1], n_classes, kernel_init=small, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        i = 0
        for _, n_layers in self.stages:
            for _ in range(n_layers):
                x = nnx.relu(getattr(self, f"layer{i}")(x))
                i += 1
            x = max_pool(x)
        return self.head(x.reshape(x.shape[0], -1))


class Bottleneck(nnx.Module):
    """A residual block of three convolutions; the middle one has the stride."""

    def __init__(self, n_in: int, width: int, stride: int, **options: Any):
        layer = functools.partial(
            ConvNorm, use_bias=False, kernel_init=uniform_fan_in, **options
        )
        self.reduce = layer(n_in, width, 1)
        self.conv = layer(width, width, 3, strides=stride)
        self.expand = layer(width, 4 * width, 1)
        if stride != 1 or n_in != 4 * width:
            self.shortcut = layer(n_in, 4 * width, 1, strides=stride)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = self.shortcut(x) if hasattr(self, "shortcut") else x
        x = nnx.relu(self.conv(nnx.relu(self.reduce(x))))
        return nnx.relu(self.expand(x) + shortcut)


class ResNet50(nnx.Module):
    """ResNet-50 for 32x32 images: no pooling at the entry, 23,520,842 parameters."""

    stages = (
        (64, 3, 1),
        (128, 4, 2),
        (256, 6, 2),
        (512, 3, 2),
    )  # width, blocks, stride

    def __init__(self, n_classes: int = 10, **options: Any):
        self.stem = ConvNorm(
            3, 64, 3, use_bias=False, kernel_init=uniform_fan_in, **options
        )
        n_in, i = 64, 0
        for width, n_blocks, stride in self.stages:
            for j in range(n_blocks):
                block = Bottleneck(n_in, width, stride if j == 0 else 1, **options)
                setattr(self, f"block{i}", block)
                n_in, i = 4 * width, i + 1
        self.n_blocks = i
        self.head = dense(n_in, n_classes, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        for i in range(self.n_blocks):
            x = getattr(self, f"block{i}")(x)
        return self.head(x.mean(axis=(1, 2)))


NETWORKS = {
    "logistic": Logistic,
    "mlp": MLP,
    "lenet5": LeNet5,
    "lenet5_small": SmallLeNet5,
    "vgg19": VGG19,
    "resnet50": ResNet50,
}
