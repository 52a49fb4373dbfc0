"""WHERE in a pytree a regularizer acts: names, rules, ties."""

from rmda_jax.specs._rules import RegularizerMap as RegularizerMap
from rmda_jax.specs._ties import tied_group_lasso as tied_group_lasso
