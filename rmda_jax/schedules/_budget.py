"""How big the model is to be: a size in place of a strength."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from rmda_jax._types import ScalarOrSchedule

_NEEDS_COSTS = {
    "bytes": "shrink.costs",
    "flops": "shrink.costs",
    "latency": "shrink.latency",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Budget:
    """A size that a transformation keeps to; made by `budget`, which says more."""

    kind: str  # "groups", "n_groups", "weights", "bytes", "flops" or "latency"
    amount: ScalarOrSchedule  # what is kept at the end: a share, or a number of groups
    costs: Any = None  # what `shrink.costs` or `shrink.latency` returned
    start_step: int = 0
    ramp_steps: int = 0
    per_rule: bool = False
    at_least: int = 1
    multiple_of: int = 1

    @property
    def counts_groups(self) -> bool:
        """Whether groups are counted, in place of what they cost."""
        return self.kind in ("groups", "n_groups")

    def kept(self, count: jax.Array, whole: Any) -> jax.Array:
        r"""Return how much is kept after ``count`` updates.

        .. math:: \text{whole} - (1 - (1 - p)^3) (\text{whole} - \text{end}),
            \qquad p = (\text{count} - \text{start}) / \text{ramp}

        Args:
          count: Updates so far.
          whole: How much there is: number of groups, of weights, 1 for a share.

        Returns:
          Array of the shape of ``whole``, in its units.
        """
        real = jnp.result_type(float)
        amount = self.amount(count) if callable(self.amount) else self.amount
        amount, whole = jnp.asarray(amount, real), jnp.asarray(whole, real)
        end = amount if self.kind == "n_groups" else amount * whole
        since = (count - self.start_step).astype(real)
        if self.ramp_steps:
            gone = 1 - (1 - jnp.clip(since / self.ramp_steps, 0, 1)) ** 3
        else:
            gone = (since >= 0).astype(real)
        return whole - gone * jnp.maximum(whole - end, 0)


def budget(
    *,
    groups: ScalarOrSchedule | None = None,
    n_groups: ScalarOrSchedule | None = None,
    weights: ScalarOrSchedule | None = None,
    bytes: ScalarOrSchedule | None = None,  # the unit has this name
    flops: ScalarOrSchedule | None = None,
    latency: ScalarOrSchedule | None = None,
    costs: Any = None,
    start_step: int | None = None,
    ramp_steps: int = 0,
    per_rule: bool = False,
    at_least: int = 1,
    multiple_of: int = 1,
) -> Any:  # a Budget, which the annotation of `strength`, Optax's own, does not name
    r"""Say how much of the model to keep, in place of a strength.

    Every unit has a critical strength, from which on the prox makes it zero
    (`Regularizer.critical_strengths`). The strength of a step lies between two
    neighbours in their order, over all leaves: above those of the units that are to be
    zero, and below those of the units that are kept,

    .. math:: \lambda_t = \min(1.1\, \lambda_{(k+1)},\, \lambda_{(k)}),
        \qquad \lambda_{(1)} \ge \lambda_{(2)} \ge \ldots

    So at every step the structured iterate keeps k units: that of `rmda` and `ramda`
    (`structured_params`, and the params once the averaging is 1), the params of the
    others. It is the least strength that does, but for a margin of a tenth where the
    data leave one.

    Exactly one of the first six is given. It is what is kept at the end: to remove
    70 % of the groups, keep ``groups=0.3``.

    Args:
      groups: Share of the units of all regularizers together, in (0, 1], rounded to a
        number of units. Units are groups, entries or singular values.
      n_groups: Number of units.
      weights: Share of the weights. With ``costs``, of those that `shrink.apply` leaves
        of the whole model, biases included; without, of the weights in the units of all
        regularizers.
      bytes: Share of the bytes that `shrink.apply` leaves; needs ``costs``.
      flops: Share of the FLOPs of a call after shrinking; needs ``costs``.
      latency: Share of the seconds of a call after shrinking, by the model that
        `shrink.latency` fitted; needs what it returned as ``costs``.
      costs: What `shrink.costs` or `shrink.latency` returned for the model and these
        rules. Costs do not add up over units, so they are computed for the units that
        are alive. With one strength for all rules the size could miss the budget by
        half of the largest unit. So the rules whose units cost least have strengths of
        their own, in up to two further bisections, and the size is within half of the
        smallest unit, unless these rules have no units left to give or to take back.
      start_step: Count of updates at which the first unit may go. By default a fifth of
        ``ramp_steps``, which then ends when it would from 0: see the note.
      ramp_steps: How many updates after ``start_step`` the end is reached, along
        :math:`1 - (1 - p)^3`; a third to a half of the run is a good start. With 0 the
        size is kept from ``start_step`` on.
      per_rule: Whether each rule keeps that share of its own, in place of all together;
        for groups, and for weights without costs.
      at_least: Units that every rule keeps, whatever they cost, so that no layer dies.
        A tie keeps so many of every set of groups that lie in the same leaves. A rule
        whose only group is a whole branch of the model keeps that: pass 0 for those.
      multiple_of: What the number of units of every set is a multiple of, or all of a
        set stay: for `plan` with this ``multiple_of``, and hardware that multiplies
        tiles. What would be alive is rounded up before it is compared with the budget,
        so that no more is kept than was asked. Every set of units needs a rule of its
        own, such as `shrink.group_rules` writes, and in it a strength of its own.

    Returns:
      What the ``strength`` of every transformation with a prox takes.

    Raises:
      TypeError: an amount is no number, array or schedule; a count is no integer.
      ValueError: none or several of the six are given, a number is out of range, or
        costs are missing, or of no use; a latency is less than what stays without all
        units that can go.

    Examples:
      >>> tx = rj.proxsgd(0.1, rj.group_lasso(0), strength=rj.budget(groups=0.5))
      >>> params = jnp.arange(8.0).reshape(4, 2)
      >>> updates, _ = tx.update(jnp.zeros((4, 2)), tx.init(params), params)
      >>> rj.group_lasso(0).support(optax.apply_updates(params, updates))
      Array([False, False,  True,  True], dtype=bool)

    .. note::
      Train a while before units go. Before anything is learned the units of a leaf are
      all alike, so a strength that removes the first of them shrinks the others to
      almost nothing, and the network may never learn again: two small CNNs that should
      keep a quarter of their units ended with the right size at the accuracy of chance
      when the ramp began with the run, and did not when it began five epochs later
      (docs/size.md).

    References:
      Zhu & Gupta, `To prune, or not to prune <https://arxiv.org/abs/1710.01878>`_,
      2017, for the ramp.
    """
    kinds = {
        "groups": groups,
        "n_groups": n_groups,
        "weights": weights,
        "bytes": bytes,
        "flops": flops,
        "latency": latency,
    }
    given = {kind: amount for kind, amount in kinds.items() if amount is not None}
    if len(given) != 1:
        raise ValueError(
            f"a budget is exactly one of {', '.join(kinds)}, got "
            f"{', '.join(given) or 'none'}. budget(groups=0.3) keeps 30 % of the units."
        )
    ((kind, amount),) = given.items()
    _check_amount(kind, amount)
    starts = 0 if start_step is None else start_step
    _check_counts(start_step=starts, ramp_steps=ramp_steps, at_least=at_least)
    _check_counts(multiple_of=multiple_of)
    if multiple_of == 0:
        raise ValueError("`multiple_of` must be at least 1, got 0.")
    if kind in _NEEDS_COSTS and costs is None:
        raise ValueError(
            f"a budget of {kind} needs `costs`, got None. Pass costs="
            f"{_NEEDS_COSTS[kind]}(fn, params, *inputs, regularizer=rules)."
        )
    if kind == "latency":
        _check_latency(amount, costs)
    if costs is not None and (per_rule or kind in ("groups", "n_groups")):
        raise ValueError(
            "`costs` are of the whole model and count no groups, got them with "
            f"{'`per_rule`' if per_rule else f'`{kind}`'}. Leave one of the two out."
        )
    if per_rule and kind == "n_groups":
        raise ValueError(
            "`per_rule` needs a share, got a number of groups, `n_groups`. Give the "
            "share that each rule keeps: groups=0.3."
        )
    if start_step is None:
        starts = ramp_steps // 5
        ramp_steps -= starts
    return Budget(
        kind, amount, costs, starts, ramp_steps, per_rule, at_least, multiple_of
    )


def _check_counts(**counts: Any) -> None:
    for name, n in counts.items():
        if isinstance(n, bool) or not isinstance(n, numbers.Integral):
            raise TypeError(f"`{name}` must be an integer, got {n!r}.")
        if n < 0:
            raise ValueError(f"`{name}` must not be negative, got {n}.")


def _check_amount(kind: str, amount: Any) -> None:
    if callable(amount) or (isinstance(amount, jax.Array) and amount.ndim == 0):
        return
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real):
        raise TypeError(
            f"`{kind}` must be a number, an array of rank 0 or a schedule, got "
            f"{amount!r}."
        )
    share, number = kind != "n_groups", float(amount)
    if not (0 < number <= 1 if share else number >= 1):
        remedy = " For a number of groups there is `n_groups`." if share else ""
        raise ValueError(
            f"`{kind}` must {'lie in (0, 1]' if share else 'be at least 1'}, got "
            f"{amount}: it is what is kept.{remedy}"
        )


def _check_latency(amount: Any, costs: Any) -> None:
    """Raise if a latency was not measured, or cannot be reached."""
    least = costs.least_share("latency")
    if isinstance(amount, numbers.Real) and float(amount) < least:
        raise ValueError(
            f"`latency` must be at least {least:.3g}, got {amount}: so much stays when "
            "all units have gone that can go, by the model that `shrink.latency` "
            "fitted. Keep more of it, or run on a larger batch."
        )
