"""A pytest plugin: the names that the examples in the docstrings may use."""

import pytest


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
    import jax
    import jax.numpy as jnp
    import optax

    import rmda_jax as rj

    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax, rj=rj)
