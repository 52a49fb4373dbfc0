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


def by_turns(repeats: int, clock: Callable[[], float] = time.perf_counter) -> Timer:
    """Return a timer that makes all calls in each of some rounds.

    Every call is made twice in a row, and the second one counts: the first brings its
    arrays back into the cache, from which the other calls have driven them.

    Args:
      repeats: How many rounds there are.
      clock: What tells the seconds. On a machine that others use as well,
        ``time.process_time``, which counts the seconds of all threads of this process,
        says more.

    Returns:
      What `latency`, `fastest` and `report` take as ``timer``: a function from calls
      without arguments to their seconds, of shape (calls, rounds).

    Raises:
      ValueError: ``repeats`` is not positive.

    Examples:
      >>> import itertools
      >>> from rmda_jax import shrink
      >>> ticks = itertools.count()
      >>> timer = shrink.by_turns(3, clock=lambda: float(next(ticks)))
      >>> timer([lambda: 1, lambda: 2]).tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be positive, got {repeats}.")

    def timer(calls: Sequence[Callable[[], Any]]) -> np.ndarray:
        seconds = np.zeros((len(calls), repeats))
        for column in seconds.T:
            for i, call in enumerate(calls):
                _ = jax.block_until_ready(call())
                start = clock()
                _ = jax.block_until_ready(call())
                column[i] = clock() - start
        return seconds

    return timer
