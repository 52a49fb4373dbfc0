"""WHERE in a pytree a regularizer acts: names of leaves, and rules for them."""

from rmda_jax.specs._map import RegularizerMap as RegularizerMap
