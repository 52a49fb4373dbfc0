"""What a function computes whatever its inputs: a partial evaluation of its jaxpr.

Every array is known in part. An entry is known if the inputs cannot change it: a zero
column of a kernel makes a zero feature, and this with a known bias a known activation.
The result of a primitive without a rule is unknown if any entry of its operands is. The
operands of every contraction are kept, for contractions mix hidden units.

Unknown entries are taken to be finite: 0 times an unknown number is 0.
"""

from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax.shrink.interpret._interpreter import RULES, Interpreter, Path, Rule


class Provenance(NamedTuple):
    """What an array is a view of: a leaf, or the result of a contraction."""

    source: "str | Path"  # the leaf's name, or the path of the contraction
    positions: np.ndarray  # of the array's shape: the flat index in the source


class PartialValue(NamedTuple):
    """An array, as far as it is known."""

    value: np.ndarray  # 0 where unknown
    unknown_mask: np.ndarray  # bool: where the inputs may change it
    provenance: Provenance | None = None

    @property
    def zero(self) -> np.ndarray:
        """Where it is known to be 0."""
        return ~self.unknown_mask & (self.value == 0)

    def move(self, fn: Callable[[np.ndarray], np.ndarray]) -> "PartialValue":
        """Return the array that a function makes, which only moves entries."""
        origin = self.provenance
        if origin is not None:
            origin = origin._replace(positions=fn(origin.positions))
        return PartialValue(fn(self.value), fn(self.unknown_mask), origin)


class BiasAdd(NamedTuple):
    """The sum of a contraction's result and a leaf; also their difference.

    The positions have the shape of the sum: which entry of the contraction and which
    of the leaf (flat indices) are its terms.
    """

    leaf: str
    sign: int  # -1 if one is subtracted from the other
    contraction_positions: np.ndarray
    leaf_positions: np.ndarray


class ValueInterpreter(Interpreter[PartialValue]):
    """Finds what is known of all arrays.

    Args:
      wanted: The equations and the numbers of the operands that ``operands`` keeps.
      layers: The scans of which it is asked which iterations change nothing.

    Attributes:
      contractions: What is known of the two operands of each contraction.
      bias_adds: The contractions whose results a leaf is added to.
      reads: How many equations read each leaf and each result of a contraction; to
        move entries, as in a reshape, is not to read them.
      operands: What is known of some operands, by equation and number.
      outputs: What is known of the outputs of the whole jaxpr.
      unchanged: For these scans, which iterations return the carry as it was.
      loop_depth: How many loops and branches the equation lies in. There an equation
        stands for several arrays, or for one that may not be computed.
    """

    def __init__(
        self,
        wanted: Mapping[Path, Collection[int]] | None = None,
        layers: Container[Path] = (),
    ) -> None:
        super().__init__()
        self._wanted, self.layers = wanted or {}, layers
        self.outputs: Sequence[PartialValue] = ()
        self.unchanged: dict[Path, np.ndarray] = {}
        self.operands: dict[tuple[Path, int], PartialValue] = {}
        self.contractions: dict[Path, tuple[PartialValue, PartialValue]] = {}
        self.bias_adds: dict[Path, BiasAdd] = {}
        self.reads: Counter[str | Path] = Counter()
        self.loop_depth = 0

    def constant(self, x: Any) -> PartialValue:
        """Return what is known of a constant: everything."""
        return known(x)

    def eval_eqn(self, eqn: Any, *operands: PartialValue) -> Sequence[PartialValue]:
        """Apply the primitive's rule of values."""
        for number in self._wanted.get(self.path, ()):
            self.operands[self.path, number] = operands[number]
        rules = RULES.get(eqn.primitive.name)
        if rules is None:
            return self.eval_unsupported(eqn, *operands)
        if rules.views:
            return rules.values(self, eqn, *operands)
        return rules.values(self, eqn, *self._read(eqn, operands))

    def eval_unsupported(
        self, eqn: Any, *operands: PartialValue
    ) -> Sequence[PartialValue]:
        """Evaluate an equation all of whose operands are known."""
        return all_or_nothing(self, eqn, *self._read(eqn, operands))

    def _read(
        self, eqn: Any, operands: Sequence[PartialValue]
    ) -> tuple[PartialValue, ...]:
        """Count what an equation reads, keep it if it adds a bias; forget the views."""
        found = [x.provenance for x in operands if x.provenance is not None]
        self.reads.update(origin.source for origin in found)
        name = eqn.primitive.name
        if name in ("add", "sub", "add_any") and len(found) == 2:
            product, leaf = sorted(found, key=lambda x: isinstance(x.source, str))
            if isinstance(leaf.source, str) and not isinstance(product.source, str):
                positions = np.broadcast_arrays(product.positions, leaf.positions)
                sign = -1 if name == "sub" else 1
                self.bias_adds[product.source] = BiasAdd(leaf.source, sign, *positions)
        return tuple(x._replace(provenance=None) for x in operands)


