"""Every named regularizer, with the arrays it is tried on and the laws it is spared."""

import dataclasses
import zlib
from typing import Any

import numpy as np
import pytest

import rmda_jax as rj
from rmda_jax.testing import check_finite_gradients

CONV, DENSE, ATTENTION = (3, 3, 4, 5), (6, 7), (8, 2, 4)
VECTOR, NARROW, SINGLE, NUMBER = (12,), (4, 1), (1,), ()

# Reverse-mode derivatives that the docstrings deny: of singular values that coincide,
# of a loop of unknown length, and of the corners of a nonconvex ball.
NO_GRADIENT = {
    "nuclear_norm",
    "spectral_mcp",
    "total_variation",
    "fused_lasso",
    "l_half_ball",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A factory and its arguments, tried on arrays of some shape."""

    factory: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    step_size: float = 1.0

    @property
    def regularizer(self) -> rj.Regularizer:
        return getattr(rj, self.factory)(**self.arguments)

    @property
    def exempt(self) -> tuple:
        return (check_finite_gradients,) if self.factory in NO_GRADIENT else ()

    @property
    def x(self) -> np.ndarray:
        """Normal numbers: zeros, ties and units on both sides of the thresholds."""
        generator = np.random.default_rng(zlib.crc32(str(self).encode()))
        x = generator.normal(size=self.shape) * 1.2
        if x.size > 4:
            x.flat[1] = 0.0
            x.flat[2], x.flat[3] = 0.8, -0.8
        return x

    def __str__(self) -> str:
        arguments = "-".join(f"{v}" for v in self.arguments.values())
        shape = "x".join(map(str, self.shape)) or "number"
        return "-".join(filter(None, (self.factory, arguments, shape)))


ENTRIES: list[tuple] = [
    ("l1", {}),
    ("squared_l2", {}),
    ("elastic_net", {"l1_ratio": 0.3}),
    ("mcp", {}),
    ("mcp", {"lam": 0.5, "gamma": 0.7}),
    ("scad", {}),
    ("scad", {"lam": 0.5, "a": 2.2}),
    ("l0", {}),
    ("lq", {"q": 0.3}),
    ("l_half", {}),
    ("l_two_thirds", {}),
    ("log_sum", {}),
    ("log_sum", {"eps": 2.0}),
    ("box", {"lower": -0.5, "upper": 0.25}),
    ("nonnegative", {}),
    ("box_l1", {"lower": -0.5, "upper": 0.25}),
    ("box_l1", {"lower": 0.25, "upper": 2.0}),
    ("nonnegative_l1", {}),
    ("boxed", {"inner": rj.elastic_net(), "lower": -0.5, "upper": 0.25}),
    ("binary", {}),
    ("binary", {"scale": 0.6, "soft": True}),
    ("ternary", {}),
    ("ternary", {"scale": 0.6, "soft": True}),
    ("uniform_levels", {"bits": 3}),
    ("uniform_levels", {"bits": 2, "lower": -0.5, "upper": 2.0, "soft": True}),
]

# Of an array of any shape.
WHOLE: list[tuple] = [
    ("l2_norm", {}),
    ("linf_norm", {}),
    ("l1_ball", {}),
    ("l2_ball", {}),
    ("simplex", {}),
    ("top_k", {"k": 7}),
]

SHAPED: list[tuple] = [
    # Input channels, filters, kernels; rows and columns; heads; embedding rows; tiles.
    ("group_lasso", {}, CONV),
    ("group_lasso", {"group_axes": -1}, CONV),
    ("group_lasso", {"group_axes": (-2, -1)}, CONV),
    ("group_lasso", {"group_axes": (2, 0)}, CONV),
    ("group_lasso", {"group_axes": -2}, DENSE),
    ("group_lasso", {"group_axes": -1, "weighted": False}, DENSE),
    ("group_lasso", {"group_axes": 1}, ATTENTION),
    ("group_lasso", {"group_axes": (-2, -1), "block": (4, 3)}, DENSE),
    ("group_lasso", {"group_axes": (0, 1), "block": 2}, ATTENTION),
    ("group_lasso", {"group_axes": 0, "block": 5}, VECTOR),
    ("group_lasso", {"group_axes": 0}, NARROW),
    ("group_lasso", {"group_axes": -1}, NARROW),
    ("group_lasso", {"group_axes": ()}, NUMBER),
    ("sparse_group_lasso", {"l1_ratio": 0.3}, CONV),
    ("sparse_group_lasso", {"group_axes": -1, "weighted": False}, DENSE),
    ("sparse_group_lasso", {"group_axes": 1, "l1_ratio": 1.0}, ATTENTION),
    ("group_linf", {}, CONV),
    ("group_linf", {"group_axes": 1, "weighted": False}, ATTENTION),
    ("group_mcp", {}, CONV),
    ("group_mcp", {"group_axes": 0, "lam": 0.5, "gamma": 0.7}, DENSE),
    ("group_scad", {}, CONV),
    ("group_scad", {"group_axes": 0, "lam": 0.5, "a": 2.2}, DENSE),
    ("group_l0", {}, CONV),
    ("group_l0", {"group_axes": (0, 1), "weighted": False}, ATTENTION),
    ("group_lq", {"q": 0.3}, DENSE),
    ("group_l_half", {}, CONV),
    ("group_l_two_thirds", {}, CONV),
    ("group_log_sum", {}, CONV, 0.1),
    ("group_log_sum", {"group_axes": 1, "eps": 2.0}, ATTENTION),
    ("l1_ball", {"radius": 2.0, "group_axes": -1}, DENSE),
    ("l2_ball", {"radius": 0.5, "group_axes": (0, 1)}, ATTENTION),
    ("simplex", {"radius": 2.0, "group_axes": 0}, DENSE),
    ("top_k", {"k": 2, "group_axes": -1}, DENSE),
    ("top_k", {"k": 0}, VECTOR),
    ("n_m", {"n": 2, "m": 4}, ATTENTION),
    ("n_m", {"n": 1, "m": 2, "axis": 0}, DENSE),
    ("n_m", {"n": 3, "m": 3}, VECTOR),
    ("nuclear_norm", {}, CONV),
    ("nuclear_norm", {}, DENSE),
    ("nuclear_norm", {"matrix_axes": (2, 0)}, ATTENTION),
    ("spectral_mcp", {}, DENSE),
    ("spectral_mcp", {"lam": 0.5, "gamma": 0.7, "matrix_axes": (0, 1)}, NARROW),
    ("l_half_ball", {"radius": 2.0}, (5,)),
    ("total_variation", {}, VECTOR),
    ("total_variation", {"axis": 0}, SINGLE),
    ("fused_lasso", {"axis": -2, "l1_ratio": 0.2}, DENSE),
]

CASES = [
    *(Case(*row, DENSE) for row in ENTRIES),
    *(Case(*row, NUMBER) for row in ENTRIES[:2]),
    *(Case(*row, DENSE) for row in WHOLE),
    *(Case(*row, SINGLE) for row in WHOLE[::2]),
    *(Case(*row) for row in SHAPED),
]


def each_law(laws, cases=CASES) -> list:
    """Return a parameter for every law that every one of the cases has to obey."""
    return [
        pytest.param(case, law, id=f"{case}-{law.__name__[6:]}")
        for case in cases
        for law in laws
        if law not in case.exempt
    ]


def first_cases() -> list[Case]:
    """Return one case for every factory."""
    return list({case.factory: case for case in reversed(CASES)}.values())[::-1]
