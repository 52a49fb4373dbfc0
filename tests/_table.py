"""Every named regularizer: what it is, slowly, and the arrays it is tried on.

From this table follow the public names, the arguments, the cases of the laws, and the
comparisons with the oracles. A new regularizer is a new row.
"""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any

import numpy as np

import rmda_jax as rj
from tests.oracles import _prox, _sets, _values
from tests.oracles._prox import Oracle
from tests.oracles._scalar import Penalty, arcs, magnitude

CONV, DENSE, ATTENTION = (3, 3, 4, 5), (6, 7), (8, 2, 4)
VECTOR, NARROW, SINGLE, NUMBER = (12,), (4, 1), (1,), ()
# Tied along the first, last and middle axis.
LEAVES = ((4, 3), (2, 8), (2, 5, 3))
# Two positions per group in the second leaf, and of one group in the third.
POSITIONS = (None, (0, 1, 2, 3, 3, 2, 1, 0), (2, 1, 0, 0, 3))
TIE = {"group_axes": (0, -1, 1), "groups": POSITIONS}


@dataclasses.dataclass(frozen=True)
class Try:
    """Arguments of a factory, and what it is tried on with them.

    Of the shapes, that for the laws may be a tuple of shapes, for leaves that are tied;
    the other is small, for the oracles. None: not tried there.
    """

    laws: Any
    small: tuple[int, ...] | None
    arguments: dict[str, Any]
    step_size: float = 1.0
    critical: float | None = None  # the step at which the objective is convex no more


@dataclasses.dataclass(frozen=True)
class Row:
    """A factory's oracle (None for leaves that are tied) and its tries."""

    oracle: Oracle | None
    tries: tuple[Try, ...]


def row(oracle: Oracle | None, *tries: Try) -> Row:
    return Row(oracle, tries)


def on(laws, small=None, *, step_size=1.0, critical=None, **arguments) -> Try:
    return Try(laws, small, arguments, step_size, critical)


on_entries = functools.partial(on, DENSE, (3, 4))

# --- the scalar penalties, by their values alone: complex arguments too --------------


def mcp(lam=1.0, gamma=3.0):
    def value(z):
        r = magnitude(z)
        curved = lam * r - r * r / (2 * gamma)
        return np.where(np.real(r) <= gamma * lam, curved, gamma * lam**2 / 2)

    return Penalty(value, (-gamma * lam, 0.0, gamma * lam))


def scad(lam=1.0, a=3.7):
    def value(z):
        r = magnitude(z)
        curved = (2 * a * lam * r - r * r - lam**2) / (2 * (a - 1))
        outer = np.where(np.real(r) <= a * lam, curved, lam**2 * (a + 1) / 2)
        return np.where(np.real(r) <= lam, lam * r, outer)

    return Penalty(value, (-a * lam, -lam, 0.0, lam, a * lam))


def elastic_net(l1_ratio=0.5):
    return Penalty(lambda z: l1_ratio * magnitude(z) + (1 - l1_ratio) * z * z / 2)


PENALTIES = {
    "l1": lambda: Penalty(magnitude),
    "squared_l2": lambda: Penalty(lambda z: z * z / 2),
    "elastic_net": elastic_net,
    "mcp": mcp,
    "scad": scad,
    "l0": lambda: Penalty(lambda z: np.where(np.real(z) == 0, 0.0, 1.0)),
    "lq": lambda q=0.5: Penalty(lambda z: magnitude(z) ** q),
    "log_sum": lambda eps=0.1: Penalty(lambda z: np.log(1 + magnitude(z) / eps)),
    "laplace": lambda eps=0.1: Penalty(lambda z: -np.expm1(-magnitude(z) / eps)),
}


def box(lower, upper):
    return Penalty(lambda z: 0.0 * z, (), lower=lower, upper=upper)


def of(regularizer) -> Penalty:
    """The slow penalty of a regularizer that is an argument of another."""
    name, arguments = regularizer.penalty.spelled()
    return PENALTIES[name](**arguments)


def boxed(inner, lower, upper):
    return dataclasses.replace(of(inner), lower=lower, upper=upper)


entries = {name: _prox.entries(penalty) for name, penalty in PENALTIES.items()}
radial = {name: _prox.radial(penalty) for name, penalty in PENALTIES.items()}
given_radial = _prox.radial(lambda regularizer: of(regularizer))
given_spectral = _prox.spectral(lambda regularizer: of(regularizer))

