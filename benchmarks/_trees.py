"""Shapes of the params of published networks, by hand: no model has to be built."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Shapes = dict[str, Any]


def small() -> Shapes:
    """Return two convolutions, a dense layer and an embedding."""
    return {
        "conv3": _convolution(256, 256, 3),
        "conv1": _convolution(256, 1024, 1),
        "dense": _dense(768, 3072),
        "tokens": {"embedding": (1024, 768)},
    }


def resnet50(classes: int = 10) -> Shapes:
    """Return those of ResNet50 for CIFAR, whose first convolution is 3 x 3."""
    tree = {"stem": _convolution(3, 64, 3)}
    inputs = 64
    for stage, (width, depth) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
        for block in range(depth):
            layers = {
                "conv1": _convolution(inputs, width, 1),
                "conv2": _convolution(width, width, 3),
                "conv3": _convolution(width, 4 * width, 1),
            }
            if block == 0:
                layers["shortcut"] = _convolution(inputs, 4 * width, 1)
            for name, shapes in layers.items():
                tree[f"stage{stage}_block{block}_{name}"] = shapes
            inputs = 4 * width
    return {**tree, "head": _dense(inputs, classes)}


def gpt2(depth: int = 12, width: int = 768) -> Shapes:
    """Return those of GPT-2 small, whose output layer is its embedding."""
    norm = {"scale": (width,), "bias": (width,)}
    tree = {
        "tokens": {"embedding": (50257, width)},
        "positions": {"embedding": (1024, width)},
        "norm": norm,
    }
    for i in range(depth):
        tree[f"block{i}_norm1"] = norm
        tree[f"block{i}_qkv"] = _dense(width, 3 * width)
        tree[f"block{i}_out"] = _dense(width, width)
        tree[f"block{i}_norm2"] = norm
        tree[f"block{i}_up"] = _dense(width, 4 * width)
        tree[f"block{i}_down"] = _dense(4 * width, width)
    return tree


TREES = {"small": small, "resnet50": resnet50, "gpt2": gpt2}


def params(name: str, place: Callable[[tuple[int, ...]], Any]) -> Any:
    """Return the params of a tree as shapes of float32, placed by their shapes."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place(shape)),
        TREES[name](),
        is_leaf=lambda node: isinstance(node, tuple),
    )


def _dense(inputs: int, outputs: int) -> Shapes:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def _convolution(inputs: int, outputs: int, width: int) -> Shapes:
    """Return a convolution and the batch normalization after it."""
    kernel = (width, width, inputs, outputs)
    return {"kernel": kernel, "scale": (outputs,), "bias": (outputs,)}
