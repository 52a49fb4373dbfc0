"""How big the model is to be: a size in place of a strength."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmda_jax._types import ScalarOrSchedule

SHARES = ("groups", "weights", "bytes", "flops")
OF_COSTS = ("bytes", "flops")


@dataclasses.dataclass(frozen=True, eq=False)
class Budget:
    """What `budget` returns: a size that a transformation keeps to.

    Args:
      kind: What is counted: one of `SHARES`, or ``"n_groups"``.
      amount: How much of it is kept at the end: a share, or a number of groups.
      costs: What the model costs as a function of its units, or None.
      start_step: Count of updates at which the removal begins.
      ramp_steps: Updates from there until the end is reached.
      per_rule: Whether each rule keeps its own share.
      at_least: Units that every set keeps.
    """

    kind: str
    amount: ScalarOrSchedule
    costs: Any = None
    start_step: int = 0
    ramp_steps: int = 0
    per_rule: bool = False
    at_least: int = 1

    def removed(self, count: jax.Array) -> jax.Array:
        r"""Return how much of what is to go has gone by now, from 0 to 1.

        .. math:: 1 - (1 - p)^3, \qquad p = (\text{count} - \text{start})/\text{ramp}
        """
        after = (count - self.start_step).astype(jnp.result_type(float))
        if not self.ramp_steps:
            return (after >= 0).astype(after.dtype)
        return 1 - (1 - jnp.clip(after / self.ramp_steps, 0, 1)) ** 3

    def kept(self, count: jax.Array, total: Any) -> jax.Array:
        """Return how much is kept now, of ``total``: in its units."""
        amount = self.amount(count) if callable(self.amount) else self.amount
        real = jnp.result_type(float)
        whole = jnp.asarray(total, real)
        end = jnp.asarray(amount, real) * (1 if self.kind == "n_groups" else whole)
        return whole - self.removed(count) * jnp.maximum(whole - end, 0)


def budget(
    *,
    groups: ScalarOrSchedule | None = None,
    n_groups: ScalarOrSchedule | None = None,
    weights: ScalarOrSchedule | None = None,
    bytes: ScalarOrSchedule | None = None,  # noqa: A002  # the word for it
    flops: ScalarOrSchedule | None = None,
    costs: Any = None,
    start_step: int = 0,
    ramp_steps: int = 0,
    per_rule: bool = False,
    at_least: int = 1,
) -> Budget:
    given = {
        name: amount
        for name, amount in {
            "groups": groups,
            "n_groups": n_groups,
            "weights": weights,
            "bytes": bytes,
            "flops": flops,
        }.items()
        if amount is not None
    }
    if len(given) != 1:
        raise ValueError(
            "a budget is one of `groups`, `n_groups`, `weights`, `bytes`, `flops`, got "
            f"{', '.join(given) or 'none'}. Give one: budget(groups=0.5) keeps half."
        )
    ((kind, amount),) = given.items()
    return Budget(kind, amount, costs, start_step, ramp_steps, per_rule, at_least)