# Of four channels.
CHANNEL_LEVELS = tuple((-1.0 - i / 4, i / 8, 0.75 + i / 4) for i in range(4))
WHOLE = {"group_axes": (), "weighted": False}
CHANNELS = functools.partial(on, CONV, (2, 3, 2))

TABLE: dict[str, Row] = {
    # --- entries ---------------------------------------------------------------------
    "l1": row(entries["l1"], on_entries(), on(NUMBER)),
    "squared_l2": row(entries["squared_l2"], on_entries(), on(NUMBER)),
    "elastic_net": row(
        entries["elastic_net"], on_entries(l1_ratio=0.3), on_entries(l1_ratio=0.9)
    ),
    "mcp": row(
        entries["mcp"],
        on_entries(critical=3.0),
        on_entries(critical=0.7, lam=0.5, gamma=0.7),
    ),
    "scad": row(
        entries["scad"],
        on_entries(critical=2.7),
        on_entries(critical=1.2, lam=0.5, a=2.2),
    ),
    "l0": row(entries["l0"], on_entries()),
    "lq": row(
        entries["lq"], on_entries(q=0.3), on_entries(q=1 / 2), on_entries(q=2 / 3)
    ),
    "log_sum": row(
        entries["log_sum"], on_entries(critical=0.01), on_entries(critical=4.0, eps=2.0)
    ),
    "laplace": row(
        entries["laplace"], on_entries(critical=0.01), on_entries(critical=4.0, eps=2.0)
    ),
    "boxed": row(
        _prox.entries(boxed),
        on_entries(inner=rj.elastic_net(), lower=-0.5, upper=0.25),
        on_entries(inner=rj.l1(), lower=0.25, upper=2.0),
        on_entries(inner=rj.l1(), lower=0.0, upper=np.inf),
    ),
    # --- groups ----------------------------------------------------------------------
    "group_lasso": row(
        radial["l1"],
        CHANNELS(),
        # Filters, kernels; rows and columns; heads; embedding rows; tiles.
        on(CONV, group_axes=-1),
        on(CONV, group_axes=(-2, -1)),
        on(CONV, group_axes=(2, 0)),
        on(None, (2, 3, 2), group_axes=(-1, 0), weighted=False),
        on(DENSE, group_axes=-2),
        on(DENSE, group_axes=-1, weighted=False),
        on(ATTENTION, group_axes=1),
        on(DENSE, (3, 4), group_axes=(-2, -1), block=(2, 3)),
        on(ATTENTION, group_axes=(0, 1), block=2),
        on(VECTOR, (3,), group_axes=0, block=2),
        on(NARROW, group_axes=0),
        on(NARROW, group_axes=-1),
        on(NUMBER, group_axes=()),
        on(DENSE, (3, 4), **WHOLE),
        on(SINGLE, **WHOLE),
    ),
    "weighted_group_lasso": row(
        _prox.one_weighted_group(radial["l1"]),
        on(None, (3, 4), weights=0.7, group_axes=()),
        on((4, 5), weights=(0.5, 3.0, 2.0, 1.0), group_axes=0),
        on(CONV, weights=((0.5, 2.0, 0.1, 1.0, 1.5),) * 4, group_axes=(-2, -1)),
    ),
    "sparse_group_lasso": row(
        _prox.sparse_group_lasso(),
        on(CONV, (3, 4), l1_ratio=0.3),
        on(DENSE, (3, 4), group_axes=-1, l1_ratio=0.1),
        on(DENSE, group_axes=-1, weighted=False),
        on(ATTENTION, group_axes=1, l1_ratio=1.0),
    ),
    "group_linf": row(
        _prox.linf(),
        CHANNELS(),
        on(ATTENTION, group_axes=1, weighted=False),
        on(None, (3, 4), group_axes=-1, weighted=False),
        on(DENSE, (3, 4), **WHOLE),
    ),
    "group_mcp": row(
        radial["mcp"],
        CHANNELS(),
        on(DENSE, group_axes=0, lam=0.5, gamma=0.7),
        on(None, (3, 4), lam=0.5, gamma=0.4, group_axes=-1),
        on(None, (3, 4), lam=0.5, gamma=0.4, group_axes=()),
    ),
    "group_scad": row(
        radial["scad"],
        CHANNELS(),
        on(DENSE, group_axes=0, lam=0.5, a=2.2),
        on(None, (3, 4), lam=0.5, a=2.2, weighted=False),
    ),
    "group_l0": row(
        radial["l0"],
        on(CONV, (3, 4)),
        on(ATTENTION, group_axes=(0, 1), weighted=False),
        on(None, (3, 4), group_axes=-1),
    ),
    "group_lq": row(
        radial["lq"],
        on(DENSE, (3, 4), q=0.3),
        on(CONV, (3, 4), q=1 / 2),
        on(CONV, (3, 4), q=2 / 3),
        on(None, (3, 4), group_axes=(), q=0.9),
    ),
    "group_log_sum": row(
        radial["log_sum"],
        on(CONV, (3, 4), step_size=0.1),
        on(ATTENTION, (2, 3, 2), group_axes=1, eps=2.0),
    ),
    "on_groups": row(
        given_radial,
        on(DENSE, (3, 4), regularizer=rj.elastic_net(), group_axes=-1),
        on(
            DENSE,
            (3, 4),
            regularizer=rj.regularizers.laplace(1.0),
            group_axes=-1,
            step_size=0.3,
        ),
        on(DENSE, (3, 4), regularizer=rj.mcp(), group_axes=(0, 1), block=(2, 3)),
    ),
    # --- groups that span leaves -----------------------------------------------------
    "tied_group_lasso": row(None, on(LEAVES, **TIE), on(LEAVES, **TIE, weighted=False)),
    "on_tied_groups": row(
        None,
        on(LEAVES, regularizer=rj.mcp(), **TIE),
        on(LEAVES, regularizer=rj.mcp(lam=0.5, gamma=0.7), **TIE),
        on(LEAVES, regularizer=rj.regularizers.scad(), **TIE),
        on(LEAVES, regularizer=rj.regularizers.l0(), **TIE, weighted=False),
        on(LEAVES, regularizer=rj.regularizers.lq(0.5), **TIE),
        on(LEAVES, regularizer=rj.regularizers.log_sum(), **TIE, step_size=0.1),
        on(((3, 2), (4, 3)), regularizer=rj.elastic_net(), group_axes=(0, 1)),
    ),
    # --- singular values -------------------------------------------------------------
    "nuclear_norm": row(
        _prox.spectral(PENALTIES["l1"]),
        on(CONV),
        on(DENSE, (3, 4)),
        on(ATTENTION, matrix_axes=(2, 0)),
        on(None, (3, 4), matrix_axes=(1, 0)),
    ),
    "spectral_mcp": row(
        _prox.spectral(mcp),
        on(DENSE, (3, 4)),
        on(NARROW, matrix_axes=(0, 1), lam=0.5, gamma=0.7),
        on(None, (3, 4), matrix_axes=(0, 1), lam=0.5, gamma=0.4),
    ),
    "on_singular_values": row(
        given_spectral, on(DENSE, (3, 4), regularizer=rj.elastic_net())
    ),
    # --- differences -----------------------------------------------------------------
    "total_variation": row(_prox.fused(0.0), on(VECTOR, (9,)), on(SINGLE, axis=0)),
    "fused_lasso": row(
        _prox.fused(0.5),
        on(None, (9,)),
        on(DENSE, (5, 2), axis=-2, l1_ratio=0.2),
    ),
    # --- levels ----------------------------------------------------------------------
    "binary": row(
        _prox.levels(lambda scale=1.0: [-scale, scale]),
        on_entries(),
        on_entries(scale=0.6, soft=True),
    ),
    "ternary": row(
        _prox.levels(lambda scale=1.0: [-scale, 0.0, scale]),
        on_entries(),
        on_entries(scale=0.6, soft=True),
    ),
    "uniform_levels": row(
        _prox.levels(
            lambda bits, lower=-1.0, upper=1.0: np.linspace(lower, upper, 2**bits)
        ),
        on_entries(bits=3),
        on_entries(bits=2, lower=-0.5, upper=2.0, soft=True),
    ),
    "piecewise_affine": row(
        _prox.entries(arcs),
        on_entries(levels=(-1.0, 0.0, 1.0), step_size=0.5, critical=1.0),
        on_entries(levels=(-1.0, -0.25, 0.0, 2.0)),
        on((4, 5), levels=CHANNEL_LEVELS, channel_axis=0, step_size=0.75),
    ),
    # --- sets ------------------------------------------------------------------------
    "box": row(
        _prox.entries(box),
        on_entries(lower=-0.5, upper=0.25),
        on_entries(lower=0.0, upper=np.inf),
    ),
    "l1_ball": row(
        _prox.feasible_set(_sets.l1_ball, _values.in_l1_ball),
        on_entries(),
        on(SINGLE),
        on_entries(radius=2.0, group_axes=-1),
    ),
    "l2_ball": row(
        _prox.feasible_set(_sets.l2_ball, _values.in_l2_ball),
        on_entries(),
        on(ATTENTION, (2, 3, 2), radius=0.5, group_axes=(0, 1)),
    ),
    "simplex": row(
        _prox.feasible_set(_sets.simplex, _values.in_simplex),
        on_entries(),
        on(SINGLE),
        on_entries(radius=2.0, group_axes=0),
    ),
    "l_half_ball": row(
        _prox.feasible_set(_sets.l_half_ball, _values.in_l_half_ball),
        on((5,), (3,), radius=2.0),
    ),
    "top_k": row(
        _prox.feasible_set(_sets.top_k, _values.at_most_k, has_metric=True),
        on(DENSE, (3, 3), k=4),
        on(DENSE, (2, 3, 2), k=2, group_axes=-2),
        on(VECTOR, k=0),
    ),
    "top_groups": row(
        _prox.feasible_set(_sets.top_groups, _values.at_most_k_groups, has_metric=True),
        on(DENSE, (3, 4), k=2, group_axes=-1),
        on(CONV, (2, 3, 2), k=0.5),
        on(ATTENTION, (2, 3), k=3, group_axes=(0, 1)),
        on(DENSE, (3, 5), k=0.3, group_axes=(0, 1), block=(2, 3)),
        on(VECTOR, (3,), k=0, group_axes=0),
    ),
    "max_rank": row(
        _prox.feasible_set(_sets.max_rank, _values.of_rank_at_most),
        on(DENSE, (3, 4), k=1),
        on(CONV, (2, 3, 2), k=2),
        on(ATTENTION, k=2, matrix_axes=(2, 0)),
        on(None, (3, 4), k=2, matrix_axes=(1, 0)),
        on(NARROW, k=0),
    ),
    "n_m": row(
        _prox.feasible_set(_sets.n_m, _values.at_most_n_in_m, has_metric=True),
        on(ATTENTION, (3, 8), n=2, m=4),
        on(DENSE, (4, 3), n=1, m=2, axis=0),
        on(VECTOR, n=3, m=3),
    ),
}

