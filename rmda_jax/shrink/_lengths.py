"""How long axes are while units die: polynomials of how many units are alive.

An axis is a product of dims and a dim may be a sum of index sets (a concatenation), so
that the size of an array is a sum of products of numbers of alive units.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax.shrink.interpret._index_sets import Axis, IndexSet

Polynomial: TypeAlias = Mapping[tuple[int, ...], int]
"""From products of variables, by their sorted numbers, to their coefficients."""

ZERO: Polynomial = {}


def constant(value: int) -> Polynomial:
    """Return a polynomial of degree 0."""
    return {(): value}


def plus(summands: Iterable[Polynomial]) -> Polynomial:
    """Return a sum."""
    total: Counter[tuple[int, ...]] = Counter()
    for summand in summands:
        total.update(summand)
    return total


def times(factors: Iterable[Polynomial]) -> Polynomial:
    """Return a product."""
    product = constant(1)
    for factor in factors:
        found: Counter[tuple[int, ...]] = Counter()
        for a, m in product.items():
            for b, n in factor.items():
                found[tuple(sorted(a + b))] += m * n
        product = found
    return product


def value_at(polynomial: Polynomial, variables: np.ndarray) -> int:
    """Return the value, exactly."""
    return sum(
        coefficient * math.prod(int(variables[i]) for i in product)
        for product, coefficient in polynomial.items()
    )


class Lengths:
    """The lengths of axes, and the sizes of arrays.

    Args:
      variables: The number of the variable that counts the alive units of an atom; all
        units of other atoms stay.
    """

    def __init__(self, variables: Mapping[IndexSet, int]) -> None:
        self._variables = variables

    def size(self, axes: Iterable[Axis]) -> Polynomial:
        """Return how many entries an array with these axes has."""
        return times(self.length(axis) for axis in axes)

    def length(self, axis: Axis) -> Polynomial:
        """Return the length of an axis."""
        return times(
            constant(size) if index_set is None else self._units(index_set)
            for index_set, size in axis
        )

    def _units(self, index_set: IndexSet) -> Polynomial:
        root = index_set.root
        if root.kind == "atom":
            variable = self._variables.get(root)
            return constant(root.size) if variable is None else {(variable,): 1}
        if root.kind == "digit":
            return constant(root.size)
        combine = times if root.kind == "product" else plus
        return combine(self._units(part) for part in root.parts)


class Terms(NamedTuple):
    """A polynomial in arrays, to be evaluated under `jax.jit` in a few operations."""

    coefficients: np.ndarray  # (terms,)
    factors: np.ndarray  # (terms, degree): numbers of variables; one too many means 1

    @classmethod
    def of(
        cls, polynomial: Mapping[tuple[int, ...], float], n_variables: int
    ) -> "Terms":
        """Return the arrays of a polynomial, whose coefficients may be no integers."""
        products = list(polynomial)
        degree = max(map(len, products), default=0)
        factors = np.full((len(products), degree), n_variables)
        for row, product in zip(factors, products, strict=True):
            row[: len(product)] = product
        return cls(np.array(list(polynomial.values()), float), factors)

    def at(self, variables: jax.Array) -> jax.Array:
        """Return the value, in the widest floating dtype that JAX has enabled."""
        dtype = jnp.zeros(()).dtype
        padded = jnp.append(variables.astype(dtype), jnp.ones((), dtype))
        products = jnp.prod(padded[self.factors], axis=1)
        return jnp.sum(jnp.asarray(self.coefficients, dtype) * products)
