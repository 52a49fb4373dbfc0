"""All methods on the same batches, and what is measured of them."""

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmda_jax as rj
from examples.identification.methods import (
    DUAL_AVERAGING,
    REGULARIZER,
    Setting,
    followed_gradient,
)
from examples.identification.problem import STRENGTH, Problem

BATCH_SIZE = 32
RECORD_EVERY = 10  # steps
Key = TypeVar("Key", bound=Hashable)


class Entry(NamedTuple):
    """A method, tried with several settings at once."""

    method: str
    make: Callable[[Setting], optax.GradientTransformation]
    settings: Setting  # of arrays with a leading axis


class Record(NamedTuple):
    """What is measured at one step; with leading axes in the end.

    What is measured is the structured iterate: of RMDA and RAMDA `structured_params`,
    of the others the params. The last four are NaN where no gradient is followed.
    """

    wrong_groups: jax.Array  # zero in one of iterate and optimum, not in the other
    rows_kept: jax.Array
    distance: jax.Array  # of the iterate from the optimum
    certificate: jax.Array  # how far from stationary, by the true gradient
    gradient_error: jax.Array  # |the gradient that the step followed - the true one|
    own_certificate: jax.Array  # how far from stationary, by the gradient followed
    own_margin: jax.Array  # how safely zero rows stay zero, by that gradient


def stack(settings: list[Setting]) -> Setting:
    """Return settings as one, of arrays with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.asarray(leaves), *settings)


def simulate(
    problem: Problem,
    entries: Mapping[Key, Entry],
    seeds: jax.Array,
    n_steps: int,
    drift: tuple[Problem, int] | None = None,
) -> dict[Key, Record]:
    """Run all methods, from 0 and on the same batches; to be compiled by the caller.

    Args:
      problem: What the gradients are of; arrays of float32, which may be traced.
      entries: The methods, by any name.
      seeds: Shape (n,). They differ in the batches and in the noise on the inputs.
      n_steps: A multiple of `RECORD_EVERY`.
      drift: Another problem with the same inputs, and at which step it comes.

    Returns:
      A record for every name, with the axes settings, seeds and time.
    """

    def at(t: jax.Array) -> Problem:
        if drift is None:
            return problem
        later, start = drift
        return jax.tree.map(lambda a, b: jnp.where(t < start, a, b), problem, later)

    def run_seed(seed: jax.Array) -> dict[Key, Record]:
        key = jax.random.key(seed)

        def step(carry: dict[Key, Any], t: jax.Array) -> tuple[dict[Key, Any], None]:
            which, noise = jax.random.split(jax.random.fold_in(key, t))
            n = len(problem.inputs)
            batch = jax.random.randint(which, (BATCH_SIZE,), 0, n)
            inputs, targets = problem.inputs[batch], at(t).targets[batch]
            inputs += problem.noise * jax.random.normal(noise, inputs.shape)
            params = {name: params for name, (_, params, _) in carry.items()}
            grads = gradients(inputs, targets, params)
            return {
                k: advance(entries[k], grads[k], *carry[k][1:]) for k in carry
            }, None

        def steps(carry: dict[Key, Any], start: jax.Array) -> tuple[Any, Any]:
            carry, _ = jax.lax.scan(step, carry, start + jnp.arange(RECORD_EVERY))
            truth = at(start + RECORD_EVERY - 1)
            return carry, {
                name: jax.vmap(functools.partial(measure, truth, entry.method))(
                    *carry[name]
                )
                for name, entry in entries.items()
            }

        carry = {name: begin(entry, problem.optimum) for name, entry in entries.items()}
        starts = RECORD_EVERY * jnp.arange(n_steps // RECORD_EVERY)
        return jax.lax.scan(steps, carry, starts)[1]

    records = jax.vmap(run_seed)(seeds)
    return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), records)


def begin(entry: Entry, like: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    """Return params before, params and state of every setting, at 0."""
    zeros = jnp.zeros_like(like)
    state = jax.vmap(lambda s: entry.make(s).init(zeros))(entry.settings)
    params = jnp.zeros((len(entry.settings.learning_rate), *zeros.shape))
    return params, params, state


def advance(
    entry: Entry, grads: jax.Array, params: jax.Array, state: Any
) -> tuple[jax.Array, jax.Array, Any]:
    """Return params before, params and state of every setting after one step."""

    def update(s: Setting, g: jax.Array, x: jax.Array, state: Any) -> tuple[Any, Any]:
        updates, state = entry.make(s).update(g, state, x)
        return optax.apply_updates(x, updates), state

    return params, *jax.vmap(update)(entry.settings, grads, params, state)


def gradients(
    inputs: jax.Array, targets: jax.Array, params: dict[Key, jax.Array]
) -> dict[Key, jax.Array]:
    """Return the gradients at all params, by two products for all of them.

    Args:
      inputs: Shape (b, 40).
      targets: Shape (b, 3).
      params: Shape (settings, 40, 3) each, as the gradients.
    """
    together = jnp.concatenate(list(params.values()))
    errors = jnp.einsum("bi,sio->bso", inputs, together) - targets[:, None]
    grads = jnp.einsum("bi,bso->sio", inputs, errors) / len(inputs)
    ends = np.cumsum([len(x) for x in params.values()])
    return dict(zip(params, jnp.split(grads, ends[:-1]), strict=True))


def measure(
    problem: Problem, method: str, before: jax.Array, params: jax.Array, state: Any
) -> Record:
    """Return the record of the step that led from `before` to `params`."""
    followed = followed_gradient(method, params, state)
    if method in DUAL_AVERAGING:
        iterate = rj.structured_params(state, REGULARIZER)
        own_certificate = rj.metrics.stationarity(state, REGULARIZER)
        own_margin = rj.metrics.margin(state, REGULARIZER)
    else:
        iterate = params
        own_certificate = REGULARIZER.subgradient_distance(iterate, -followed, STRENGTH)
        own_margin = REGULARIZER.margin(iterate, -followed, STRENGTH)
    support = REGULARIZER.support(iterate)
    return Record(
        wrong_groups=rj.metrics.support_distance(
            support, REGULARIZER.support(problem.optimum)
        ),
        rows_kept=jnp.sum(support),
        distance=jnp.linalg.norm(iterate - problem.optimum),
        certificate=REGULARIZER.subgradient_distance(
            iterate, -problem.gradient(iterate), STRENGTH
        ),
        gradient_error=jnp.linalg.norm(followed - problem.gradient(before)),
        own_certificate=own_certificate,
        own_margin=own_margin,
    )
