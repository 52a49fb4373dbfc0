"""Double precision for the length of a `with` block, on every supported JAX."""

from contextlib import AbstractContextManager

import jax


def float64() -> AbstractContextManager[None]:
    """Return a context in which new arrays may be float64."""
    if hasattr(jax, "enable_x64"):  # JAX 0.8 and newer
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64(True)
