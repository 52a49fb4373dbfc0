"""What a function computes whatever its inputs: a partial evaluation of its jaxpr.

Every value is known in part. An entry is known if the inputs cannot change it: a zero
column of a kernel makes a zero feature, this with a known bias a known activation. What
is not understood is unknown if any of its operands is. As the jaxpr is followed, the
operands of every product (`Site`) are kept, for there hidden units are mixed.

What is unknown is taken to be finite: 0 times it is 0.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from rmda_jax.shrink import _control
from rmda_jax.shrink._flow import RULES, Path, Rule


class Origin(NamedTuple):
    """What a value is a view of: a leaf, or the result of a product."""

    of: "str | Path"
    places: np.ndarray  # like the value: where in it each entry lies


class Known(NamedTuple):
    """An array, as far as it is known."""

    value: np.ndarray  # 0 where unknown
    varies: np.ndarray  # bool: where the inputs may change it
    origin: Origin | None = None

    @property
    def zero(self) -> np.ndarray:
        """Where it is known to be 0."""
        return ~self.varies & (self.value == 0)

    def map(self, move: Callable[[np.ndarray], np.ndarray]) -> "Known":
        """Return its entries elsewhere, of unknown origin."""
        return Known(move(self.value), move(self.varies))


class Site(NamedTuple):
    """A product: its equation and what is known of its operands."""

    eqn: Any
    operands: tuple[Known, Known]


class Sum(NamedTuple):
    """A leaf that is added to the result of a product, and to nothing else."""

    leaf: str
    sign: int
    site_index: np.ndarray  # like the sum: where in the product each term lies
    leaf_index: np.ndarray


class Evaluation:
    """Follows a jaxpr; `sites`, `sums` and `reads` are what it finds."""

    def __init__(self) -> None:
        self.sites: dict[Path, Site] = {}
        self.sums: dict[Path, Sum] = {}
        self.reads: Counter[str | Path] = Counter()
        self.path: Path = ()
        self.loops = 0

    def run(
        self, jaxpr: Any, consts: Sequence[Known], args: Sequence[Known]
    ) -> list[Known]:
        """Return what is known of what a jaxpr puts out."""
        values: dict[Any, Known] = {}
        values.update(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Known:
            return (
                constant(atom.val) if isinstance(atom, core.Literal) else values[atom]
            )

        for eqn in jaxpr.eqns:
            caller, self.path = self.path, (*self.path, id(eqn))
            results = self.evaluate(eqn, *map(read, eqn.invars))
            self.path = caller
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def closed(self, closed: Any, args: Sequence[Known]) -> list[Known]:
        """Return what is known of what a closed jaxpr puts out."""
        return self.run(closed.jaxpr, [constant(c) for c in closed.consts], args)

    def evaluate(self, eqn: Any, *operands: Known) -> Sequence[Known]:
        """Return what is known of the results of one equation."""
        name = eqn.primitive.name
        rule = RULES.get(name)
        if name in MOVES:
            return [_moved(MOVES[name], eqn.params, operands[0])]
        if name in IDENTITIES:
            return operands
        if name == "convert_element_type":
            x = operands[0]
            cast = finite(x.value.astype(eqn.params["new_dtype"]), x.varies)
            return [cast._replace(origin=x.origin)]
        if rule is _control.call:
            for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
                inner = eqn.params.get(key)
                if hasattr(inner, "jaxpr"):
                    return self.closed(inner, operands)
                if inner is not None:
                    return self.run(inner, [], operands)
        self.note(eqn, operands)
        operands = tuple(x._replace(origin=None) for x in operands)
        return EVALUATIONS.get(rule, opaque)(self, eqn, *operands)

    def note(self, eqn: Any, operands: Sequence[Known]) -> None:
        """Count what reads leaves and products, and keep the sums of the two."""
        found = [x.origin for x in operands if x.origin is not None]
        self.reads.update(origin.of for origin in found)
        name = eqn.primitive.name
        if name in ("add", "sub", "add_any") and len(found) == 2:
            site, leaf = sorted(found, key=lambda origin: isinstance(origin.of, str))
            if isinstance(leaf.of, str) and not isinstance(site.of, str):
                index = np.broadcast_arrays(site.places, leaf.places)
                sign = -1 if name == "sub" else 1
                self.sums[site.of] = Sum(leaf.of, sign, *index)


def constant(x: Any) -> Known:
    """Return a constant; one that is no number is unknown."""
    if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended):
        return unknown(np.shape(x), np.dtype(bool))
    return finite(np.asarray(x), np.broadcast_to(False, np.shape(x)))


def unknown(shape: tuple[int, ...], dtype: Any) -> Known:
    """Return an array of which nothing is known."""
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = np.dtype(bool)
    zero = np.zeros((), dtype)
    return Known(np.broadcast_to(zero, shape), np.broadcast_to(True, shape))


def finite(value: np.ndarray, varies: np.ndarray) -> Known:
    """Return a value, unknown where it is not finite."""
    if jnp.issubdtype(value.dtype, np.inexact):
        varies = varies | ~np.isfinite(value)
    if varies.any():
        value = np.where(varies, np.zeros((), value.dtype), value)
    return Known(value, varies)


def numbered(x: Known, of: "str | Path") -> Known:
    """Return a value that remembers where it comes from."""
    index = np.arange(x.value.size, dtype=np.int32).reshape(x.value.shape)
    return x._replace(origin=Origin(of, index))


def computed(eqn: Any, operands: Sequence[Known], varies: np.ndarray) -> Known:
    """Return the result of an equation, run where anything of it is known."""
    aval = eqn.outvars[0].aval
    if varies.all():
        return unknown(aval.shape, aval.dtype)
    # Where it varies stand zeros, of which 0/0 may come, which nobody uses.
    with jax.debug_nans(False):
        out = eqn.primitive.bind(*(x.value for x in operands), **eqn.params)
    return finite(np.asarray(out[0] if eqn.primitive.multiple_results else out), varies)


def opaque(ev: Evaluation, eqn: Any, *operands: Known) -> list[Known]:
    """Evaluate what depends on no input; nothing is known of anything else."""
    del ev
    avals = [x.aval for x in eqn.outvars]
    if any(x.varies.any() for x in operands) or any(
        not hasattr(a, "dtype") or jnp.issubdtype(a.dtype, jax.dtypes.extended)
        for a in avals
    ):
        return [
            unknown(getattr(a, "shape", ()), getattr(a, "dtype", bool)) for a in avals
        ]
    out = eqn.primitive.bind(*(x.value for x in operands), **eqn.params)
    out = out if eqn.primitive.multiple_results else [out]
    return [finite(np.asarray(x), np.broadcast_to(False, x.shape)) for x in out]


def _moved(move: Callable[..., np.ndarray], p: dict[str, Any], x: Known) -> Known:
    origin = x.origin and Origin(x.origin.of, move(x.origin.places, p))
    return Known(move(x.value, p), move(x.varies, p), origin)


def _broadcast(x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    wide = np.ones(len(p["shape"]), int)
    wide[list(p["broadcast_dimensions"])] = x.shape
    return np.broadcast_to(x.reshape(wide), p["shape"])


def _sliced(x: np.ndarray, p: dict[str, Any]) -> np.ndarray:
    strides = p["strides"] or [1] * x.ndim
    return x[tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]


MOVES: dict[str, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    "transpose": lambda x, p: x.transpose(p["permutation"]),
    "reshape": lambda x, p: x.reshape(p["new_sizes"]),
    "squeeze": lambda x, p: x.squeeze(p["dimensions"]),
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "rev": lambda x, p: np.flip(x, p["dimensions"]),
    "tile": lambda x, p: np.tile(x, p["reps"]),
}

IDENTITIES = frozenset(
    "copy copy_p stop_gradient optimization_barrier sharding_constraint pvary".split()
)

Evaluate = Callable[..., list[Known]]
EVALUATIONS: dict[Rule | None, Evaluate] = {}


def evaluates(*rules: Rule) -> Callable[[Evaluate], Evaluate]:
    """Register the evaluation of the primitives that share a rule for their axes."""

    def register(fn: Evaluate) -> Evaluate:
        EVALUATIONS.update(dict.fromkeys(rules, fn))
        return fn

    return register
