"""What one optimizer step costs: memory in bytes per parameter, kernels, and time.

    python -m benchmarks.step                      # ResNet50: a table, some minutes
    python -m benchmarks.step --network synthetic --width 512

Bytes and kernels are properties of the compiled step, the same on every machine of a
kind. The ceiling is measured beside it: a triad x <- a y + x in place, whose bytes per
second no step can exceed but one that fits into the cache. ``of_bandwidth`` is the
share of it that the bytes reach which a step has to move. PyTorch's optimizers take
part where PyTorch is installed.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from benchmarks._problems import (
    ADAM,
    BUDGETED,
    OPTIMIZERS,
    SPECTRAL,
    fill,
    shapes,
    size,
)
from benchmarks._programs import Stepper
from benchmarks._rows import Options, publish
from benchmarks._timing import Contestant, Row
from benchmarks._torch import find_torch, optimizers

NAME = "step"
COLUMNS = {
    "what": "",
    "problem": "",
    "state_bytes_per_parameter": ".2f",
    "temporary_bytes_per_parameter": ".3f",
    "bytes_accessed_per_parameter": ".1f",
    "kernels": "d",
    "milliseconds": ".2f",
    "times_adam": ".2f",
    "times_adam_iqr": ".2f",
    "times_rmda": ".2f",
    "times_nuclear": ".2f",
    "times_nuclear_iqr": ".2f",
    "of_bandwidth": ".0%",
    "gigabytes_per_second": ".1f",
}
TRIAD = "triad"


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Measure one step of every optimizer on a network's params."""

    network: Literal["resnet50", "vgg19", "lenet5", "synthetic"] = "resnet50"
    width: int = 512
    """Channels of the synthetic network: six 3x3 convolutions and a dense layer."""
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    """Which of ours and Optax's take part; "rmda, budget" and its like, too, and
    with ``--repeats 10`` "aprox, nuclear, every 10"."""
    repeats: int | None = None
    """Steps in a turn; by default 1 on a CPU, and 10 where launching takes time."""
    triad_size: int = 2**25
    """Entries of the triad's arrays: far more than the cache holds."""


class Triad:
    """The in-place sum that measures the bandwidth of the memory."""

    def __init__(self, size: int):
        """Compile it for arrays of this size."""
        self.x, self.y = jnp.zeros(size), jnp.ones(size)
        self.n_bytes = 3 * self.x.nbytes  # x and y read, x written
        self._add = jax.jit(lambda x, y: 0.5 * y + x, donate_argnums=0)

    def __call__(self) -> jax.Array:
        """Add once."""
        self.x = self._add(self.x, self.y)
        return self.x


def measure(config: Config) -> Iterator[Row]:
    """Return what every optimizer costs."""
    tree = shapes(config.network, config.width)
    params, grads = fill(tree, seed=0), fill(tree, seed=1, scale=2e-3)
    known = {**OPTIMIZERS, **BUDGETED, **SPECTRAL}
    steppers = {
        name: Stepper(known[name](), params, grads) for name in config.optimizers
    }
    triad, torch = Triad(config.triad_size), find_torch()
    rivals = {} if torch is None else optimizers(torch, params, grads)
    contestants: dict[str, Contestant] = {**steppers, **rivals, TRIAD: triad}
    repeats = config.repeats or (1 if jax.default_backend() == "cpu" else 10)
    times = config.referee().race(contestants, repeats=repeats)

    bandwidth = triad.n_bytes / times.median(TRIAD)
    common = {"problem": config.network, "parameters": size(params)}
    for name in contestants:
        references = {"adam": ADAM, "rmda": "rmda", "nuclear": "aprox, nuclear"}
        row = {"what": name, **common, **times.row(name, **references)}
        if name in steppers:
            speed = steppers[name].compulsory_bytes() / times.median(name)
            row |= steppers[name].costs() | {"of_bandwidth": speed / bandwidth}
        elif name == TRIAD:
            row["parameters"] = config.triad_size
            row["gigabytes_per_second"] = bandwidth / 1e9
        yield row


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)


if __name__ == "__main__":
    main()
