"""The tokenizer of a SmolLM2 in a GGUF file: byte pairs, with every digit apart."""

import gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CONTROL = 3  # how GGUF marks the tokens that are no text, such as <|im_start|>


def read_tokenizer(reader: gguf.GGUFReader) -> Tokenizer:
    """Return the tokenizer of a file.

    Raises:
      ValueError: the file has a tokenizer of another kind.
    """
    value = lambda name: reader.fields[f"tokenizer.ggml.{name}"].contents()
    kind = (value("model"), value("pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(
            f"the tokenizer must be of the kind ('gpt2', 'smollm'), got {kind}. Take a "
            "file of a SmolLM2."
        )
    tokens = value("tokens")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(pair.split(" ")) for pair in value("merges")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = value("token_type")
    tokenizer.add_special_tokens(
        [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    )
    return tokenizer
