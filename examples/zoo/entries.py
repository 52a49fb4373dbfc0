"""The models of the zoo: what they are called, and what makes them."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

from examples.zoo import packages
from examples.zoo.inputs import N_TOKENS, tokens
from examples.zoo.measure import Model


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of a package.

    Attributes:
      title: What it is called in the table.
      framework: What it is written in.
      package: Its name on PyPI.
      make: Makes it.
    """

    title: str
    framework: str
    package: str
    make: Callable[[], Model]


def _entry(
    title: str,
    framework: str,
    package: str,
    make: Callable[..., Model],
    *args: Any,
    **kwargs: Any,
) -> Entry:
    return Entry(title, framework, package, functools.partial(make, *args, **kwargs))


def _layers(title: str, framework: str, package: str, module: str, name: str) -> Entry:
    """Return a model of plain layers; its framework need not be installed."""

    def make() -> Model:
        return importlib.import_module(f"examples.zoo.{module}").MODELS[name]()

    return Entry(title, framework, package, make)


_FLAX = {
    "nnx_mlp": ("MLP", "NNX"),
    "nnx_cnn": ("CNN", "NNX"),
    "nnx_attention": ("transformer", "NNX"),
    "nnx_lstm": ("LSTM", "NNX"),
    "linen_cnn": ("residual CNN", "linen"),
    "linen_attention": ("transformer", "linen"),
    "linen_gru": ("GRU", "linen"),
}
_HAIKU = {
    "haiku_attention": "transformer",
    "haiku_lstm": "LSTM",
    "haiku_resnet": "ResNet",
    "haiku_mobilenet": "MobileNet",
}
_EQUINOX = {
    "equinox_attention": "transformer",
    "equinox_cnn": "CNN",
    "equinox_gru": "GRU",
}
_SMALL = {
    "vocab_size": N_TOKENS,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}
_GPT2 = {
    "vocab_size": N_TOKENS,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 16,
}
_VIT = {
    "img_size": 32,
    "in_channels": 3,
    "patch_size": 8,
    "dim": 16,
    "depths": [1],
    "num_heads": 4,
}
_STAGES = {"in_channels": 3, "depths": [1, 1, 1, 1]}
_THREE_STAGES = {
    "in_channels": 3,
    "widths": [8, 8, 8],
    "depths": [1, 1, 1],
    "block_types": ["conv", "conv", "attention"],
}

