"""The group lasso's prox in a diagonal metric: how exact it is, and what it costs.

    python -m benchmarks.metric

It is the subproblem of every step of RAMDA, ProxGen and ProxSSI. The truth is a
bisection in float64, and the error that of the worst group, relative to the norm of its
centre. Metrics are those that RAMDA itself comes to (1, 10 and 100 steps on a noisy
quadratic), and lognormal ones, with the product of metric and centre in proportion to
the metric, as in RAMDA, or independent of it, which is harder. Time is in units of a
plain prox of the same array.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import rmda_jax as rj
from benchmarks._rows import Options, publish
from benchmarks._timing import Contestant, Row

NAME = "metric"
COLUMNS = {
    "what": "",
    "problem": "",
    "error": ".1e",
    "zero_groups": ".0%",
    "milliseconds": ".2f",
    "times_prox": ".2f",
    "times_prox_iqr": ".2f",
}
REGULARIZER = rj.group_lasso(group_axes=-2)
PROX = "plain prox"
BISECTIONS = 60


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Measure the metric prox on the kernel of a 3x3 convolution."""

    channels: int = 512
    steps: tuple[int, ...] = (1, 10, 100)
    """Of RAMDA, after which its subproblem is taken."""
    strength: float = 5e-3
    """Of the regularizer in those."""


class Subproblem(NamedTuple):
    """The arguments of a metric prox."""

    z: jax.Array
    d: jax.Array
    step_size: jax.Array


def traces(
    shape: tuple[int, ...], steps: Sequence[int], strength: float, seed: int = 0
) -> dict[str, Subproblem]:
    """Return the subproblems of some of RAMDA's steps on a noisy quadratic.

    Half of the groups are zero at its minimum, and curvatures are lognormal.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    curvature = jnp.exp(jax.random.normal(keys[0], shape))
    alive = jnp.arange(shape[-2]) % 2 == 0
    target = 0.1 * alive[:, None] * jax.random.normal(keys[1], shape)
    params = 0.02 * jax.random.normal(keys[2], shape)
    optimizer = rj.ramda(0.01, REGULARIZER, strength, averaging=0.1)

    @jax.jit
    def run(params: jax.Array, n_steps: int) -> Subproblem:
        def step(i, carry):
            params, state = carry
            noise = jax.random.normal(jax.random.fold_in(keys[3], i), shape)
            grads = curvature * (params - target) + 0.02 * noise
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        carry = params, optimizer.init(params)
        _, state = jax.lax.fori_loop(0, n_steps, step, carry)
        center, step_size, metric = state.prox_arguments()
        return Subproblem(center, metric, step_size)

    return {f"ramda, step {n}": run(params, n) for n in steps}


def lognormal(
    shape: tuple[int, ...], sigma: float, independent: bool, seed: int = 0
) -> Subproblem:
    """Return a subproblem with a lognormal metric; groups have very unlike scales."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    d = np.exp(sigma * draw(*shape))
    z = draw(*shape) * np.exp(draw(shape[-2], 1))
    z = z / d if independent else z
    norms = np.linalg.norm(_by_group(d * z), axis=1)
    step_size = np.quantile(norms, 0.3) / np.sqrt(z.size / len(norms))
    return Subproblem(jnp.asarray(z), jnp.asarray(d), jnp.float32(step_size))


def solution(problem: Subproblem) -> np.ndarray:
    """Return the metric prox in float64, a row for each group, by bisection."""
    z, d = (_by_group(np.asarray(x, np.float64)) for x in problem[:2])
    k = float(problem.step_size) * np.sqrt(z.shape[1])
    b = d * z
    low, high = np.zeros(len(z)), np.linalg.norm(z, axis=1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        # The norm of the solution if its norm were `middle`, over `middle`.
        too_small = np.linalg.norm(b / (d * middle[:, None] + k), axis=1) > 1
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    r = ((low + high) / 2 * (np.linalg.norm(b, axis=1) > k))[:, None]
    return r * b / (d * r + k)


def measure(config: Config) -> Iterator[Row]:
    """Return error and time for every metric."""
    shape = (3, 3, config.channels, config.channels)
    cases = traces(shape, config.steps, config.strength)
    for sigma in (1, 3):
        for independent in (False, True):
            relation = "independent" if independent else "proportional"
            case = lognormal(shape, sigma, independent)
            cases[f"lognormal, sigma {sigma}, {relation}"] = case
    metric_prox = jax.jit(lambda p: REGULARIZER.metric_prox(p.z, p.step_size, p.d))
    prox = jax.jit(lambda p: REGULARIZER.prox(p.z, p.step_size))
    plain = next(iter(cases.values()))
    contestants: dict[str, Contestant] = {PROX: lambda: prox(plain)}
    for name, case in cases.items():
        contestants[name] = lambda case=case: metric_prox(case)
    times = config.referee().race(contestants)
    for name in contestants:
        row: Row = {"what": name, "problem": "x".join(map(str, shape))}
        if name in cases:
            x = _by_group(np.asarray(metric_prox(cases[name]), np.float64))
            z = _by_group(np.asarray(cases[name].z, np.float64))
            error = np.linalg.norm(x - solution(cases[name]), axis=1)
            row["error"] = float(np.max(error / np.linalg.norm(z, axis=1)))
            row["zero_groups"] = float(np.mean(~x.any(axis=1)))
        yield row | times.row(name, prox=PROX)


def _by_group(x: np.ndarray) -> np.ndarray:
    """Return a matrix with a row for each group."""
    return np.moveaxis(x, -2, 0).reshape(x.shape[-2], -1)


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)


if __name__ == "__main__":
    main()
