"""Small models of the plain layers of Haiku, and networks of its own."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax

from examples.zoo.inputs import HEADS, HIDDEN, KEY, WIDTH, vectors
from examples.zoo.measure import Model, of_function


def haiku_attention(x: jax.Array, is_training: bool) -> jax.Array:
    """Compute a block of a transformer."""
    del is_training
    x = hk.Linear(WIDTH)(x)
    norm = lambda: hk.LayerNorm(-1, create_scale=True, create_offset=True)
    h = norm()(x)
    init = hk.initializers.VarianceScaling()
    x = x + hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=init)(h, h, h)
    x = x + hk.Linear(WIDTH)(jax.nn.gelu(hk.Linear(HIDDEN)(norm()(x))))
    return hk.Linear(3)(x)


def haiku_lstm(x: jax.Array, is_training: bool) -> jax.Array:
    """Compute a recurrent cell over a sequence."""
    del is_training
    core = hk.LSTM(WIDTH)
    out, _ = hk.dynamic_unroll(core, x, core.initial_state(x.shape[1]))
    return hk.Linear(3)(out)


def haiku_resnet(x: jax.Array, is_training: bool) -> jax.Array:
    """Compute Haiku's own residual network, at small widths."""
    net = hk.nets.ResNet(
        (1, 1, 1, 1),
        3,
        bottleneck=False,
        channels_per_group=(8, 8, 16, 16),
        logits_config={"w_init": hk.initializers.VarianceScaling()},  # not zeros
    )
    return net(x, is_training)


def haiku_mobilenet(x: jax.Array, is_training: bool) -> jax.Array:
    """Compute Haiku's own network of depthwise convolutions, at small widths."""
    return hk.nets.MobileNetV1((1, 2), (4, 8), 3)(x, is_training)


def haiku_model(forward: Callable[[jax.Array, bool], Any], *shape: int) -> Model:
    """Return a function of Haiku as a model; its statistics are among the params."""
    net, x = hk.without_apply_rng(hk.transform_with_state(forward)), vectors(*shape)
    params, state = net.init(KEY, x, True)
    fn = lambda p, x: net.apply(p["params"], p["state"], x, False)[0]
    return of_function(fn, {"params": params, "state": state}, x)


MODELS: dict[str, Callable[[], Model]] = {
    "haiku_attention": lambda: haiku_model(haiku_attention, 2, 4, 5),
    "haiku_lstm": lambda: haiku_model(haiku_lstm, 4, 2, 5),
    "haiku_resnet": lambda: haiku_model(haiku_resnet, 1, 32, 32, 3),
    "haiku_mobilenet": lambda: haiku_model(haiku_mobilenet, 1, 8, 8, 3),
}