ENTRIES = {
    **{n: _layers(*title, "flax", "flax_layers", n) for n, title in _FLAX.items()},
    **{
        n: _layers(t, "Haiku", "dm-haiku", "haiku_layers", n) for n, t in _HAIKU.items()
    },
    **{
        n: _layers(t, "Equinox", "equinox", "equinox_layers", n)
        for n, t in _EQUINOX.items()
    },
    "attnax_vit": _entry("ViT", "NNX", "attnax", packages.attnax_vit),
    "attnax_decoder": _entry("decoder", "NNX", "attnax", packages.attnax_decoder),
    "mamba2": _entry("Mamba-2", "NNX", "mamba2-jax", packages.mamba2),
    "jraphx_gcn": _entry("GCN", "NNX", "jraphx", packages.graph_network, "GCN"),
    "jraphx_gat": _entry(
        "GAT", "NNX", "jraphx", packages.graph_network, "GAT", heads=2
    ),
    "jraphx_sage": _entry(
        "GraphSAGE", "NNX", "jraphx", packages.graph_network, "GraphSAGE"
    ),
    "jraphx_gin": _entry("GIN", "NNX", "jraphx", packages.graph_network, "GIN"),
    "kan": _entry("KAN", "NNX", "jaxkan", packages.kan),
    "nano_moe": _entry("experts", "linen", "nano-moe-jax", packages.nano_moe),
    "brax_mlp": _entry("policy", "linen", "brax", packages.brax_mlp),
    "bert": _entry(
        "BERT",
        "linen",
        "transformers",
        packages.transformers,
        "FlaxBertModel",
        "BertConfig",
        tokens(2, 6),
        **_SMALL,
    ),
    "gpt2": _entry(
        "GPT-2",
        "linen",
        "transformers",
        packages.transformers,
        "FlaxGPT2LMHeadModel",
        "GPT2Config",
        tokens(2, 6),
        **_GPT2,
    ),
    "llama": _entry(
        "Llama",
        "linen",
        "transformers",
        packages.transformers,
        "FlaxLlamaForCausalLM",
        "LlamaConfig",
        tokens(2, 6),
        num_key_value_heads=1,
        **_SMALL,
    ),
    "jraph_gcn": _entry("GCN", "functions", "jraph", packages.jraph_network),
    "flow_coupling": _entry(
        "coupling flow", "Equinox", "flowjax", packages.flow, "coupling_flow"
    ),
    "flow_autoregressive": _entry(
        "autoregressive flow",
        "Equinox",
        "flowjax",
        packages.flow,
        "masked_autoregressive_flow",
    ),
    "equimo_vit": _entry(
        "ViT", "Equinox", "equimo", packages.equimo, "vit", "VisionTransformer", **_VIT
    ),
    "equimo_vit_norms": _entry(
        "ViT, norms on q and k",
        "Equinox",
        "equimo",
        packages.equimo,
        "vit",
        "VisionTransformer",
        qk_norm=True,
        ffn_layer="swiglu",
        **_VIT,
    ),
    "equimo_convnext": _entry(
        "ConvNeXt",
        "Equinox",
        "equimo",
        packages.equimo,
        "convnext",
        "ConvNeXt",
        dims=[8, 8, 16, 16],
        **_STAGES,
    ),
    "equimo_mobilenet": _entry(
        "MobileNet v3",
        "Equinox",
        "equimo",
        packages.equimo,
        "mobilenet",
        "MobileNetv3",
        in_channels=3,
        last_channels=16,
        layers_config=[(3, 8, 8, 1, False, "relu"), (3, 16, 8, 2, True, "hard_swish")],
    ),
    "equimo_mlla": _entry(
        "MLLA",
        "Equinox",
        "equimo",
        packages.equimo,
        "mlla",
        "Mlla",
        img_size=32,
        in_channels=3,
        dim=8,
        depths=[1],
        num_heads=[2],
    ),
    "equimo_vssd": _entry(
        "VSSD",
        "Equinox",
        "equimo",
        packages.equimo,
        "vssd",
        "Vssd",
        img_size=32,
        in_channels=3,
        dim=8,
        d_state=4,
        depths=[1],
        num_heads=[2],
        attentions_layers=("mamba2mixer",),
    ),
    "equimo_lowformer": _entry(
        "LowFormer",
        "Equinox",
        "equimo",
        packages.equimo,
        "lowformer",
        "LowFormer",
        att_strides=[1, 1, 1],
        attention_type="softmax",
        **_THREE_STAGES,
    ),
    "equimo_reduceformer": _entry(
        "ReduceFormer",
        "Equinox",
        "equimo",
        packages.equimo,
        "reduceformer",
        "ReduceFormer",
        head_dim=4,
        **_THREE_STAGES,
    ),
    "convmixer": _entry(
        "ConvMixer",
        "linen",
        "jax-models",
        packages.jax_models,
        "conv_mixer",
        "ConvMixer",
        features=8,
        patch_size=2,
        num_mixer_layers=2,
        filter_size=3,
    ),
    "cait": _entry(
        "CaiT",
        "linen",
        "jax-models",
        packages.jax_models,
        "cait",
        "CaiT",
        patch_size=4,
        embed_dim=8,
        depth=1,
        num_heads=2,
        mlp_ratio=2,
        depth_token_only=1,
        mlp_ratio_clstk=2,
    ),
}
"""By name, in the order of the table."""
