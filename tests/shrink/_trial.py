"""Try a random network: shrink it, and compare with the original and with the book."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax import shrink
from tests.shrink._book import Book, Flat
from tests.shrink._kinds import drawn
from tests.shrink._networks import nested, run

TOLERANCE = 1e-9  # of the largest entry, in float64


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with params and inputs, and what its book says.

    Attributes:
      book: Its units.
      flat: All arrays by name, also those that the function closes over.
      fn: Called as ``fn(params, *inputs)``.
      params: Those of ``flat`` that are params.
      inputs: The examples, and a random key if there is dropout.
    """

    book: Book
    flat: Flat
    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]

    @classmethod
    def of(cls, book: Book, rng: np.random.Generator, zeros: bool = True) -> "Network":
        """Draw params, with zeros or without, and inputs for a book."""
        flat = book.params(rng, zeros)
        params = {name: x for name, x in flat.items() if name not in book.closed}
        closed = {name: flat[name] for name in book.closed}

        def fn(params, x, key=None):
            # NumPy's arrays are sliced without a compiler, but not indexed by tracers.
            arrays = jax.tree.map(jnp.asarray, {**params, **closed})
            return run(book.layers, nested(arrays), x, key)

        key = (jax.random.key(0),) if book.needs_key else ()
        return cls(book, flat, fn, params, (jnp.asarray(book.inputs(rng)), *key))

    @classmethod
    def seeded(cls, seed: int) -> "Network":
        """Draw a network, its params and its inputs."""
        rng = np.random.default_rng(seed)
        return cls.of(drawn(rng), rng)

    @property
    def fewer(self) -> tuple[Any, ...]:
        """The inputs, but for the first example."""
        return (self.inputs[0][1:], *self.inputs[1:])


def check_program(network: Network, seed: int) -> shrink.Plan:
    """Plan, and compare what is left with the network; return the plan.

    What is compared beside the outputs of the program, the seed says: of every second
    plan those of the function itself; of a fifth those of fewer examples; of another
    fifth the gradient.
    """
    fn, params, inputs = network.fn, network.params, network.inputs
    plan = shrink.plan(fn, params, *inputs, for_program=bool(seed % 2))
    small, program = (
        shrink.apply(plan, params),
        shrink.program(plan, fn, params, *inputs),
    )
    before = jax.jit(fn)
    wanted = before(params, *inputs)
    assert_close(program(small, *inputs), wanted, "program")
    if not plan.for_program:
        assert_close(before(small, *inputs), wanted, "function")
    if seed % 10 in (0, 1):
        fewer = network.fewer
        assert_close(program(small, *fewer), before(params, *fewer), "fewer examples")
    # Constants may follow from params that stay: they are fixed, also in training.
    if seed % 10 in (2, 3) and "also in training" not in str(program):
        wanted = shrink.apply(plan, gradient(fn, params, inputs), folds=False)
        for name, found in gradient(program, small, inputs).items():
            assert_close(found, wanted[name], f"gradient of {name}")
    return plan


def gradient(fn: Callable[..., Any], params: Any, inputs: Sequence[Any]) -> Any:
    """Return that of a number which depends on every output."""

    def loss(params):
        y = fn(params, *inputs)
        return jnp.sum(y * jnp.sin(1.0 + jnp.arange(y.size)).reshape(y.shape))

    return jax.jit(jax.grad(loss))(params)


def assert_close(found: Any, wanted: Any, what: str) -> None:
    scale = np.abs(wanted).max(initial=0)
    error = np.abs(found - wanted).max(initial=0)
    assert error <= TOLERANCE * scale, f"{what}: {error:.1e} of {scale:.1e}"


def stays(network: Network, plan: shrink.Plan) -> list[str]:
    """Name the units that the book lets go, and the plan does not.

    A plan for the function itself keeps the last unit of a set.
    """
    found = []
    for hidden in network.book.sets:
        places = [p for p in hidden.places() if p.leaf in plan.kept]
        if not places:
            continue
        leaf, axis, positions = places[0]
        gone = ~np.isin(positions, plan.kept[leaf][axis]).any(axis=1)
        missed = hidden.can_go(network.flat, plan.for_program) & ~gone
        is_last = not plan.for_program and (~gone).sum() == 1
        if missed.any() and not is_last:
            units = ", ".join(map(str, np.flatnonzero(missed)))
            found.append(f"{units} of {leaf}, axis {axis}")
    return found
