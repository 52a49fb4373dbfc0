"""What one optimizer step costs: memory in bytes per parameter, and time.

    python benchmarks/step.py                      # a table; half a minute
    python benchmarks/step.py --json step.jsonl    # and a line for each optimizer

The bytes are properties of the compiled step and of its state, the same on every
machine of a kind. Times are medians over rounds in which every optimizer takes one
step, in turn, so that what disturbs the machine disturbs all of them; read the ratios.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import rmda_jax as rj

GROUPS = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])
L1 = rj.RegularizerMap([("*/kernel", rj.l1())])
STRENGTH = 1e-3
REFERENCE = "optax.adam"

OPTIMIZERS = {
    "optax.sgd": optax.sgd(0.1, momentum=0.9),
    REFERENCE: optax.adam(1e-3),
    "rmda": rj.rmda(0.1, GROUPS, STRENGTH),
    "rmda, l1": rj.rmda(0.1, L1, STRENGTH),
    "ramda": rj.ramda(0.01, GROUPS, STRENGTH),
    "ramda, l1": rj.ramda(0.01, L1, STRENGTH),
    "proxsgd": rj.proxsgd(0.1, GROUPS, STRENGTH),
    "proxgen": rj.proxgen(1e-3, GROUPS, STRENGTH),
    "proxssi": rj.proxssi(1e-3, GROUPS, STRENGTH),
    "rigl": rj.rigl(optax.sgd(0.1, momentum=0.9), 0.9, end_step=10_000),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure one step of every optimizer on a convolutional net's params."""

    width: int = 512
    """Channels; the params are six 3x3 convolutions and a dense layer."""
    rounds: int = 15
    json: Path | None = None
    """Where to save the results, as JSON lines."""


@dataclasses.dataclass
class Contestant:
    """An optimizer with its compiled step, and the params and state that it donates."""

    name: str
    step: Any
    params: Any
    state: Any
    seconds: list[float]

    def take_step(self, grads: Any) -> None:
        """Take one step and time it."""
        start = time.perf_counter()
        arrays = self.step(self.params, self.state, grads)
        self.params, self.state = jax.block_until_ready(arrays)
        self.seconds.append(time.perf_counter() - start)


def make_params(width: int, seed: int) -> dict[str, dict[str, jax.Array]]:
    """Return the params of six convolutions and a dense layer, as Flax has them."""
    rng = np.random.default_rng(seed)
    shapes = {f"conv{i}": (3, 3, width, width) for i in range(6)}
    shapes["dense"] = (width, 1000)
    return {
        layer: {
            "kernel": jnp.asarray(rng.normal(size=shape) / 50, jnp.float32),
            "bias": jnp.zeros(shape[-1]),
        }
        for layer, shape in shapes.items()
    }


def enter(name: str, params: Any) -> Contestant:
    """Compile the step of one of OPTIMIZERS."""
    optimizer = OPTIMIZERS[name]
    state = optimizer.init(params)

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params)
    own_params = jax.tree.map(jnp.copy, params)
    return Contestant(name, lowered.compile(), own_params, state, [])


def measure(config: Config) -> Iterator[dict[str, Any]]:
    """Return what every optimizer costs."""
    params = make_params(config.width, seed=0)
    grads = jax.tree.map(lambda x: x / 10, make_params(config.width, seed=1))
    size = sum(x.size for x in jax.tree.leaves(params))
    contestants = [enter(name, params) for name in OPTIMIZERS]
    for _ in range(config.rounds):
        for contestant in contestants:
            contestant.take_step(grads)
    seconds = {c.name: np.array(c.seconds[2:]) for c in contestants}
    for c in contestants:
        state_bytes = sum(x.nbytes for x in jax.tree.leaves(c.state))
        cost = c.step.cost_analysis()
        ratios = seconds[c.name] / seconds[REFERENCE]
        yield {
            "optimizer": c.name,
            "parameters": size,
            "backend": jax.default_backend(),
            "state_bytes_per_parameter": round(state_bytes / size, 2),
            "temporary_bytes_per_parameter": round(
                c.step.memory_analysis().temp_size_in_bytes / size, 3
            ),
            "milliseconds": round(1e3 * float(np.median(seconds[c.name])), 2),
            "times_adam": round(float(np.median(ratios)), 2),
            "bytes_accessed_per_parameter": round(cost["bytes accessed"] / size, 1),
        }


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    print(
        "optimizer     state B/param  temporary B/param       ms  x optax.adam"
        "  accessed B/param"
    )
    lines = []
    for row in measure(config):
        lines.append(json.dumps(row) + "\n")
        print(
            f"{row['optimizer']:13} {row['state_bytes_per_parameter']:13.2f}  "
            f"{row['temporary_bytes_per_parameter']:17.3f}  "
            f"{row['milliseconds']:7.1f}  {row['times_adam']:12.2f}"
            f"  {row['bytes_accessed_per_parameter']:16.1f}"
        )
    if config.json is not None:
        _ = config.json.write_text("".join(lines))


if __name__ == "__main__":
    main()
