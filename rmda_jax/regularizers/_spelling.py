"""The names of regularizers: the call that makes one, as a user writes it."""

import dataclasses
import math
import numbers
from typing import Any


def call(name: str, *positional: Any, **keywords: Any) -> str:
    """Return a call as Python writes it, for instance ``mcp(gamma=2.0)``."""
    words = [*map(_spelled, positional)]
    words += [f"{key}={_spelled(value)}" for key, value in keywords.items()]
    return f"{name}({', '.join(words)})"


def arguments(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    found = {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance)}
    return {
        field.name: found[field.name]
        for field in dataclasses.fields(instance)
        if found[field.name] != field.default
    }


def as_written(axes: tuple[int, ...]) -> int | tuple[int, ...]:
    """Return a tuple of one axis as the int that users write."""
    return axes[0] if len(axes) == 1 else axes


def _spelled(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, numbers.Integral):
        return repr(int(value))
    number = float(value)  # a NumPy number shows its type
    return repr(number) if math.isfinite(number) else f"float('{number}')"
