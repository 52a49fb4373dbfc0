"""The model as a folder that Hugging Face's transformers loads, in PyTorch.

Its config has one width for all layers: so a model whose layers were made smaller alike
is an ordinary Llama, which needs neither this library nor JAX.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from examples.pretrained.model import Config, Fn

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def hugging_face_config(params: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return the config of a Llama with the widths of the params.

    Raises:
      ValueError: the layers have different widths, for which it has no place.
    """
    blocks = [params[f"block{i}"] for i in range(len(params) - 2)]
    shapes = {(*b["attention"]["query"].shape, b["mlp"]["up"].shape[1]) for b in blocks}
    if len(shapes) > 1:
        found = sorted((groups, hidden) for _, groups, _, _, hidden in shapes)
        raise ValueError(
            "all layers must have the same groups of heads and gated units, got "
            f"{found}. Shrink them alike, or write the params alone, by "
            "`rmda_jax.shrink.save`."
        )
    ((width, groups, queries, size, hidden),) = shapes
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": params["embedding"].shape[0],
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": groups * queries,
        "num_key_value_heads": groups,
        "head_dim": size,
        "hidden_act": "silu",
        "rms_norm_eps": config.epsilon,
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "max_position_embeddings": config.context,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }


def hugging_face_arrays(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the weights by the names of a Llama there: a row for each output."""
    arrays = {
        "model.embed_tokens.weight": params["embedding"],
        "model.norm.weight": params["norm"]["scale"],
    }
    for i in range(len(params) - 2):
        block, prefix = params[f"block{i}"], f"model.layers.{i}."
        attention, width = block["attention"], len(block["norm1"]["scale"])
        layer = {
            "input_layernorm": block["norm1"]["scale"],
            "post_attention_layernorm": block["norm2"]["scale"],
            "self_attn.q_proj": attention["query"].reshape(width, -1).T,
            "self_attn.k_proj": attention["key"].reshape(width, -1).T,
            "self_attn.v_proj": attention["value"].reshape(width, -1).T,
            "self_attn.o_proj": attention["out"].reshape(-1, width).T,
        }
        layer |= {f"mlp.{name}_proj": x.T for name, x in block["mlp"].items()}
        arrays |= {f"{prefix}{name}.weight": x for name, x in layer.items()}
    return {name: np.asarray(x, order="C") for name, x in arrays.items()}


def write_folder(
    folder: Path, params: dict[str, Any], config: Config, tokenizer: "Tokenizer"
) -> None:
    """Write the config, the weights and the tokenizer."""
    made = hugging_face_config(params, config)
    folder.mkdir(parents=True, exist_ok=True)
    _ = (folder / "config.json").write_text(json.dumps(made, indent=2))
    save_file(
        hugging_face_arrays(params), folder / "model.safetensors", {"format": "pt"}
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _ = (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )


def read_config(folder: Path) -> Config:
    """Return the sizes of a folder, which has a Llama as `write_folder` wrote it."""
    found = json.loads((folder / "config.json").read_text())
    groups = found["num_key_value_heads"]
    return Config(
        vocabulary=found["vocab_size"],
        width=found["hidden_size"],
        layers=found["num_hidden_layers"],
        groups=groups,
        queries=found["num_attention_heads"] // groups,
        size=found["head_dim"],
        hidden=found["intermediate_size"],
        rope_base=found["rope_theta"],
        epsilon=found["rms_norm_eps"],
        context=found["max_position_embeddings"],
    )


def in_pytorch(folder: Path) -> Callable[[Any], np.ndarray]:
    """Return the folder's model in transformers, from token ids to logits."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(
        folder, local_files_only=True, dtype=torch.float32
    ).eval()

    def logits(tokens: Any) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(np.asarray(tokens, np.int64))).logits.numpy()

    return logits


def difference(folder: Path, fn: Fn, params: Any, tokens: np.ndarray) -> list[float]:
    """Return how far logits there are from ours at most, and the largest of ours."""
    theirs = in_pytorch(folder)(tokens[None])
    ours = np.asarray(jax.jit(fn)(params, jnp.asarray(tokens[None])))
    return [float(np.abs(ours - theirs).max()), float(np.abs(ours).max())]
