"""How many floating-point operations the equations of a jaxpr are, by XLA's count.

XLA counts a multiplication and an addition for each term of a sum of products, one
operation for each result of elementwise arithmetic, one for each entry that a reduction
takes in, and none where entries only move. Exponentials, logarithms, roots and other
transcendental functions it counts apart from the FLOPs, and so they count 0 here.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rmda_jax.shrink._lengths import ZERO, Lengths, Polynomial, constant, plus, times
from rmda_jax.shrink.interpret._axes import AxisInterpreter, EqnAxes
from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret.contractions import is_contraction

_ONE_PER_ENTRY = (
    "abs neg sign floor ceil round exp2 is_finite square real imag conj add sub mul "
    "div max min rem eq ne lt le gt ge clamp select_n and or xor not add_any "
    "convert_element_type reduce_precision population_count clz shift_left "
    "shift_right_logical shift_right_arithmetic"
)
# Those that XLA computes by series of others.
_PER_ENTRY = dict.fromkeys(_ONE_PER_ENTRY.split(), 1) | {
    "logistic": 3,
    "cosh": 3,
    "sinh": 10,
    "acos": 3,
    "asin": 5,
    "atanh": 6,
    "acosh": 7,
    "asinh": 11,
    "nextafter": 23,
    "erf_inv": 37,
    "lgamma": 52,
    "erfc": 60,
    "digamma": 73,
}
_REDUCTIONS = "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax"
_REDUCTIONS = {*_REDUCTIONS.split(), "argmin"}
_POOLING = {
    "reduce_window",
    "reduce_window_sum",
    "reduce_window_max",
    "reduce_window_min",
}


def flops(axes: AxisInterpreter, lengths: Lengths) -> Polynomial:
    """Return the operations of a traced function, by the axes of its equations.

    The body of a scan counts as often as it runs, the condition and the body of a while
    loop once, and of the branches of a conditional the one that is the most.
    """
    return _total(axes, lengths, lambda equation: _of_equation(equation, lengths))


def entries(axes: AxisInterpreter, lengths: Lengths) -> Polynomial:
    """Return how many entries the equations of a traced function read and make.

    Scans, loops and conditionals count as in `flops`.
    """
    callers = {path[:-1] for path in axes.eqns}
    called = {id(axes.eqns[path].eqn) for path in callers if path in axes.eqns}

    def of_equation(equation: EqnAxes) -> Polynomial:
        eqn, operands, results = equation
        if id(eqn) in called:  # the equations inside count
            return ZERO
        return plus(lengths.size(value.axes) for value in (*operands, *results))

    return _total(axes, lengths, of_equation)


def _total(
    axes: AxisInterpreter,
    lengths: Lengths,
    of_equation: Callable[[EqnAxes], Polynomial],
) -> Polynomial:
    """Return a sum over the equations, each as often as it runs."""
    # By the conditionals around it, and which of their branches it is in.
    found: dict[tuple[tuple[Path, int], ...], list[Polynomial]] = defaultdict(list)
    for path, equation in axes.eqns.items():
        per_run = of_equation(equation)
        if not per_run:
            continue
        runs, branches = [], []
        for depth in range(1, len(path)):
            caller = axes.eqns[path[:depth]].eqn
            if caller.primitive.name == "scan":
                layers = axes.layers.get(path[:depth])
                length = constant(caller.params["length"])
                runs.append(lengths.length(layers) if layers else length)
            elif caller.primitive.name == "cond":
                branches.append((path[:depth], _branch_of(caller, path[depth])))
        found[tuple(branches)].append(times([*runs, per_run]))
    return _largest({key: plus(several) for key, several in found.items()})


def _branch_of(cond: Any, eqn_id: int) -> int:
    """Return the number of the branch of a conditional that an equation is in."""
    return next(
        i
        for i, branch in enumerate(cond.params["branches"])
        if any(id(eqn) == eqn_id for eqn in branch.jaxpr.eqns)
    )


def _largest(found: dict[tuple[tuple[Path, int], ...], Polynomial]) -> Polynomial:
    """Return the sum over what is in no branch, and in the largest of each other."""
    total = [found.get((), ZERO)]
    conds: dict[Path, dict[int, dict[Any, Polynomial]]] = {}
    for (first, *inner), polynomial in ((k, v) for k, v in found.items() if k):
        path, branch = first
        conds.setdefault(path, {}).setdefault(branch, {})[tuple(inner)] = polynomial
    for branches in conds.values():
        total.append(max(map(_largest, branches.values()), key=_magnitude))
    return plus(total)


def _magnitude(polynomial: Polynomial) -> int:
    """Return the sum of the coefficients, by which branches compare.

    Which of them is the largest may change with the units; this one stays.
    """
    return sum(polynomial.values())


def _of_equation(equation: EqnAxes, lengths: Lengths) -> Polynomial:
    """Return the operations of one run of one equation."""
    eqn, operands, results = equation
    name = eqn.primitive.name
    if name == "dot_general":
        summed, _ = eqn.params["dimension_numbers"][0]
        sums = [lengths.length(operands[0].axes[i]) for i in summed]
        return times([constant(2), lengths.size(results[0].axes), *sums])
    if name == "ragged_dot_general" and is_contraction(eqn):
        # Where XLA multiplies each row by all matrices it counts more than is needed.
        numbers = eqn.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
        summed = lengths.length(operands[0].axes[numbers[0][0][0]])
        return times([constant(2), lengths.size(results[0].axes), summed])
    if name == "conv_general_dilated":
        return _of_convolution(equation, lengths)
    if name in _PER_ENTRY:
        return times([constant(_PER_ENTRY[name]), lengths.size(results[0].axes)])
    if name == "integer_pow":
        power = abs(eqn.params["y"])
        squarings_and_products = power.bit_length() + power.bit_count() - 2
        entries = lengths.size(results[0].axes)
        return times([constant(max(squarings_and_products, 0)), entries])
    if name in _REDUCTIONS:
        return lengths.size(operands[0].axes)
    if name in _POOLING:
        n_terms = math.prod(eqn.params["window_dimensions"]) - 1
        return times([constant(n_terms), lengths.size(results[0].axes)])
    return ZERO


def _of_convolution(equation: EqnAxes, lengths: Lengths) -> Polynomial:
    """Return two operations for each entry of the input that a result takes in."""
    eqn, (x, kernel), (result,) = equation
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    shapes = [var.aval.shape for var in (*eqn.invars, *eqn.outvars)]
    specs = (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)
    space = [
        [shape[i] for i in spec[2:]] for shape, spec in zip(shapes, specs, strict=True)
    ]
    options = [
        p[name]
        for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")
    ]
    pairs = [_pairs(*dim) for dim in zip(*space, *options, strict=True)]
    channels = [
        result.axes[numbers.out_spec[0]],
        result.axes[numbers.out_spec[1]],
        kernel.axes[numbers.rhs_spec[1]],
    ]
    del x
    return times([constant(2 * math.prod(pairs)), lengths.size(channels)])


def _pairs(
    n_in: int,
    window: int,
    n_out: int,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    window_dilation: int,
) -> int:
    """Count the pairs of a result and a position of the window that lie on an entry.

    The others lie on the padding, or between the entries of a dilated input.
    """
    starts = np.arange(n_out) * stride - padding[0]
    places = starts[:, None] + np.arange(window) * window_dilation
    inside = (places >= 0) & (places <= (n_in - 1) * dilation)
    return int((inside & (places % dilation == 0)).sum())
