"""Which entries belong to the support: the mask that keeps a structure as it is."""

from rmda_jax._types import Arrays
from rmda_jax.regularizers._hooks import array_from
from rmda_jax.regularizers._on_leaves import OnLeaves


class SupportMask(OnLeaves):
    """The support entry by entry, for structures that are zeros."""

    def support_mask(self, x: Arrays) -> Arrays:
        """Return which entries belong to active units.

        What is trained with the others held at zero keeps the structure.

        Args:
          x: Real floating array.

        Returns:
          Boolean array of ``x``'s shape; False where the structure is zero. A zero
          inside an active group is True, unless zeros inside of groups are structure,
          too, as for `sparse_group_lasso`. Positions in no group of a tie are True.

        Raises:
          NotImplementedError: no zeros of entries or groups make up the structure, as
            for ranks, levels, differences and sets with a boundary.
          TypeError, ValueError: as in `Regularizer.check`.

        Examples:
          >>> x = jnp.array([[3.0, 0.0], [0.0, 0.0]])
          >>> rj.group_lasso(0).support_mask(x)
          Array([[ True,  True],
                 [False, False]], dtype=bool)
        """
        return array_from(self._support_mask, self._checked_wide(x))

    def _support_mask(self, x: Arrays) -> Arrays:
        del x
        raise NotImplementedError(
            f"{self} has no support mask: its structure is more than zero entries or "
            "zero groups, and holding zeros does not keep it. Keep it by `prox` or "
            "`snap`, or ask on penalties of entries or groups, or on sets such as "
            "top_k and n_m that count nonzeros."
        )
