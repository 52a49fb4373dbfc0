"""A warning of the mistake that the word averaging invites."""

import numbers
import warnings
from typing import Any

_LIKE_A_MOMENTUM = 0.8


def warn_of_momentum(averaging: Any, stacklevel: int) -> None:
    """Warn if a concrete averaging is so near to 1 that a momentum was meant.

    Args:
      averaging: A number, or what is passed over: an array or a schedule.
      stacklevel: How far up the user's call is, 1 for the caller of this.
    """
    if not isinstance(averaging, numbers.Real):
        return
    c = float(averaging)
    if _LIKE_A_MOMENTUM <= c < 1:
        warnings.warn(
            f"`averaging` of {c:g} is almost none: it is the weight of what is new, so "
            f"that a momentum of {c:g} is an averaging of {1 - c:.2g}. Pass that, or 1 "
            "for none.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
