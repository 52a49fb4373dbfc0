"""What is stepped: params of real networks and made-up ones, and their optimizers."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmda_jax as rj

Shapes = Any  # a tree of shapes
Params = Any

GROUPS = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])
NUCLEAR = rj.RegularizerMap([("*/kernel", rj.nuclear_norm())])
L1 = rj.RegularizerMap([("*/kernel", rj.l1())])
STRENGTH = 1e-3
ADAM = "optax.adam"
NETWORKS = ("lenet5", "vgg19", "resnet50")

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "optax.sgd": lambda: optax.sgd(0.1, momentum=0.9),
    ADAM: lambda: optax.adam(1e-3),
    "optax.adamw": lambda: optax.adamw(1e-3),
    "rmda": lambda: rj.rmda(0.1, GROUPS, STRENGTH),
    "rmda, l1": lambda: rj.rmda(0.1, L1, STRENGTH),
    "ramda": lambda: rj.ramda(0.01, GROUPS, STRENGTH),
    "ramda, l1": lambda: rj.ramda(0.01, L1, STRENGTH),
    "proxsgd": lambda: rj.proxsgd(0.1, GROUPS, STRENGTH),
    "proxgen": lambda: rj.proxgen(1e-3, GROUPS, STRENGTH),
    "proxssi": lambda: rj.proxssi(1e-3, GROUPS, STRENGTH),
    "aprox, sgd": lambda: rj.aprox(optax.sgd(0.1, momentum=0.9), 0.1, GROUPS, STRENGTH),
    "aprox, adamw": lambda: rj.aprox(optax.adamw(1e-3), 1e-3, GROUPS, STRENGTH),
    "normal_map, sgd": lambda: rj.normal_map(optax.sgd(0.1), 0.1, GROUPS, STRENGTH),
    "linbreg, adam": lambda: rj.linbreg(optax.adam(1e-3), GROUPS, STRENGTH),
    "rigl": lambda: rj.rigl(optax.sgd(0.1, momentum=0.9), 0.9, end_step=10_000),
}

# The same with a size in place of the strength: what a budget adds to a step.
BUDGETED: dict[str, Callable[[], optax.GradientTransformation]] = {
    "rmda, budget": lambda: rj.rmda(0.1, GROUPS, rj.budget(groups=0.5)),
    "ramda, budget": lambda: rj.ramda(0.01, GROUPS, rj.budget(groups=0.5)),
    "proxsgd, budget": lambda: rj.proxsgd(0.1, GROUPS, rj.budget(groups=0.5)),
    "proxgen, budget": lambda: rj.proxgen(1e-3, GROUPS, rj.budget(groups=0.5)),
    "aprox, sgd, budget": lambda: rj.aprox(
        optax.sgd(0.1, momentum=0.9), 0.1, GROUPS, rj.budget(groups=0.5)
    ),
}

# A prox that is expensive, in every update and in one of ten: with --repeats 10.
SPECTRAL: dict[str, Callable[[], optax.GradientTransformation]] = {
    "aprox, nuclear": lambda: rj.aprox(optax.sgd(0.1), 0.1, NUCLEAR, STRENGTH),
    "aprox, nuclear, every 10": lambda: rj.aprox(
        optax.sgd(0.1), 0.1, NUCLEAR, STRENGTH, prox_every=10
    ),
}


def shapes(network: str, width: int = 512) -> Shapes:
    """Return the shapes of a network's params, as Flax has them.

    Args:
      network: One of NETWORKS, or "synthetic".
      width: Channels of the synthetic one, six 3x3 convolutions and a dense layer.
    """
    if network == "synthetic":
        layers: dict[str, tuple[int, ...]]
        layers = {f"conv{i}": (3, 3, width, width) for i in range(6)}
        layers["dense"] = (width, 1000)
        return {
            name: {"kernel": shape, "bias": shape[-1:]}
            for name, shape in layers.items()
        }
    try:
        from flax import nnx
    except ImportError as error:
        raise SystemExit(
            f"{network} is built by Flax, which is not installed: pip install "
            "'.[examples]', or measure on --network synthetic."
        ) from error
    from examples.poster import models

    model = nnx.eval_shape(lambda: models.NETWORKS[network](rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return jax.tree.map(lambda spec: spec.shape, params)


def many_leaves(n_leaves: int, size: int) -> Shapes:
    """Return the shapes of so many kernels, about square, with `size` entries each."""
    rows = max(1, math.isqrt(size))
    return {f"layer{i}": {"kernel": (rows, size // rows)} for i in range(n_leaves)}


def fill(tree: Shapes, seed: int, scale: float = 0.02) -> Params:
    """Return normal params of the given shapes."""
    rng = np.random.default_rng(seed)
    draw = lambda shape: scale * rng.standard_normal(shape, np.float32)
    is_shape = lambda node: isinstance(node, tuple)
    return jax.tree.map(lambda s: jnp.asarray(draw(s)), tree, is_leaf=is_shape)


def size(tree: Params) -> int:
    """Return how many entries the arrays of a tree have."""
    return sum(x.size for x in jax.tree.leaves(tree))
