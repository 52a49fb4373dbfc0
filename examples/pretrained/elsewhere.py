"""The small model where this library is not: StableHLO, ONNX and PyTorch.

All is read from the folder that `shrink` wrote; neither the large model nor its package
is needed.
"""

from pathlib import Path

import jax.numpy as jnp

import rmda_jax as rj
from examples.carry.small import Small
from examples.carry.table import Carried, carried, size
from examples.pretrained import carry, model, shrinking

PARAMS, FOLDER = "small.safetensors", "hugging_face"
PYTORCH = "folder of Hugging Face, PyTorch"


def small_model(out: Path, n_tokens: int) -> Small:
    """Return the model that `shrink` wrote, and the first tokens of the text.

    jax2onnx 0.17.1 takes a letter for the batch, and fails at one for the time.
    """
    from tokenizers import Tokenizer

    folder = out / FOLDER
    params, widths = rj.shrink.load(out / PARAMS)
    fn, _ = model.function(carry.read_config(folder))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.encode(shrinking.TEXT.read_text("utf-8")).ids[:n_tokens]
    tokens = jnp.asarray([ids], jnp.int32)
    title = f"SmolLM2, {shrinking.count(params):,} parameters"
    return Small(title, fn, params, widths, tokens, "b, t", f"b, {n_tokens}")


def rows(out: Path, n_tokens: int, repeats: int) -> list[Carried]:
    """Carry the model that `shrink` wrote, and compare what reads it."""
    folder = out / FOLDER
    weights = size([folder / "model.safetensors"])
    others = {PYTORCH: (carry.in_pytorch(folder), weights)}
    return carried(small_model(out, n_tokens), out / "carried", repeats, others)
