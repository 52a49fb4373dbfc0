"""What an optimizer step is on an accelerator, compiled here and run nowhere.

    python -m benchmarks.compiled --target h100 --tree resnet50

XLA's compilers need no device, see benchmarks/_targets.py. A row has what the program
launches and moves; no time is measured. `estimated_us` is the bytes at the bandwidth of
the data sheet, and two microseconds a kernel, as if nothing overlapped. Of the methods
with a metric it is that of a step whose roots need no turn of their one loop, and the
question to the host whether they do is not counted; of `rigl` it is that of a step that
leaves the masks as they are. `turned` is what is in loops and branches with every turn
of a loop of known length, where the other figures count one.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import optax
import tyro

import rmda_jax as rj
from benchmarks import _trees
from benchmarks._launches import counts
from benchmarks._problems import ADAM, BUDGETED, GROUPS, OPTIMIZERS, STRENGTH, size
from benchmarks._programs import lower_step, text
from benchmarks._rows import table
from benchmarks._targets import TARGETS, placed_on, shared_by
from benchmarks._timing import Row

_SGD = optax.sgd(0.1, momentum=0.9)
STEPS: dict[str, Callable[[], optax.GradientTransformation]] = {
    **OPTIMIZERS,
    **BUDGETED,
    "rmda, restarts": lambda: rj.rmda(0.1, GROUPS, STRENGTH, restart_steps=(10, 20)),
    "proxsgd_adaptive": lambda: rj.proxsgd_adaptive(1e-3, GROUPS, STRENGTH),
    "latent": lambda: rj.latent(_SGD, GROUPS, STRENGTH),
}
# All that its loops do is in a branch, which most steps do not take.
BRANCHED = {"rigl"}
# Their one loop turns only where the steps before it leave a root unsolved.
ONE_LOOP = {"ramda", "proxgen", "proxssi", "proxsgd_adaptive"}
COLUMNS = {
    "what": "",
    "problem": "",
    "kernels": "d",
    "kernels_inside": "d",
    "kernels_turned": "d",
    "loops": "d",
    "host_decisions": "d",
    "copies": "d",
    "collectives": "d",
    "bytes_per_parameter": ".1f",
    "bytes_inside_per_parameter": ".1f",
    "bytes_turned_per_parameter": ".1f",
    "temporary_bytes_per_parameter": ".2f",
    "estimated_us": ".0f",
    "times_adam": ".2f",
}
_LAUNCH = 2e-6  # seconds


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile optimizer steps for an accelerator, and count what they launch."""

    target: Literal["h100", "v5e"] = "h100"
    tree: Literal["small", "resnet50", "gpt2"] = "small"
    optimizers: tuple[str, ...] = (
        *(ADAM, "optax.sgd", "rmda", "rmda, restarts", "rmda, l1", "proxsgd"),
    )
    devices: int = 1
    """How many devices share the params, each with a part of the last axis."""
    json: Path | None = None
    """Where to write the rows as JSON lines."""


def rows(
    target: str, tree: str, optimizers: Sequence[str], n_devices: int = 1
) -> Iterator[Row]:
    """Yield what each step launches and moves, on each device if there are several."""
    alone, adam = placed_on(target), None
    place = shared_by(target, n_devices) if n_devices > 1 else lambda _: alone
    params = _trees.params(tree, place)
    for name in optimizers:
        program = _step(STEPS[name](), params, place)
        found, memory = counts(text(program)), program.memory_analysis()
        assert memory is not None  # on every backend that JAX has
        moved = found.bytes - found.bytes_inside
        seconds = moved / TARGETS[target].bandwidth + _LAUNCH * found.kernels
        row = {
            "what": name,
            "problem": tree if n_devices == 1 else f"{tree} on {n_devices}",
            "target": target,
            **found._asdict(),
            "bytes_per_parameter": found.bytes / size(params),
            "bytes_inside_per_parameter": found.bytes_inside / size(params),
            "bytes_turned_per_parameter": found.bytes_turned / size(params),
            "temporary_bytes_per_parameter": memory.temp_size_in_bytes / size(params),
        }
        # How often a loop turns, a program does not say.
        ordinary = name in BRANCHED or (name in ONE_LOOP and found.loops == 1)
        if ordinary or not found.loops:
            row["estimated_us"] = 1e6 * seconds
            adam = seconds if name == ADAM else adam
            row["times_adam"] = seconds / adam if adam else None
        yield row


def _step(
    optimizer: optax.GradientTransformation,
    params: Any,
    place: Callable[[tuple[int, ...]], Any],
) -> jax.stages.Compiled:
    """Compile a step on devices of the target."""
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x.shape)),
        jax.eval_shape(optimizer.init, params),
    )
    return lower_step(optimizer, params, state).compile()


def main(args: Sequence[str] | None = None) -> None:
    """Print the table, and save the lines if a file is named."""
    config = tyro.cli(Config, args=args)
    found = list(rows(config.target, config.tree, config.optimizers, config.devices))
    if config.json is not None:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{json.dumps(row)}\n" for row in found)
        _ = config.json.write_text(lines, "utf-8")
    print(table(found, COLUMNS))


if __name__ == "__main__":
    main()
