"""What it takes to compile an optimizer step: seconds, kernels, and program size.

    python -m benchmarks.compile

A tree of many leaves makes a program of many kernels; on a GPU each of them has to be
launched. Seconds are from tracing to the executable, without a compilation cache.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import optax
import tyro

from benchmarks._problems import (
    ADAM,
    OPTIMIZERS,
    Params,
    fill,
    many_leaves,
    shapes,
    size,
)
from benchmarks._programs import lower_step, n_instructions, n_kernels, text
from benchmarks._rows import Options, publish
from benchmarks._timing import Row

NAME = "compile"
COLUMNS = {
    "what": "",
    "problem": "",
    "leaves": "d",
    "seconds": ".2f",
    "times_adam": ".2f",
    "times_adam_iqr": ".2f",
    "kernels": "d",
    "instructions": "d",
    "kilobytes": ".0f",
}


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Measure the compilation of optimizer steps."""

    rounds: int = 3
    networks: tuple[str, ...] = ("resnet50",)
    leaves: int = 100
    """Of a made-up tree, of 100 x 100 kernels."""
    optimizers: tuple[str, ...] = (ADAM, "rmda", "ramda", "proxgen")


def compile_step(
    optimizer: optax.GradientTransformation, params: Params
) -> jax.stages.Compiled:
    """Trace a step and compile it."""
    return lower_step(
        optimizer, params, jax.eval_shape(optimizer.init, params)
    ).compile()


def measure(config: Config) -> Iterator[Row]:
    """Return what the steps take to compile."""
    referee = config.referee()
    trees = {network: shapes(network) for network in config.networks}
    trees[f"{config.leaves} leaves"] = many_leaves(config.leaves, 10_000)
    for problem, tree in trees.items():
        params = fill(tree, seed=0)
        programs = {}

        def turn(name: str, params: Params = params, programs: dict = programs) -> None:
            programs[name] = compile_step(OPTIMIZERS[name](), params)

        times = referee.race(
            {name: lambda name=name: turn(name) for name in config.optimizers},
            warm=False,
        )
        for name, program in programs.items():
            row = times.row(name, adam=ADAM)
            hlo = text(program)
            yield {
                "what": name,
                "problem": problem,
                "parameters": size(params),
                "leaves": len(jax.tree.leaves(params)),
                "seconds": row.pop("milliseconds") / 1e3,
                **row,
                "kernels": n_kernels(hlo),
                "instructions": n_instructions(hlo),
                "kilobytes": len(hlo) / 1e3,
            }


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)


if __name__ == "__main__":
    main()
