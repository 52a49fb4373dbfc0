"""Try a random network: shrink it, and compare with the original and with the book."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax import shrink
from rmda_jax.specs._names import leaf_names
from tests.shrink._book import Book, Flat
from tests.shrink._frameworks import EVERYWHERE, FAMILIES, FRAMEWORKS, Framework
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
      framework: Whose modules it has; None if it has none.
    """

    book: Book
    flat: Flat
    fn: Callable[..., Any]
    params: Any
    inputs: tuple[Any, ...]
    framework: Framework | None = None

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
    def in_framework(
        cls, framework: Framework, book: Book, rng: np.random.Generator
    ) -> "Network":
        """Draw params and inputs for a book, whose layers are modules."""
        flat = book.params(rng)
        fn, params = framework.make(book)
        values = {}
        for name, x in flat.items():
            slot = framework.slot(name)
            values[slot.leaf] = jnp.asarray(x.T if slot.is_transposed else x)
        leaves = [values[name] for name in leaf_names(params)]
        params = jax.tree.unflatten(jax.tree.structure(params), leaves)
        return cls(book, flat, fn, params, (jnp.asarray(book.inputs(rng)),), framework)

    @classmethod
    def seeded(cls, seed: int) -> "Network":
        """Draw a network, its params and its inputs; a quarter are modules."""
        rng = np.random.default_rng(seed)
        if seed // 10 % 4 < 3:
            return cls.of(drawn(rng), rng)
        framework = FRAMEWORKS[list(FRAMEWORKS)[seed // 40 % len(FRAMEWORKS)]]
        kinds = [*EVERYWHERE, *framework.kinds]
        return cls.in_framework(framework, drawn(rng, kinds, FAMILIES), rng)

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
    # Modules may check shapes, or keep sizes of their own: then they do not run.
    runs = not (plan.for_program or plan.error or plan.conflicts)
    assert runs or plan.for_program or network.framework, str(plan)
    small = shrink.apply(plan, params, rebuilt=not runs)
    program = shrink.program(plan, fn, params, *inputs)
    before = jax.jit(fn)
    wanted = before(params, *inputs)
    assert_close(program(small, *inputs), wanted, "program")
    if runs:
        assert_close(before(small, *inputs), wanted, "function")
    if seed % 10 in (0, 1):
        fewer = network.fewer
        assert_close(program(small, *fewer), before(params, *fewer), "fewer examples")
    # Constants may follow from params that stay: they are fixed, also in training.
    if seed % 10 in (2, 3) and "also in training" not in str(program):
        wanted = shrink.apply(plan, gradient(fn, params, inputs), folds=False)
        found = gradient(program, small, inputs)
        rows = zip(
            leaf_names(params), *map(jax.tree.leaves, (found, wanted)), strict=True
        )
        # A gradient that is zero but for rounding has the rounding of the others.
        scale = max(np.abs(y).max(initial=0) for y in jax.tree.leaves(wanted))
        for name, x, y in rows:
            assert_close(x, y, f"gradient of {name}", scale)
    return plan


def gradient(fn: Callable[..., Any], params: Any, inputs: Sequence[Any]) -> Any:
    """Return that of a number which depends on every output."""

    def loss(params):
        y = fn(params, *inputs)
        return jnp.sum(y * jnp.sin(1.0 + jnp.arange(y.size)).reshape(y.shape))

    return jax.jit(jax.grad(loss))(params)


def assert_close(
    found: Any, wanted: Any, what: str, scale: float | None = None
) -> None:
    """Compare two arrays, by the largest entry if no scale is given."""
    assert found.shape == wanted.shape, f"{what}: {found.shape}, not {wanted.shape}"
    scale = np.abs(wanted).max(initial=0) if scale is None else scale
    error = np.abs(found - wanted).max(initial=0)
    assert error <= TOLERANCE * scale, f"{what}: {error:.1e} of {scale:.1e}"


def stays(network: Network, plan: shrink.Plan) -> list[str]:
    """Name the units that the book lets go, and the plan does not.

    A plan for the function itself keeps the last unit of a set, and one for a program
    does where the book says so.
    """
    found = []
    for hidden in network.book.sets:
        places = [p for p in hidden.places() if p.leaf not in network.book.closed]
        if not places:
            continue
        leaf, axis, positions = places[0]
        if network.framework is not None:
            slot = network.framework.slot(leaf)
            leaf, axis = slot.leaf, 1 - axis if slot.is_transposed else axis
        gone = ~np.isin(positions, plan.kept[leaf][axis]).any(axis=1)
        missed = hidden.can_go(network.flat, plan.for_program) & ~gone
        needs_one = any(event.name == "one stays" for event in hidden.history)
        is_last = (needs_one or not plan.for_program) and (~gone).sum() == 1
        if missed.any() and not is_last:
            units = ", ".join(map(str, np.flatnonzero(missed)))
            found.append(f"{units} of {leaf}, axis {axis}")
    return found
