"""What the models of the zoo share: sizes, keys and inputs."""

import jax

KEY = jax.random.key(0)
WIDTH, HIDDEN, HEADS = 8, 12, 2
N_TOKENS = 16  # of the vocabularies


def vectors(*shape: int) -> jax.Array:
    """Draw inputs."""
    return jax.random.normal(jax.random.key(1), shape)


def tokens(*shape: int) -> jax.Array:
    """Draw tokens."""
    return jax.random.randint(jax.random.key(1), shape, 0, N_TOKENS)
