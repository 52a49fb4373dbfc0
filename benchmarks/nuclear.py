"""The prox of the nuclear norm: how exact it is, and what it costs beside an SVD.

    python -m benchmarks.nuclear

The error is the spectral norm of the difference to float64, relative to the largest
singular value. How much of the spectrum survives decides what is possible, so it is
measured for several thresholds, as shares of that value.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import rmda_jax as rj
from benchmarks._rows import Options, publish
from benchmarks._timing import Contestant, Row
from benchmarks._torch import device, find_torch, waiting

NAME = "nuclear"
COLUMNS = {
    "what": "",
    "problem": "",
    "threshold": ".3g",
    "error": ".1e",
    "milliseconds": ".1f",
    "times_svd": ".2f",
    "times_svd_iqr": ".2f",
    "times_torch": ".2f",
}
SVD, TORCH = "jnp.linalg.svd", "torch.linalg.svd"


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Measure the prox of the nuclear norm."""

    shapes: tuple[tuple[int, int], ...] = ((512, 512), (2048, 512), (4608, 512))
    thresholds: tuple[float, ...] = (0.5, 0.05, 0.02, 1e-3)
    """Of the prox, over the largest singular value."""


def matrix(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return a matrix whose singular values fall over three decades."""
    rng = np.random.default_rng(seed)
    decay = np.logspace(0, -3, shape[1])
    return (rng.normal(size=shape) * decay).astype(np.float32)


def by_svd(x: jax.Array, threshold: float) -> jax.Array:
    """Shrink the singular values of a decomposition."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return (u * jnp.maximum(s - threshold, 0)) @ vt


def by_torch(torch: Any, x: Any, threshold: float) -> Any:
    """Shrink them in PyTorch."""
    u, s, vt = torch.linalg.svd(x, full_matrices=False)
    return (u * (s - threshold).clamp(min=0)) @ vt


def measure(config: Config) -> Iterator[Row]:
    """Return error and time for every shape and threshold."""
    referee, torch = config.referee(), find_torch()
    prox, svd = jax.jit(rj.nuclear_norm().prox), jax.jit(by_svd)
    for shape in config.shapes:
        host = matrix(shape)
        u, s, vt = np.linalg.svd(host.astype(np.float64), full_matrices=False)
        x, first = jnp.asarray(host), config.thresholds[0] * s[0]
        contestants: dict[str, Contestant] = {SVD: lambda x=x, t=first: svd(x, t)}
        if torch is not None:
            y = torch.from_numpy(host).to(device())
            call = lambda y=y, t=float(first): by_torch(torch, y, t)
            contestants[TORCH] = waiting(torch, call)
        for share in config.thresholds:
            threshold = share * s[0]
            contestants[f"{share}"] = lambda x=x, t=threshold: prox(x, t)
        times = referee.race(contestants)
        problem = "x".join(map(str, shape))
        for name in (SVD, TORCH):
            if name in contestants:
                yield {"what": name, "problem": problem, **times.row(name, svd=SVD)}
        for share in config.thresholds:
            truth = (u * np.maximum(s - share * s[0], 0)) @ vt
            error = np.linalg.norm(np.asarray(prox(x, share * s[0])) - truth, 2) / s[0]
            yield {
                "what": "nuclear_norm().prox",
                "problem": problem,
                "threshold": share,
                "error": float(error),
                **times.row(f"{share}", svd=SVD, torch=TORCH),
            }


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)


if __name__ == "__main__":
    main()
