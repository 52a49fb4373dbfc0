"""Signatures that ``help`` shows in the words of the source.

The annotation `ScalarOrSchedule` must stand in a transformation's ``__annotations__``
as it is, for by it tools find out what may be a schedule. Printed, it is a union of
twelve types, in full wherever it occurs. So a signature of its own, which
`inspect.signature` finds, has the name in its place.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from rmda_jax._types import ScalarOrSchedule

_Factory = TypeVar("_Factory", bound=Callable[..., Any])


class _Named:
    """An annotation that is shown by its name, and equals what the name stands for."""

    def __init__(self, name: str, meaning: Any):
        self.name, self.meaning = name, meaning

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        meaning = other.meaning if isinstance(other, _Named) else other
        return self.meaning == meaning

    def __hash__(self) -> int:
        return hash(self.meaning)


_SCALAR_OR_SCHEDULE = _Named("ScalarOrSchedule", ScalarOrSchedule)


def readable(factory: _Factory) -> _Factory:
    """Give a function a signature that names `ScalarOrSchedule`."""
    signature = inspect.signature(factory)
    parameters = [
        parameter.replace(annotation=_SCALAR_OR_SCHEDULE)
        if parameter.annotation == ScalarOrSchedule
        else parameter
        for parameter in signature.parameters.values()
    ]
    factory.__signature__ = signature.replace(parameters=parameters)
    return factory
