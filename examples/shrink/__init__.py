"""Models that shrink: what becomes of their size and speed once their zeros leave.

    python -m examples.shrink --results examples/shrink/results.jsonl   # what is kept
    python -m examples.shrink                       # the same, kept in out/shrink.jsonl
    python -m examples.shrink --models vit lm
    python -m examples.shrink --models lenet5 --params FILE --data-dir DIR

`cases` has the models, and how each came by its zeros: the transformers of `models` and
a network of low rank train for a minute each, by `training`; those of the poster are
given zeros, or read from a file. All that follows is `rmda_jax.shrink`.
"""
