"""The function of the small params, from a plan: its jaxpr on what is left."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import Params, Shape, shape_dtype_of
from rmda_jax.shrink._checks import check_call, check_small, check_values
from rmda_jax.shrink._evaluated import evaluated
from rmda_jax.shrink._plan import Plan, contractions_of, folds_of
from rmda_jax.shrink._program_report import ProgramEquation, equations_of
from rmda_jax.shrink._removal import Contraction, Removal, removed_entries
from rmda_jax.shrink._trace import Traced, followed
from rmda_jax.shrink.interpret._axes import AxisValue
from rmda_jax.shrink.interpret._interpreter import Path
from rmda_jax.shrink.interpret._recomputed import known_from
from rmda_jax.shrink.interpret._small import (
    KEEP,
    CannotShrinkError,
    SmallInterpreter,
    removed_units,
)
from rmda_jax.shrink.interpret._values import ValueInterpreter
from rmda_jax.specs._names import leaf_names


class _Specialized(NamedTuple):
    """A function traced at some shapes, and what is left of its jaxpr."""

    closed: Any
    out_tree: Any
    inputs: list[AxisValue]  # those of the function, without the leaves
    small: SmallInterpreter
    needs_stays: bool  # values of what stays, beside those of what is removed
    fixed: frozenset[Path]
    fixed_biases: tuple[str, ...] = ()


class Program:
    """A pure function of the small params and the inputs; made by `program`.

    It can be jitted, mapped, differentiated and exported. For inputs of other shapes
    the function is traced anew, and what the plan removes is proved anew.
    """

    def __init__(
        self,
        plan: Plan,
        fn: Callable[..., Any],
        params: Params,
        inputs: tuple[Any, ...],
    ) -> None:
        self._plan, self._fn = plan, fn
        leaves, treedef = jax.tree.flatten(params)
        names = leaf_names(params)
        dtypes = [shape_dtype_of(x)[1] for x in leaves]
        self._planned: dict[str, Any] | None = dict(zip(names, leaves, strict=True))
        found = self._specialize(names, treedef, dtypes, inputs)
        self._equations = tuple(equations_of(found.small, found.fixed))
        self._fixed_biases = found.fixed_biases
        if not found.needs_stays:
            self._planned = None
        # One vector of entries for each leaf that loses some.
        self._removed = {
            name: np.asarray(x)[mask]
            for name, x in zip(names, leaves, strict=True)
            if (mask := _removed_mask(plan, name)).any()
        }
        self._run = jax.jit(self._evaluate)

    def __call__(self, small_params: Params, *inputs: Any) -> Any:
        """Return what the function returned of the params that were planned."""
        return self._run(small_params, *inputs)

    def report(self) -> tuple[ProgramEquation, ...]:
        """Return the equations that touch removed units, the largest first."""
        return self._equations

    def __str__(self) -> str:
        whole = [x for x in self._equations if x.whole]
        before = sum(x.before for x in self._equations)
        after = sum(x.after for x in self._equations)
        lines = [
            f"{len(self._equations) - len(whole)} equations run small, "
            f"{len(whole)} at full size: {before:,} entries before, {after:,} after"
        ]
        lines += [f"  {x.label}: {x.after:,} entries" for x in whole]
        lines += [
            f"  {x.label} reads removed values that follow from params which stay: "
            f"{_AS_PLANNED}"
            for x in self._equations
            if x.fixed
        ]
        lines += [
            f"  {name} takes constants which follow from params that stay: "
            f"{_AS_PLANNED}"
            for name in self._fixed_biases
        ]
        if self._planned is not None:
            lines.append(
                "the full params are kept, for removed values follow from params which "
                f"stay: {_AS_PLANNED}"
            )
        return "\n".join(lines)

    def _evaluate(self, small_params: Params, *inputs: Any) -> Any:
        leaves, treedef = jax.tree.flatten(small_params)
        names = leaf_names(small_params)
        check_small(self._plan.widths, names, leaves)
        found = self._specialize(names, treedef, [x.dtype for x in leaves], inputs)
        rows = zip(jax.tree.leaves(inputs), found.inputs, strict=True)
        taken = [found.small.taken(x, value.axes) for x, value in rows]
        out = found.small.at(()).eval_closed_jaxpr(found.closed, [*leaves, *taken])
        return jax.tree.unflatten(found.out_tree, out)

    def _specialize(
        self, names: list[str], treedef: Any, dtypes: Sequence[Any], inputs: Any
    ) -> _Specialized:
        """Trace the function at the shapes of some inputs."""
        specs = [
            jax.ShapeDtypeStruct(self._plan.shapes[name], dtype)
            for name, dtype in zip(names, dtypes, strict=True)
        ]
        params, inputs = treedef.unflatten(specs), jax.tree.map(_spec, inputs)
        trace = lambda: jax.make_jaxpr(self._fn, return_shape=True)(params, *inputs)
        # What is computed there is known while tracing: nothing of it is traced.
        now = jax.ensure_compile_time_eval
        try:
            with now():  # constants are folded, so that tables are cut while tracing
                return self._followed(names, *trace())
        except CannotShrinkError:
            closed, shape = trace()  # zeros that are used twice couple units if folded
        try:
            with now():
                return self._followed(names, closed, shape)
        except CannotShrinkError as error:
            raise ValueError(
                f"`plan` does not fit `fn` at {_shapes(inputs)}: {error} Call `plan` "
                "and `program` with this function, and inputs of these shapes."
            ) from None

    def _followed(self, names: list[str], closed: Any, shape: Any) -> _Specialized:
        found = followed(closed, names, for_program=True)
        masks = list(_removed_positions(self._plan, names))
        by_place = {cut.units.places: cut.removed for cut in self._plan.cuts}
        planned = {
            atom: by_place[units.places]
            for atom, units in found.units.items()
            if units.places in by_place
        }
        removed = removed_units(found.leaves, masks, planned)
        small = SmallInterpreter(found.axes, removed)
        return self._proved(found, small, jax.tree.structure(shape))

    def _proved(
        self, found: Traced, small: SmallInterpreter, out_tree: Any
    ) -> _Specialized:
        """Find the values of removed units, and prove that nothing else needs them.

        They follow from what is removed of the params, as a rule. If not they are those
        of the params that were planned.
        """
        inputs = found.inputs[len(found.names) :]
        specialized = functools.partial(_Specialized, found.closed, out_tree, inputs)
        stays = [
            ~removed_entries(value.axes, small.removed, small.old_shape(value))
            for value in found.leaves
        ]
        leaves = [self._leaf(name, var) for name, var in _leaf_vars(found)]
        values = evaluated(found, leaves, stays)
        small.known = of_removed = values.operands
        try:
            self._prove(found, small, values)
        except CannotShrinkError:
            if self._planned is None:
                raise
        else:
            return specialized(small, False, frozenset())
        planned = evaluated(found, leaves)
        folds = folds_of(_removal(found, values), small.removed, self._plan.shapes)
        biases = self._fixed(folds)
        small.known = planned.operands
        self._prove(found, small, planned)
        small.known = of_removed
        fixed = [
            key
            for path in found.axes.read_whole
            for number, reading in small.readings(path).items()
            if not reading.is_known
            for key in known_from(found.axes, path, number, reading.places)
        ]
        small.known = {**of_removed, **{k: planned.operands[k] for k in fixed}}
        paths = frozenset(path for path, _ in fixed)
        return specialized(small, True, paths, biases)

    def _fixed(self, folds: dict[str, np.ndarray] | Contraction) -> tuple[str, ...]:
        """Name the biases that take others than these, which follow from what goes."""
        if isinstance(folds, Contraction):
            folds = {}
        return tuple(
            name
            for name, fold in sorted(self._plan.folds.items())
            if name not in folds or not _same({name: folds[name]}, {name: fold})
        )

    def _leaf(self, name: str, var: Any) -> Any:
        """Return a leaf that was planned; what stays of it is 0 if it is not kept."""
        if self._planned is not None:
            x = self._planned[name]
        else:
            x = np.zeros(self._plan.shapes[name], _numpy_dtype(var.aval.dtype))
            if name in self._removed:
                x[_removed_mask(self._plan, name)] = self._removed[name]
        if jnp.issubdtype(var.aval.dtype, jax.dtypes.extended):
            return x  # random keys, of which nothing is known
        return np.asarray(x).astype(var.aval.dtype)

    def _prove(
        self, found: Traced, small: SmallInterpreter, values: ValueInterpreter
    ) -> None:
        """Raise if anything that stays needs a unit that is removed."""
        for path in found.axes.read_whole:
            small.check(path)
        for path in found.axes.layers:
            small.check_layers(path, values.unchanged.get(path))
        # All removed units at once: where their terms of every sum are zero, or taken
        # by the biases that took them, what stays is as it was.
        removal = _removal(found, values)
        for contraction in removal.contractions.values():
            for atom, terms in contraction.terms(small.removed, of_removed=True):
                if (small.removed.get(atom, False) & ~terms.constant).any():
                    raise CannotShrinkError(
                        f"{contraction.label} reads units that are removed. {KEEP}"
                    )
        folds = folds_of(removal, small.removed, self._plan.shapes)
        if isinstance(folds, Contraction):
            raise CannotShrinkError(
                f"{folds.label} sums constants of removed units. {KEEP}"
            )
        if not _same(folds, self._plan.folds):
            raise CannotShrinkError(
                "biases take other constants of removed units than in the plan."
            )


def program(
    plan: Plan, fn: Callable[..., Any], params: Params, *inputs: Any, **options: Any
) -> Program:
    r"""Return the pure function of the small params.

    It evaluates the jaxpr of ``fn`` on arrays without the removed units. No module
    takes part: shape checks, sizes of its own, :math:`1/\sqrt d` and the n of a mean do
    not matter, for all numbers stay what they were.

    Where an equation needs all positions along an axis, as a primitive that is not
    understood does, its operands are expanded with the values that are known at the
    removed positions. That is exact and costs what it did: ``str`` says where. Random
    numbers are drawn at full size, so that dropout drops the same.

    Custom derivatives are kept. For inputs of other shapes ``fn`` is traced anew, and
    that nothing needs what is removed is proved anew: a call that cannot be right
    raises. Sizes must be numbers: for the symbolic batch of `jax.export` map over it,
    ``jax.vmap(lambda x: small_fn(params, x[None])[0])``.

    Args:
      plan: What `plan` returned; with ``for_program=True`` more units may go.
      fn: The function that was planned, called as ``fn(params, *inputs)``.
      params: The params that were planned. Of them the removed entries are kept, and
        the others only if values at removed places follow from them.
      *inputs: Pytrees of arrays or `jax.ShapeDtypeStruct`; only shapes count.
      **options: Given to ``fn`` as they are.

    Returns:
      The function, called as ``small_fn(apply(plan, params), *inputs)``. Its ``str``
      says which equations run at full size, `Program.report` what all of them cost.

    Raises:
      ValueError: the plan is not of this function, these params and these inputs; or an
        equation needs values of removed units that are not known. The message names
        equation, file and line.
      TypeError: as in `plan`.

    Examples:
      >>> from rmda_jax import shrink
      >>> def four_heads(params, x):
      ...     h = jnp.tanh((x @ params["in"]).reshape(len(x), 4, 2))
      ...     return h.reshape(len(x), 8) @ params["out"]
      >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2)).at[4:].set(0)}
      >>> x = jnp.ones((5, 3))
      >>> plan = shrink.plan(four_heads, params, x, for_program=True)
      >>> small = shrink.apply(plan, params)
      >>> small["in"].shape
      (3, 4)
      >>> small_fn = shrink.program(plan, four_heads, params, x)
      >>> jnp.array_equal(small_fn(small, x), four_heads(params, x)).item()
      True
    """
    check_call(fn, params, inputs)
    check_values(params)
    names, leaves = leaf_names(params), jax.tree.leaves(params)
    shapes = {n: shape_dtype_of(x)[0] for n, x in zip(names, leaves, strict=True)}
    if shapes != plan.shapes:
        raise ValueError(
            "`params` must be those that were planned, of the shapes "
            f"{plan.shapes}, got {shapes}."
        )
    return Program(plan, lambda p, *x: fn(p, *x, **options), params, inputs)


_AS_PLANNED = "they are those of the params that were planned, also in training"


def _removal(found: Traced, values: ValueInterpreter) -> Removal:
    """Return what is known of all sums, to remove nothing more."""
    return Removal(contractions_of(found, values), values, candidates={})


def _removed_positions(plan: Plan, names: list[str]) -> Iterator[list[np.ndarray]]:
    """Yield for every leaf, along each axis, which positions are removed."""
    for name in names:
        rows = zip(plan.shapes[name], plan.kept[name], strict=True)
        yield [~np.isin(np.arange(size), kept) for size, kept in rows]


def _removed_mask(plan: Plan, name: str) -> np.ndarray:
    """Return which entries of a leaf are removed."""
    mask = np.ones(plan.shapes[name], bool)
    mask[np.ix_(*plan.kept[name])] = False
    return mask


def _leaf_vars(found: Traced) -> Iterator[tuple[str, Any]]:
    """Yield the names of the leaves, and what stands for them in the jaxpr."""
    yield from zip(found.names, found.closed.jaxpr.invars, strict=False)


def _numpy_dtype(dtype: Any) -> Any:
    """Return a dtype that NumPy knows: booleans stand for random keys."""
    return bool if jnp.issubdtype(dtype, jax.dtypes.extended) else dtype


def _same(folds: Mapping[str, np.ndarray], planned: Mapping[str, np.ndarray]) -> bool:
    """Return whether constants are those of the plan, up to rounding."""
    return folds.keys() == planned.keys() and all(
        np.abs(fold - planned[name]).max(initial=0)
        <= _rounding(fold.dtype) * np.abs(fold).max(initial=0)
        for name, fold in folds.items()
    )


def _rounding(dtype: Any) -> float:
    """Return the relative error of sums in another order; integers have none."""
    # 64 units of bfloat16 would be a half.
    is_exact = not jnp.issubdtype(dtype, np.inexact)
    return 0.0 if is_exact else min(64 * float(jnp.finfo(dtype).eps), 2.0**-6)


def _spec(x: Any) -> jax.ShapeDtypeStruct:
    """Return the shape and the dtype of an input."""
    shape, dtype = shape_dtype_of(x)
    weak = getattr(getattr(x, "aval", x), "weak_type", False)
    if not all(isinstance(n, int) for n in shape):
        raise ValueError(
            f"inputs must have shapes of numbers, got {shape}. For a symbolic batch, "
            "of which no example reads another, map over it: "
            "jax.vmap(lambda x: small_fn(params, x[None])[0])."
        )
    return jax.ShapeDtypeStruct(shape, dtype, weak_type=weak)


def _shapes(inputs: Any) -> str:
    found: list[Shape] = [x.shape for x in jax.tree.leaves(inputs)]
    return f"inputs of shapes {', '.join(map(str, found))}"
