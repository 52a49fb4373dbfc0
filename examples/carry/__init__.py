"""Small models where this library is not: StableHLO by jax.export, and ONNX.

    python -m examples.carry

The models are the CNN and the vision transformer of `examples.shrink`, with zeros in
half of their units. `stablehlo` writes the function and the params to two files, which
`reader` runs in a process that imports JAX alone; `onnx_file` writes both in one, and
onnxruntime runs it. `python -m examples.pretrained carry` does the same with a language
model, and has PyTorch run it, too.
"""
