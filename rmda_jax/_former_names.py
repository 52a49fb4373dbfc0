"""Names that stood at the top before they had a room of their own."""

from types import FunctionType
from typing import TYPE_CHECKING, Any

from rmda_jax import regularizers

if not TYPE_CHECKING:  # to a type checker a misspelt name would be one of these

    def __getattr__(name: str) -> Any:
        """Find every regularizer in `rmda_jax` as well, as code of before does."""
        if isinstance(factory := vars(regularizers).get(name), FunctionType):
            return factory
        raise AttributeError(f"module 'rmda_jax' has no attribute {name!r}")
