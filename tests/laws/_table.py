"""Every named regularizer, with the arrays it is tried on and the laws it is spared."""

import dataclasses
import math
import zlib
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax.testing import check_finite_gradients
from tests._daily import first_of_each
from tests._table import TABLE, kind as kind_of, make
from tests.laws._one_array import OneArray

# Reverse-mode derivatives that the docstrings deny: of singular values that coincide,
# of a loop of unknown length, and of the corners of a nonconvex ball.
NO_GRADIENT = {
    "nuclear_norm",
    "on_singular_values",
    "spectral_mcp",
    "max_rank",
    "total_variation",
    "fused_lasso",
    "l_half_ball",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A factory and its arguments, tried on arrays of some shape, or on several."""

    factory: str
    arguments: dict[str, Any]
    shape: Any
    step_size: float = 1.0

    @property
    def is_tied(self) -> bool:
        return bool(self.shape) and isinstance(self.shape[0], tuple)

    @property
    def regularizer(self) -> rj.Regularizer:
        made = make(self.factory, self.arguments)
        return OneArray(made, self.shape) if self.is_tied else made

    @property
    def exempt(self) -> tuple:
        return (check_finite_gradients,) if self.factory in NO_GRADIENT else ()

    @property
    def x(self) -> np.ndarray:
        """Normal numbers: zeros, ties and units on both sides of the thresholds."""
        generator = np.random.default_rng(zlib.crc32(str(self).encode()))
        tied_size = sum(map(math.prod, self.shape)) if self.is_tied else 0
        x = generator.normal(size=tied_size or self.shape) * 1.2
        if x.size > 4:
            x.flat[1] = 0.0
            x.flat[2], x.flat[3] = 0.8, -0.8
        return x

    def __str__(self) -> str:
        arguments = "-".join(f"{v}" for v in self.arguments.values())
        shape = "x".join(map(str, self.shape)) or "number"
        if self.is_tied:  # the positions are too many for the name of a test
            words = self.arguments.get("regularizer"), self.arguments.get("weighted")
            arguments = "-".join(str(word) for word in words if word is not None)
            shape = f"{len(self.shape)} leaves"
        return "-".join(filter(None, (self.factory, arguments, shape)))


CASES = [
    Case(name, tried.arguments, tried.laws, tried.step_size)
    for name, row in TABLE.items()
    for tried in row.tries
    if tried.laws is not None
]


def each_law(laws, cases=CASES, of_kinds=()) -> list:
    """Return a parameter for every law that every one of the cases has to obey.

    By default a law is of the first case of every factory. Those ``of_kinds``, which
    compile at length what the penalties of one geometry share, are of the first case of
    every kind of regularizer.
    """

    def kind(case: Case, law) -> Hashable:
        return law, kind_of(case.regularizer) if law in of_kinds else case.factory

    pairs = [
        pytest.param(case, law, id=f"{case}-{law.__name__[6:]}")
        for case in cases
        for law in laws
        if law not in case.exempt
    ]
    return first_of_each(kind, pairs)


def first_cases() -> list[Case]:
    """Return one case for every factory."""
    return list({case.factory: case for case in reversed(CASES)}.values())[::-1]
