"""The mask of the k largest scores, as RigL needs it: by bisection, and by a sort.

    python -m benchmarks.masks

The two masks are compared on scores without ties, where there is one answer.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks._rows import Options, publish
from benchmarks._timing import Row
from rmda_jax.regularizers.solvers._top_k import keep_largest

NAME = "masks"
COLUMNS = {
    "what": "",
    "problem": "",
    "milliseconds": ".2f",
    "times_argsort": ".4f",
    "times_argsort_iqr": ".4f",
    "equal": "",
}
OURS, SORT = "keep_largest", "argsort"


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Measure the mask of the k largest scores."""

    size: int = 3 * 3 * 512 * 512
    kept: float = 0.1
    """Share of the scores that the mask keeps."""


def by_argsort(score: jax.Array, k: int) -> jax.Array:
    """Flag the k largest scores after sorting all."""
    order = jnp.argsort(-score)
    return jnp.zeros(score.shape, bool).at[order[:k]].set(True)


def measure(config: Config) -> Iterator[Row]:
    """Return the time of both masks."""
    rng = np.random.default_rng(0)
    # Distinct: float32 has every integer below 2^24.
    score = jnp.asarray(rng.permutation(config.size) + 1, jnp.float32)
    k = round(config.kept * config.size)
    ours = jax.jit(lambda score: keep_largest(score, k, (0,)))
    sort = jax.jit(lambda score: by_argsort(score, k))
    times = config.referee().race(
        {OURS: lambda: ours(score), SORT: lambda: sort(score)}
    )
    equal = bool(jnp.array_equal(ours(score), sort(score)))
    for name in (OURS, SORT):
        row = {"what": name, "problem": f"{config.size}", "equal": equal}
        yield row | times.row(name, argsort=SORT)


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)


if __name__ == "__main__":
    main()