def known(x: Any) -> PartialValue:
    """Return an array that is known, but for infinities and NaN; keys are unknown."""
    if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.extended):
        return unknown(np.shape(x), np.dtype(bool))
    return known_if_finite(np.asarray(x), np.broadcast_to(False, np.shape(x)))


def unknown(shape: tuple[int, ...], dtype: Any) -> PartialValue:
    """Return an array of which nothing is known."""
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = np.dtype(bool)
    zero = np.zeros((), dtype)
    return PartialValue(np.broadcast_to(zero, shape), np.broadcast_to(True, shape))


def known_if_finite(value: np.ndarray, unknown_mask: np.ndarray) -> PartialValue:
    """Return an array that is unknown also where it is not finite.

    0 is taken to stay 0 in products, which infinities and NaN would contradict.
    """
    if jnp.issubdtype(value.dtype, np.inexact):
        unknown_mask = unknown_mask | ~np.isfinite(value)
    if unknown_mask.any():
        value = np.where(unknown_mask, np.zeros((), value.dtype), value)
    return PartialValue(value, unknown_mask)


def with_provenance(x: PartialValue, source: "str | Path") -> PartialValue:
    """Return an array that is all of a leaf, or of the result of a contraction."""
    positions = np.arange(x.value.size, dtype=np.int32).reshape(x.value.shape)
    return x._replace(provenance=Provenance(source, positions))


def computed(
    eqn: Any, operands: Sequence[PartialValue], unknown_mask: np.ndarray
) -> PartialValue:
    """Return the only result of an equation, as `computed_results` does."""
    return computed_results(eqn, operands, [unknown_mask])[0]


def computed_results(
    eqn: Any, operands: Sequence[PartialValue], unknown_masks: Sequence[np.ndarray]
) -> list[PartialValue]:
    """Return the results of an equation, which is run if any of them is known.

    Unknown entries of the operands are 0 when it is run: the caller says by the masks
    which entries of the results they reach.
    """
    if all(mask.all() for mask in unknown_masks):
        return [unknown(x.aval.shape, x.aval.dtype) for x in eqn.outvars]
    # The zeros that stand for unknown entries may give 0/0, which nobody uses.
    with jax.debug_nans(False):
        out = eqn.primitive.bind(*(x.value for x in operands), **eqn.params)
    out = out if eqn.primitive.multiple_results else [out]
    pairs = zip(out, unknown_masks, strict=True)
    return [known_if_finite(np.asarray(x), mask) for x, mask in pairs]


def all_or_nothing(
    interpreter: ValueInterpreter, eqn: Any, *operands: PartialValue
) -> list[PartialValue]:
    """Evaluate an equation if all of its operands are known, else nothing is known."""
    del interpreter
    avals = [x.aval for x in eqn.outvars]
    if any(x.unknown_mask.any() for x in operands) or any(
        not hasattr(a, "dtype") or jnp.issubdtype(a.dtype, jax.dtypes.extended)
        for a in avals
    ):
        return [
            unknown(getattr(a, "shape", ()), getattr(a, "dtype", bool)) for a in avals
        ]
    out = eqn.primitive.bind(*(x.value for x in operands), **eqn.params)
    out = out if eqn.primitive.multiple_results else [out]
    return [
        known_if_finite(np.asarray(x), np.broadcast_to(False, x.shape)) for x in out
    ]


def moved(fn: Callable[[np.ndarray, dict[str, Any]], np.ndarray]) -> Rule:
    """Return the rule of a primitive that only moves entries.

    Args:
      fn: From an array and the parameters of the equation to the moved array.
    """

    def rule(
        interpreter: ValueInterpreter, eqn: Any, x: PartialValue, *_: PartialValue
    ) -> list[PartialValue]:
        del interpreter
        return [x.move(lambda y: fn(y, eqn.params))]

    return rule
