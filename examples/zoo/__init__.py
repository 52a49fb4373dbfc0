"""Models that others wrote, with random weights: which units go, and what stays.

    python -m examples.zoo --results examples/zoo/results.jsonl     # what is kept
    python -m examples.zoo                       # the same, kept in out/zoo.jsonl
    python -m examples.zoo --models nnx_attention equimo_vit
    python -m examples.zoo --models             # the table of earlier runs alone

`entries` lists them: models of the plain layers of Flax NNX, linen, Haiku and Equinox,
and those of other packages, which are named as missing where they are not installed.
Nothing is downloaded. In each, half the units of every set that `program` can cut are
given zeros, by one rule (`measure.zeroed`). Then the model is made smaller twice: by
the means that the library has for its framework, and by `program`.
"""
