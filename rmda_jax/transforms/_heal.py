"""Healing: after a method found the structure, any optimizer trains what is left."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rmda_jax._types import Params
from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.specs._resolve import RegularizerSpec, resolve
from rmda_jax.transforms._arguments import (
    check_params,
    check_static,
    check_updates,
    with_extra_args,
)
from rmda_jax.transforms._elsewhere import states_in
from rmda_jax.transforms._frozen import check_masks, support_masks, within
from rmda_jax.transforms._heal_state import HealState
from rmda_jax.transforms._state import StructuredState, in_containers_of
from rmda_jax.transforms._structured import structured_params


def heal(
    method: optax.GradientTransformation,
    optimizer: optax.GradientTransformation,
    regularizer: RegularizerSpec,
    start_step: int,
) -> optax.GradientTransformationExtraArgs:
    r"""Train with a method, then freeze the zeros and train the rest freely.

    A regularizer that finds the structure also shrinks what it keeps. So the first
    ``start_step`` updates are those of ``method``, which ends at a structured point
    :math:`W`; the others are those of ``optimizer`` on the support :math:`S` of that
    point, without a regularizer and the bias of its shrinkage:

    .. math::
        m_i &= [\,i \in S(W)\,], \qquad
        (u, s) = \operatorname{optimizer}(m \odot g, s, W), \qquad
        W \leftarrow W + m \odot u

    S consists of the active units of the regularizer: a zero inside an active group is
    trained, a group that is zero as a whole is not. The mask stands on both sides.
    Momentum, second moments and global norms do not see frozen entries; weight decay
    and noise do not move them: they stay exactly zero, in every precision.

    The last update of ``method`` goes all the way to the structured iterate, if it is
    a dual averaging, which has one (`structured_params`); else the params it arrives at
    are meant to have the zeros themselves. There the optimizer's state is initialised.

    Args:
      method: The first phase: any transformation of this library or Optax, or a chain.
      optimizer: The second phase: any Optax optimizer. Its schedules begin at 0 with
        this phase.
      regularizer: The very one of ``method``; of `optax.partition`, one map for all of
        its parts. For `rigl` and the like ``l0()`` on the leaves that are sparse. What
        it does not cover is trained throughout.
      start_step: Number of updates by ``method``; with 0 the params come structured.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `HealState`; its update is
      in the params' dtype, and extra arguments reach both. ``init`` accepts
      `jax.ShapeDtypeStruct` leaves if both do. Only the phase that is active computes.

    Raises:
      NotImplementedError: at ``init``, a regularizer whose structure no mask keeps, see
        `Regularizer.support_mask`: ranks, levels, differences, sets with a boundary.
      TypeError: ``method`` or ``optimizer`` is no transformation, or ``start_step`` no
        integer; at ``init`` or ``update``, a leaf is not real floating.
      ValueError: ``start_step`` is negative; as in `RegularizerMap.resolve`; at
        ``update``, params are missing, or gradients or the state do not match them.

    Examples:
      >>> method = rj.rmda(0.5, rj.l1(), strength=0.2, averaging=0.5)
      >>> tx = rj.heal(method, optax.sgd(0.5), rj.l1(), start_step=50)
      >>> params, target = jnp.ones(3), jnp.array([2.0, 1.0, 0.1])
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for step in range(100):
      ...     updates, state = update(params - target, state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     if step in (49, 99):
      ...         print(", ".join(f"{w:.2f}" for w in params))
      1.78, 0.80, 0.00
      2.00, 1.00, 0.00

    .. note::
      The support is read off the params at every update, and no mask is stored. So what
      training brings to exactly 0 is frozen as well, which happens to a single entry by
      chance, if ever, and then in half precision. If no update of a dual averaging
      was made yet, as when `optax.apply_if_finite` rejected all, there is no iterate,
      and the params stay.

    References:
      `PyTorch AO, Prune and Train (PAT)
      <https://github.com/pytorch/ao/tree/main/torchao/prototype/pat>`_, where the
      phase begins at ``healing_start_step``.
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_,
      2017: training goes on with the masks fixed.
    """
    method = with_extra_args("method", method)
    optimizer = with_extra_args("optimizer", optimizer)
    check_static("start_step", start_step)
    check_parameter("start_step", start_step, at_least=0, integer=True)

    phases = _Phases(method, optimizer, regularizer, start_step)

    def init_fn(params: Params) -> HealState:
        check_params(params)
        rules = resolve(regularizer, params)
        check_masks(rules, jax.tree.leaves(params))
        return HealState(
            count=jnp.zeros((), jnp.int32),
            healing=jnp.asarray(start_step == 0),
            method_state=method.init(params),
            optimizer_state=optimizer.init(params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, HealState]:
        check_updates(updates, params, state, HealState)
        like = jax.eval_shape(init_fn, params)
        # Arguments, not closures: of an array that is none, `zeros_like` in a branch
        # loses the sharding. Extra arguments may be no arrays.
        return lax.cond(
            state.count < start_step,
            functools.partial(phases.by_method, like, extra_args),
            functools.partial(phases.by_optimizer, like, extra_args),
            *(updates, state, params),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Phases(NamedTuple):
    """The updates of both phases; the arguments are those of `heal`."""

    method: optax.GradientTransformationExtraArgs
    optimizer: optax.GradientTransformationExtraArgs
    regularizer: RegularizerSpec
    start_step: int

    def by_method(
        self,
        like: HealState,
        extra: Any,
        updates: Any,
        state: HealState,
        params: Params,
    ) -> tuple[Any, HealState]:
        """Return the update of the method, the last one to its structured iterate.

        Args:
          like: A state in the containers in which to return one.
          extra: Extra arguments.
          updates: The gradients.
          state: The state.
          params: The params.
        """
        delta, method_state = self.method.update(
            updates, state.method_state, params, **extra
        )
        delta = _in_dtypes_of(params, delta)
        optimizer_state = in_containers_of(like.optimizer_state, state.optimizer_state)
        count = jnp.asarray(optax.safe_increment(state.count))

        def arrive() -> tuple[Any, Any]:
            last = _to_the_iterate(method_state, self.regularizer, params, delta)
            return last, self.optimizer.init(optax.apply_updates(params, last))

        healing = count >= self.start_step
        delta, optimizer_state = lax.cond(
            healing, arrive, lambda: (delta, optimizer_state)
        )
        return delta, HealState(count, healing, method_state, optimizer_state)

    def by_optimizer(
        self,
        like: HealState,
        extra: Any,
        updates: Any,
        state: HealState,
        params: Params,
    ) -> tuple[Any, HealState]:
        """Return the update of the optimizer inside of the support."""
        rules = resolve(self.regularizer, params)
        masks = support_masks(rules, jax.tree.leaves(params))
        delta, optimizer_state = self.optimizer.update(
            within(masks, updates),
            in_containers_of(like.optimizer_state, state.optimizer_state),
            params,
            **extra,
        )
        return _in_dtypes_of(params, within(masks, delta)), HealState(
            count=jnp.asarray(optax.safe_increment(state.count)),
            healing=jnp.ones((), bool),
            method_state=in_containers_of(like.method_state, state.method_state),
            optimizer_state=optimizer_state,
        )


def _to_the_iterate(
    method_state: Any, regularizer: RegularizerSpec, params: Params, delta: Any
) -> Any:
    """Return the update that ends at the structured iterate, if the method has one."""
    states = states_in(method_state, lambda node: isinstance(node, StructuredState))
    if not states:
        return delta
    # The leaves of other methods, as in a partition, arrive where these go.
    arrived = optax.apply_updates(params, delta)
    structured = structured_params(method_state, regularizer, arrived)
    # Before its first update a state is all zeros, and so would be the iterate.
    begun = jnp.all(jnp.stack([jnp.asarray(state.count) > 0 for state in states]))
    return jax.tree.map(
        lambda x, w, d: jnp.where(begun, x - w, d), structured, params, delta
    )


def _in_dtypes_of(params: Params, delta: Any) -> Any:
    return jax.tree.map(lambda w, d: d.astype(jnp.asarray(w).dtype), params, delta)
