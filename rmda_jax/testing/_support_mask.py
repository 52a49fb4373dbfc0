"""The law of the support mask: what it holds at zero is the structure."""

import jax
import numpy as np
from jax.typing import ArrayLike

from rmda_jax.regularizers import Regularizer
from rmda_jax.testing._answers import checked
from rmda_jax.testing._numerics import noise, prox, require


def check_support_mask(
    regularizer: Regularizer, x: ArrayLike, step_size: float
) -> None:
    r"""Check that `support_mask` flags what may move while the structure stays.

    The prox p of x is 0 outside of its mask; inside of it no numbers make a unit active
    that p has not. The mask leaves out no more than the inactive units, or all zeros.

    Holds trivially where the regularizer raises NotImplementedError.

    Args:
      regularizer: The regularizer.
      x: Real floating array.
      step_size: :math:`t`, positive.

    Raises:
      AssertionError: too much may move, or too little.
    """
    x, law = checked(regularizer, x, step_size), "support mask"
    p = prox(regularizer, x, step_size)
    try:
        mask = np.asarray(regularizer.support_mask(p))
    except NotImplementedError:
        return
    flags = mask.dtype == bool and mask.shape == x.shape
    says = f"has a mask of {mask.dtype} and shape {mask.shape}, not flags like x."
    require(flags, law, regularizer, says)
    lost = int(np.count_nonzero(p[~mask]))
    require(not lost, law, regularizer, f"masks {lost} entries that are not zero.")

    support = jax.jit(regularizer.support)
    active = np.asarray(support(p))
    others = np.asarray(support(np.where(mask, noise(x, 1)[0], 0)))
    says = "lets units become active that are zero. Leave them out of the mask."
    require(not (others & ~active).any(), law, regularizer, says)
    sizes = np.broadcast_to(regularizer.unit_sizes(x.shape), active.shape)
    held, inactive = int((~mask).sum()), int(sizes[~active].sum())
    all_zeros = (mask == (p != 0)).all()
    says = f"masks {held} entries, where inactive units have {inactive}."
    require(held == inactive or all_zeros, law, regularizer, says)
