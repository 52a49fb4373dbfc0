"""WHERE in a pytree: canonical leaf names and ordered rules over them."""

from rmda_jax.specs._rules import RegularizerMap as RegularizerMap
