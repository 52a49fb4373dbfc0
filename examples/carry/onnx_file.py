"""A function and its params in a file of ONNX, run by onnxruntime."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from examples.carry.small import Small

FILE = "small.onnx"  # and small.onnx.data, of a large model


def write(folder: Path, small: Small) -> None:
    """Write the function, with the params as constants of it."""
    import jax2onnx

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # a line for every equation
    _ = jax2onnx.to_onnx(
        lambda x: small.fn(small.params, x),
        inputs=[small.symbolic_inputs(small.onnx_sizes)],
        return_mode="file",
        output_path=folder / FILE,
    )


def read(folder: Path) -> Any:
    """Return the function of the inputs that the file holds, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(
        folder / FILE, options, providers=["CPUExecutionProvider"]
    )
    (x,) = session.get_inputs()
    return lambda value: session.run(None, {x.name: np.asarray(value)})[0]
