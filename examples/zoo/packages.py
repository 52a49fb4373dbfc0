"""Models of packages that others publish, at small sizes and with random weights.

Each function imports the package that it is of: an ImportError means that the package
is not installed, or does not work with the JAX that is. The packages are on PyPI; they
are no extra of this one, for their requirements are wide, and some are old.
"""
# pyright: reportMissingImports=false

import importlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from examples.zoo.inputs import KEY, N_TOKENS, tokens, vectors
from examples.zoo.measure import Model, of_equinox, of_function, of_nnx


def attnax_vit() -> Model:
    """Return a vision transformer."""
    import attnax

    config = attnax.VisionTransformerConfig(
        image_size=8,
        patch_size=4,
        num_classes=5,
        d_model=16,
        num_heads=4,
        num_layers=1,
        d_ff=24,
    )
    module = attnax.VisionTransformer(nnx.Rngs(0), config)
    return of_nnx(module, vectors(2, 8, 8, 3))


def attnax_decoder() -> Model:
    """Return a language model: RoPE, grouped queries, RMSNorm, SwiGLU."""
    import attnax

    config = attnax.TransformerConfig(
        vocab_size=N_TOKENS,
        d_model=16,
        num_heads=4,
        num_kv_heads=2,
        num_layers=1,
        d_ff=24,
        max_len=16,
        pos_emb_type="rope",
        norm_type="rms",
        ff_activation="swiglu",
    )
    return of_nnx(attnax.TransformerDecoder(nnx.Rngs(0), config), tokens(2, 6))


def mamba2() -> Model:
    """Return a language model of state spaces."""
    from mamba2_jax import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        vocab_size=N_TOKENS,
        hidden_size=8,
        state_size=4,
        head_dim=4,
        chunk_size=4,
        num_hidden_layers=1,
    )
    module = Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))
    return of_nnx(module, tokens(2, 8), call=lambda m, x: m(x)["logits"])


def nano_moe() -> Model:
    """Return a language model of experts."""
    from nano_moe.config import NanoMoEConfig
    from nano_moe.model import NanoMoE

    config = NanoMoEConfig(
        vocab_size=N_TOKENS,
        n_layers=1,
        n_heads=2,
        d_model=8,
        d_ff=12,
        n_experts=4,
        block_size=8,
    )
    module, x = NanoMoE(config), tokens(2, 6)
    return of_function(module.apply, module.init(KEY, x), x)


def graph_network(name: str, **sizes: Any) -> Model:
    """Return a graph network of jraphx."""
    from jraphx.nn import models

    edges = jnp.array([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]])
    module = getattr(models, name)(4, 8, 2, 3, rngs=nnx.Rngs(0), **sizes)
    return of_nnx(module, vectors(4, 4), edges)


def jraph_network() -> Model:
    """Return a graph network of jraph, with two dense layers as functions."""
    import jraph

    graph = jraph.GraphsTuple(
        nodes=vectors(4, 5),
        edges=None,
        senders=jnp.array([0, 1, 2, 3, 0]),
        receivers=jnp.array([1, 2, 3, 0, 2]),
        n_node=jnp.array([4]),
        n_edge=jnp.array([5]),
        globals=None,
    )

    def fn(params: Any, nodes: jax.Array) -> jax.Array:
        x = graph._replace(nodes=nodes)
        for i, kernel in enumerate(params.values()):
            update = lambda h, kernel=kernel: h @ kernel
            x = jraph.GraphConvolution(update, add_self_edges=True)(x)
            x = x._replace(nodes=jax.nn.relu(x.nodes)) if i == 0 else x
        return x.nodes

    keys = jax.random.split(KEY)
    shapes = {"dense0": (5, 8), "dense1": (8, 3)}
    params = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return of_function(fn, params, graph.nodes)


def kan() -> Model:
    """Return a Kolmogorov-Arnold network."""
    from jaxkan.models.KAN import KAN

    grid = {"k": 3, "G": 3}
    module = KAN([3, 6, 2], layer_type="spline", required_parameters=grid)
    return of_nnx(module, vectors(4, 3))


def equimo(module: str, name: str, **sizes: Any) -> Model:
    """Return an image model of equimo."""
    import equinox as eqx

    make = getattr(importlib.import_module(f"equimo.models.{module}"), name)
    made = eqx.nn.inference_mode(make(key=KEY, num_classes=5, **sizes))
    x = vectors(3, 32, 32)
    return of_equinox(made, x, call=lambda m, x: m(x, KEY, inference=True))


def jax_models(module: str, name: str, **sizes: Any) -> Model:
    """Return an image model of jax-models."""
    make = getattr(importlib.import_module(f"jax_models.models.{module}"), name)
    made, x = make(num_classes=3, **sizes), vectors(1, 8, 8, 3)
    fn = lambda p, x: made.apply(p, x, deterministic=True)
    return of_function(fn, made.init(KEY, x, deterministic=True), x)


def brax_mlp() -> Model:
    """Return the network of a policy."""
    from brax.training.networks import MLP

    module, x = MLP([8, 8, 3], layer_norm=True), vectors(4, 5)
    return of_function(module.apply, module.init(KEY, x), x)


def flow(name: str) -> Model:
    """Return the density of a normalizing flow."""
    from flowjax import flows
    from flowjax.distributions import Normal

    base = Normal(jnp.zeros(4))
    made = getattr(flows, name)(KEY, base_dist=base, flow_layers=2, nn_width=8)
    return of_equinox(made, vectors(5, 4), call=lambda m, x: m.log_prob(x))


def transformers(name: str, config: str, x: jax.Array, **sizes: Any) -> Model:
    """Return a Flax model of transformers, of before 5.0."""
    import transformers

    made = getattr(transformers, name)(
        getattr(transformers, config)(**sizes),
        seed=0,
        **({"input_shape": (1, 6)} if x.ndim == 2 else {}),
    )
    fn = lambda p, x: made(x, params=p, train=False)[0]
    return of_function(fn, made.params, x)
