r"""RigL: sparse training that moves weights to where the dense gradient is large.

Other methods of sparse training are the same machinery with another choice of how many
weights there are and of which come next:

======================  ==============  ===========
Method                  ``grow``        ``gradual``
======================  ==============  ===========
RigL                    ``"gradient"``  False
SET                     ``"random"``    False
static sparse training  None            False
magnitude pruning       None            True
GraNet                  ``"gradient"``  True
======================  ==============  ===========
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rmda_jax._types import Params, ScalarOrSchedule
from rmda_jax.transforms._arguments import (
    check_params,
    check_updates,
    with_extra_args,
)
from rmda_jax.transforms._masks import Masks
from rmda_jax.transforms._signature import readable


class RigLState(NamedTuple):
    """State of `rigl`: a byte per weight, and what the wrapped optimizer keeps."""

    # Named as in Optax, whose states shadow `tuple.count` as well.
    count: jax.Array  # int32: updates so far  # pyright: ignore[reportIncompatibleMethodOverride]
    masks: Params  # bool: which weights are there; all True on dense leaves
    inner_state: Any


@readable
def rigl(
    inner: optax.GradientTransformation,
    sparsity: float,
    *,
    where: str | Sequence[str] | None = None,
    dense: str | Sequence[str] = (),
    distribution: Literal["erk", "uniform"] = "erk",
    update_every: int = 100,
    begin_step: int = 1,
    end_step: int | None = None,
    drop_fraction: ScalarOrSchedule = 0.3,
    grow: Literal["gradient", "random"] | None = "gradient",
    gradual: bool = False,
    key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Sparse training around any Optax optimizer, with weights that move.

    Of the n weights of a leaf, :math:`n_1` are there, at random places to begin with;
    the rest are exactly zero. An update that finds t updates behind it rewires if t is
    a multiple of ``update_every`` from ``begin_step`` to :math:`T` = ``end_step``. With
    :math:`\alpha` = ``drop_fraction`` and g the dense gradient, each leaf then has

    .. math::
        f_t &= \tfrac\alpha2\bigl(1 + \cos(\pi t/T)\bigr), \qquad
            k = \max(1, \operatorname{round}((1 - f_t)\, n_1)) \\
        K &= \text{the } k \text{ largest } |w_i| \text{ among the weights there} \\
        G &= \text{the } n_1 - k \text{ largest } |g_i| \text{ outside } K

    and from then on the weights :math:`K \cup G` are there. What was dropped may come
    back at once, with its value. A weight that was not there starts at zero, and its
    slots in the optimizer's state as ``inner.init`` makes them (for momentum and Adam,
    zero). Such an update moves no other weight and leaves the rest of the optimizer's
    state alone. Every other update is one of ``inner``, to which gradients and params
    are shown with zeros where no weight is.

    Gradients must be dense: for all weights, at the sparse params. After every update
    the params are exactly zero where no weight is, whatever they were before;
    `rigl_params` does the same to the first ones, which ``init`` cannot change.
    Nothing may stand after it in an `optax.chain`: weight decay goes into ``inner``, as
    does clipping, unless it is to see the dense gradient.

    Args:
      inner: The optimizer to wrap, any that `optax.tree.map_params` can map together
        with the params. Slots that are not one number per weight, such as factored
        second moments, are not reset.
      sparsity: Share :math:`S \in [0, 1)` of the weights to remove, over all sparse
        leaves together.
      where: Pattern or patterns of the sparse leaves, as in `RegularizerMap`; all
        leaves with at least two axes by default.
      dense: Pattern or patterns of leaves to keep dense all the same, the first layer
        for instance. They do not count in ``sparsity``.
      distribution: ``"uniform"``: every leaf has density :math:`1 - S`. ``"erk"``: a
        leaf of shape :math:`(d_1, d_2, \dots)` has density :math:`\epsilon \sum d_i /
        \prod d_i`, or 1 if that is more, where :math:`\epsilon` makes the total right.
        A leaf has ``round(density * n)`` weights, one at least.
      update_every: Number of updates from one rewiring to the next.
      begin_step: First count of updates at which there may be one.
      end_step: Last such count, :math:`T`; usually three quarters of the run. None
        stands for never and needs a schedule as ``drop_fraction``.
      drop_fraction: :math:`\alpha \in [0, 1]`, annealed as above. A schedule is
        :math:`f_t` itself and not annealed. `optax.inject_hyperparams` makes a number
        of it, which is: inject :math:`\alpha` only.
      grow: By what to choose the new weights: ``"gradient"`` (RigL) or ``"random"``
        (SET). With None there are none, and every update is one of ``inner``.
      gradual: Begin dense; in a rewiring with t behind it only :math:`(1 - S_t) n`
        weights stay, :math:`S_t = S_T (1 - (1 - t/T)^3)`, T that of the last rewiring.
        With ``grow=None`` this is gradual magnitude pruning; without ``gradual``, that
        is static sparse training.
      key: Random key for the first places and for random growth, `jax.random.key` of 0
        by default.

    Returns:
      An `optax.GradientTransformationExtraArgs` with state `RigLState`; its update is
      in the params' dtype, and extra arguments reach ``inner``. ``init`` accepts
      `jax.ShapeDtypeStruct` leaves: the first places depend on the key and on shapes
      and dtypes alone. The number of weights is exact after every update, and places
      are deterministic: of equals the first in C order wins, and a weight that is there
      wins over one that is not, though both be zero.

    Raises:
      TypeError: ``inner`` is no transformation, or an argument is of the wrong kind; at
        ``init`` or ``update``, a leaf is not real floating.
      ValueError: an argument out of its domain, or no ``end_step`` where one is needed;
        at ``init`` or ``update``, a pattern matches nothing, no leaf is sparse, params
        are missing, or gradients do not match them.

    Examples:
      >>> tx = rj.rigl(optax.adam(0.1), 0.75, update_every=10, end_step=75)
      >>> params = {"kernel": jnp.ones((4, 4)), "bias": jnp.zeros(4)}
      >>> state = tx.init(params)
      >>> params = rj.rigl_params(state, params)
      >>> target, update = jnp.diag(jnp.arange(1.0, 5.0)), jax.jit(tx.update)
      >>> for _ in range(100):
      ...     grads = {"kernel": params["kernel"] - target, "bias": params["bias"]}
      ...     updates, state = update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> (params["kernel"] != 0).astype(int)
      Array([[1, 0, 0, 0],
             [0, 1, 0, 0],
             [0, 0, 1, 0],
             [0, 0, 0, 1]], dtype=int32)

    .. note::
      Where paper, Google's code and jaxpruner differ, this is jaxpruner's RigL. The
      paper rewires while t < T; here at T too, where f is 0: the mask stays, but the
      update is no step. Google's code drops ``int(f * n1)`` weights, starts with ``n -
      int(S * n)``, and breaks ties by noise of deviation 1e-5. The paper's uniform
      distribution keeps the first layer dense, which is for ``dense`` to say. Unlike
      jaxpruner, ties do not depend on the scale of the scores, any optimizer's slots
      are reset, and the update alone keeps the zeros.

    References:
      Evci et al., `Rigging the Lottery: Making All Tickets Winners
      <https://arxiv.org/abs/1911.11134>`_, ICML 2020, Algorithm 1.
      Mocanu et al., `Scalable training of artificial neural networks with adaptive
      sparse connectivity inspired by network science
      <https://arxiv.org/abs/1707.04780>`_, 2018 (SET).
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_,
      2017, equation (1).
      Liu et al., `Sparse Training via Boosting Pruning Plasticity with
      Neuroregeneration <https://arxiv.org/abs/2106.10404>`_, NeurIPS 2021 (GraNet).
    """
    inner = with_extra_args("inner", inner)
    masking = Masks(
        where=where,
        dense=dense,
        sparsity=sparsity,
        distribution=distribution,
        update_every=update_every,
        begin_step=begin_step,
        end_step=end_step,
        drop_fraction=drop_fraction,
        grow=grow,
        gradual=gradual,
        key=key,
    )

    def init_fn(params: Params) -> RigLState:
        check_params(params)
        count = jnp.zeros((), jnp.int32)
        return RigLState(count, masking.first(params), inner.init(params))

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, RigLState]:
        check_updates(updates, params, state, RigLState)
        due = masking.is_due(state.count)
        masks, staying = masking.next(due, state.count, state.masks, params, updates)
        sparse = masked(staying, params)
        delta, inner_state = inner.update(
            masked(masks, updates), state.inner_state, sparse, **extra_args
        )
        if grow is not None:
            # An update that rewires is no step of `inner`: weights and slots stay, but
            # for the slots of weights that grow, which are those of `inner.init`.
            grown = jax.tree.map(lambda m, s: m & ~s, masks, staying)
            states = state.inner_state, inner_state, inner.init(sparse)
            inner_state = _state_after_rewiring(inner, due, grown, *states)
            delta = jax.tree.map(lambda d: jnp.where(due, jnp.zeros_like(d), d), delta)
        delta = jax.tree.map(_zero_where_absent, staying, delta, params)
        count = jnp.asarray(optax.safe_increment(state.count))
        return delta, RigLState(count, masks, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _zero_where_absent(staying: jax.Array, delta: jax.Array, w: jax.Array) -> jax.Array:
    """Return the update in the params' dtype; it ends at 0 where no weight is."""
    # w + (0 - w) is exactly 0.
    return jnp.where(staying, delta.astype(w.dtype), -w)


def masked(masks: Any, tree: Any) -> Any:
    """Return the tree with zeros outside the masks; leaves without a mask as is."""

    def leaf(mask: Any, x: Any) -> Any:
        return x if _is_absent(mask) else jnp.where(mask, x, jnp.zeros_like(x))

    return jax.tree.map(leaf, masks, tree, is_leaf=_is_absent)


def _state_after_rewiring(
    inner: optax.GradientTransformation,
    due: jax.Array,
    grown: Params,
    old: Any,
    new: Any,
    fresh: Any,
) -> Any:
    """Return the new state of ``inner``; if ``due``, the old one, fresh where grown."""

    def flag(slot: Any, grown: jax.Array) -> Any:
        if _is_absent(slot):
            return slot
        # Factored second moments and the like are shared: no weight has one alone.
        return grown if jnp.shape(slot) == grown.shape else False

    flags = optax.tree.map_params(
        inner,
        flag,
        old,
        grown,
        transform_non_params=lambda _: False,
        is_leaf=_is_absent,
    )

    def leaf(flag: Any, old: Any, new: Any, fresh: Any) -> Any:
        kept = old if flag is False else jnp.where(flag, fresh, old)
        return jnp.where(due, kept, new)

    return jax.tree.map(leaf, flags, old, new, fresh)


def _is_absent(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
