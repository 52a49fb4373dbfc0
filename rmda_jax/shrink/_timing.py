"""How long programs take, by turns, so that all meet the same load."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

Timer: TypeAlias = Callable[[Sequence[Callable[[], Any]]], np.ndarray]
"""From calls without arguments to their seconds, of shape (calls, rounds)."""


class Timing(NamedTuple):
    """How long the model takes at some widths; made by `latency`.

    Attributes:
      counts: How many units of every group it has.
      seconds: What was measured.
      modelled: What the model of the latency says.
      fitted: Whether it was fitted to these widths.
    """

    counts: tuple[int, ...]
    seconds: float
    modelled: float
    fitted: bool

    @property
    def error(self) -> float:
        """How far the model is off, as a share of what was measured."""
        return abs(self.modelled / self.seconds - 1)


def by_turns(repeats: int) -> Timer:
    """Return a timer that makes all calls in each of some rounds.

    Every call is made twice in a row, and the second one counts: the first brings its
    arrays back into the cache, from which the other calls have driven them.

    Raises:
      ValueError: ``repeats`` is not positive.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be positive, got {repeats}.")

    def timer(calls: Sequence[Callable[[], Any]]) -> np.ndarray:
        seconds = np.zeros((len(calls), repeats))
        for column in seconds.T:
            for i, call in enumerate(calls):
                _ = jax.block_until_ready(call())
                start = time.perf_counter()
                _ = jax.block_until_ready(call())
                column[i] = time.perf_counter() - start
        return seconds

    return timer
