"""What the prox of a regularizer is on an accelerator, compiled here and run nowhere.

    python -m benchmarks.proxes h100 --names group_lasso "group_lasso, metric"

One leaf of moderate shape, in float32. `seconds` are those of the processor that its
compilation took. See benchmarks/compiled.py, which does the same for whole steps.
"""

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

import rmda_jax as rj
from benchmarks._launches import counts
from benchmarks._programs import text
from benchmarks._rows import table
from benchmarks._targets import placed_on
from benchmarks._timing import Row

_r = rj.regularizers
_MATRIX = (256, 512)
# By name: a regularizer of each public factory, and the shape it is compiled for.
PROXES: dict[str, tuple[Any, Any]] = {
    "l1": (_r.l1(), _MATRIX),
    "squared_l2": (_r.squared_l2(), _MATRIX),
    "elastic_net": (_r.elastic_net(), _MATRIX),
    "mcp": (_r.mcp(), _MATRIX),
    "scad": (_r.scad(), _MATRIX),
    "l0": (_r.l0(), _MATRIX),
    "lq": (_r.lq(0.3), _MATRIX),
    "log_sum": (_r.log_sum(), _MATRIX),
    "laplace": (_r.laplace(), _MATRIX),
    "boxed": (_r.boxed(_r.l1(), -0.5, 0.25), _MATRIX),
    "group_lasso": (_r.group_lasso(), _MATRIX),
    "weighted_group_lasso": (_r.weighted_group_lasso(0.7, ()), _MATRIX),
    "sparse_group_lasso": (_r.sparse_group_lasso(), _MATRIX),
    "group_linf": (_r.group_linf(), _MATRIX),
    "group_mcp": (_r.group_mcp(), _MATRIX),
    "group_scad": (_r.group_scad(), _MATRIX),
    "group_l0": (_r.group_l0(), _MATRIX),
    "group_lq": (_r.group_lq(q=0.3), _MATRIX),
    "group_log_sum": (_r.group_log_sum(), _MATRIX),
    "on_groups": (_r.on_groups(_r.laplace(), -1), _MATRIX),
    "tied_group_lasso": (_r.tied_group_lasso((0, 1)), ((512, 256), (256, 512))),
    "on_tied_groups": (_r.on_tied_groups(_r.mcp(), (0, 1)), ((512, 256), (256, 512))),
    "nuclear_norm": (_r.nuclear_norm(), _MATRIX),
    "spectral_mcp": (_r.spectral_mcp(), _MATRIX),
    "on_singular_values": (_r.on_singular_values(_r.elastic_net()), _MATRIX),
    "total_variation": (_r.total_variation(), _MATRIX),
    "fused_lasso": (_r.fused_lasso(), _MATRIX),
    "binary": (_r.binary(), _MATRIX),
    "ternary": (_r.ternary(), _MATRIX),
    "uniform_levels": (_r.uniform_levels(3), _MATRIX),
    "piecewise_affine": (_r.piecewise_affine((-1.0, 0.0, 1.0)), _MATRIX),
    "box": (_r.box(-0.5, 0.25), _MATRIX),
    "l1_ball": (_r.l1_ball(), _MATRIX),
    "l2_ball": (_r.l2_ball(), _MATRIX),
    "simplex": (_r.simplex(), _MATRIX),
    "l_half_ball": (_r.l_half_ball(), (256,)),  # made for a few hundred entries
    "top_k": (_r.top_k(100), _MATRIX),
    "top_groups": (_r.top_groups(0.5), _MATRIX),
    "max_rank": (_r.max_rank(8), _MATRIX),
    "n_m": (_r.n_m(2, 4), _MATRIX),
}
METRIC = ", metric"
NAMES = tuple(name + kind for name in PROXES for kind in ("", METRIC))
COLUMNS = {
    "what": "",
    "kernels": "d",
    "kernels_inside": "d",
    "loops": "d",
    "host_decisions": "d",
    "bytes_per_parameter": ".1f",
    "temporary_bytes_per_parameter": ".2f",
    "seconds": ".1f",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile the prox of regularizers for an accelerator."""

    target: tyro.conf.Positional[Literal["h100", "v5e"]]
    names: tuple[str, ...] = NAMES
    """Factories; with ", metric", the prox in a metric."""
    json: Path | None = None
    """Where to append the rows as JSON lines, each as soon as it is there."""


def rows(target: str, names: Sequence[str]) -> Iterator[Row]:
    """Yield what each prox launches and moves."""
    place = placed_on(target)
    for name in names:
        regularizer, shape = PROXES[name.removesuffix(METRIC)]
        leaf = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
        x = jax.tree.map(leaf, shape, is_leaf=lambda s: isinstance(s[0], int))
        fn, operands = regularizer.prox, (x, leaf(()))
        if name.endswith(METRIC):
            fn, operands = regularizer.metric_prox, (x, leaf(()), x)
        began = time.process_time()
        program = jax.jit(fn).lower(*operands).compile()
        seconds = time.process_time() - began
        found, memory, n = counts(text(program)), program.memory_analysis(), _size(x)
        assert memory is not None  # on every backend that JAX has
        yield {
            "target": target,
            "problem": "prox",
            "what": name,
            **found._asdict(),
            "bytes_per_parameter": found.bytes / n,
            "temporary_bytes_per_parameter": memory.temp_size_in_bytes / n,
            "seconds": seconds,
        }


def _size(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    config, found = tyro.cli(Config, args=args), []
    for row in rows(config.target, config.names):
        found.append(row)
        if config.json is not None:
            with config.json.open("a", encoding="utf-8") as file:
                _ = file.write(f"{json.dumps(row)}\n")
    print(table(found, COLUMNS))


if __name__ == "__main__":
    main()
