"""PyTorch as a contestant: optional, and in the layouts that it uses."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks._problems import Params
from benchmarks._timing import Contestant, n_cpus


def find_torch() -> Any:
    """Return the module if PyTorch is there and has the device of JAX, else None."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(n_cpus())
    on_cpu = jax.default_backend() == "cpu"
    return torch if on_cpu or torch.cuda.is_available() else None


def device() -> str:
    """Return PyTorch's name of the device that JAX uses."""
    return "cpu" if jax.default_backend() == "cpu" else "cuda"


def to_torch(torch: Any, x: Any) -> Any:
    """Return an array in PyTorch's layout: (*window, in, out) is (out, in, *window)."""
    x = np.asarray(x)
    if x.ndim > 1:
        x = np.moveaxis(x, (-1, -2), (0, 1))
    return torch.from_numpy(np.array(x, order="C")).to(device())


def parameters(torch: Any, params: Params, grads: Params) -> list[Any]:
    """Return a list of PyTorch parameters that have their gradients."""
    made = []
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(grads), strict=True)
    for value, grad in pairs:
        parameter = torch.nn.Parameter(to_torch(torch, value))
        parameter.grad = to_torch(torch, grad)
        made.append(parameter)
    return made


def waiting(torch: Any, call: Callable[[], Any]) -> Contestant:
    """Return a contestant that waits for the device, as JAX's do."""

    def turn() -> None:
        call()
        if device() == "cuda":
            torch.cuda.synchronize()

    return turn


def optimizers(torch: Any, params: Params, grads: Params) -> dict[str, Contestant]:
    """Return the step of PyTorch's own optimizers, in their two fast forms."""
    steps = {}
    for form in ("foreach", "fused"):
        for name, options in (
            ("SGD", {"lr": 0.1, "momentum": 0.9}),
            ("AdamW", {"lr": 1e-3}),
        ):
            optimizer = getattr(torch.optim, name)(
                parameters(torch, params, grads), **options, **{form: True}
            )
            steps[f"torch {name}, {form}"] = waiting(torch, optimizer.step)
    return steps
