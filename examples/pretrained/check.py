"""The logits of the model against those of transformers in PyTorch, of the same file.

transformers has its own model, its own order of RoPE's dimensions and its own tokenizer
of GGUF. The blocks of four bits are decoded by the package gguf on both sides; a test
decodes one by hand.
"""

import dataclasses
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np

from examples.pretrained import model, tokens, weights

SENTENCE = "The river had risen in the night, and the ferry lay on the other side."


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two models are apart on a sentence."""

    tokens: int
    same_tokens: bool  # of both tokenizers
    difference: float  # the largest, of all logits
    scale: float  # the largest absolute value of a logit
    same_next: int  # positions at which both predict the same token

    def __str__(self) -> str:
        tokens = "the same" if self.same_tokens else "NOT THE SAME"
        return (
            f"tokens: {self.tokens}, {tokens} of both tokenizers\n"
            f"largest difference of a logit: {self.difference:.1e}, "
            f"of logits up to {self.scale:.3g}\n"
            f"same most likely next token: {self.same_next} of {self.tokens}"
        )


def other_runtime(path: Path, sentence: str) -> tuple[list[int], np.ndarray]:
    """Return the token ids of a sentence and their logits, by transformers in PyTorch.

    Nothing is downloaded: all is in the file.
    """
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where, local_files_only=True)
    model = LlamaForCausalLM.from_pretrained(
        **where, local_files_only=True, dtype=torch.float32
    ).eval()
    tokens = tokenizer(sentence)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits
    return tokens, logits[0].numpy()


def agreement(path: Path, sentence: str = SENTENCE) -> Agreement:
    """Compare the model with transformers on a sentence."""
    tokenizer = tokens.read_tokenizer(gguf.GGUFReader(path))
    config, params = weights.load(path)
    fn, _ = model.function(config)
    ids = tokenizer.encode(sentence).ids
    theirs_ids, theirs = other_runtime(path, sentence)
    ours = np.asarray(jax.jit(fn)(params, jnp.asarray([theirs_ids])))[0]
    return Agreement(
        tokens=len(theirs_ids),
        same_tokens=ids == theirs_ids,
        difference=float(np.abs(ours - theirs).max()),
        scale=float(np.abs(theirs).max()),
        same_next=int((ours.argmax(-1) == theirs.argmax(-1)).sum()),
    )
