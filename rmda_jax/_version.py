"""The version, which lives in pyproject.toml alone."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rmda-jax")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