# The dozen that stand at the top of the package as well.
COMMON = (
    *("l1", "elastic_net", "mcp", "group_lasso", "group_mcp", "sparse_group_lasso"),
    *("tied_group_lasso", "nuclear_norm", "top_k", "n_m", "ternary", "box"),
)

ORACLES = {name: found.oracle for name, found in TABLE.items() if found.oracle}


def make(name: str, arguments: dict[str, Any]) -> rj.Regularizer:
    return getattr(rj.regularizers, name)(**arguments)


def kind(regularizer: rj.Regularizer) -> Hashable:
    """Return what a regularizer is made of: its class, and that of its geometry.

    Penalties of one geometry are one kind: they share its code and its solvers.
    """
    return type(regularizer), type(getattr(regularizer, "geometry", None))


# Arguments to call each factory with, of those that act on one array.
ARGUMENTS = {name: TABLE[name].tries[0].arguments for name in ORACLES}

# Small problems: name, arguments, shape.
SMALL = [
    (name, tried.arguments, tried.small)
    for name in ORACLES
    for tried in TABLE[name].tries
    if tried.small is not None
]


def regularizer(name: str) -> rj.Regularizer:
    return make(name, ARGUMENTS[name])


def public_factories() -> set[str]:
    """Names of the public functions that are annotated to return a Regularizer."""
    return {
        name
        for name in dir(rj.regularizers)
        if getattr(getattr(rj.regularizers, name), "__annotations__", {}).get("return")
        is rj.Regularizer
    }
