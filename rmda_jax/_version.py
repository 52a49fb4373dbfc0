"""The version, which lives in pyproject.toml alone; and the oldest JAX it runs on."""

from importlib.metadata import PackageNotFoundError, version

import jax

OLDEST_JAX = (0, 6, 2)  # as in pyproject.toml

# Fail here with a clear message instead of an AttributeError later.
if jax.__version_info__ < OLDEST_JAX:
    needed = ".".join(map(str, OLDEST_JAX))
    raise ImportError(
        f"rmda_jax needs jax {needed} or newer, found {jax.__version__}. Install one: "
        f'pip install --upgrade "jax>={needed}".'
    )

try:
    __version__ = version("rmda-jax")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
