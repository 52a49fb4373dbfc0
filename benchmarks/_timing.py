"""All timing: contestants take turns, and only ratios inside a round are believed.

What disturbs a machine for a minute disturbs every contestant of a round alike, so a
ratio is taken within each round, and its median over the rounds is reported, with the
interquartile range as the noise. A difference smaller than that range is none.

A busy machine does not slow all alike (threads that spin or wait for one another lose
most), so a round begins when the cores are idle. If they never are, the rounds run all
the same, and the result says so.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

Row = dict[str, Any]
Contestant = Callable[[], Any]  # takes its turn, and returns the arrays to wait for

_STAT = Path("/proc/stat")
_WINDOW = 0.25  # seconds over which cores are watched
_IDLE = 0.1  # share of the cores' time that may be in use
_PAUSE = 0.01  # seconds in which the last contestant's threads stop spinning


@dataclasses.dataclass(frozen=True)
class Times:
    """What a race took: the seconds of one call, an entry per round."""

    seconds: Mapping[str, np.ndarray]
    idle: bool | None  # whether all rounds began on idle cores; None if none can tell

    def row(self, name: str, **references: str) -> Row:
        """Return the results of a contestant, as columns of a table.

        Args:
          name: The contestant.
          **references: Contestants to compare with, by the label of their column.

        Returns:
          Median milliseconds, medians and interquartile ranges of the ratios, idleness.
        """
        own = self.seconds[name]
        row: Row = {"milliseconds": float(np.median(own)) * 1e3}
        for label, reference in references.items():
            if reference in self.seconds:
                low, middle, high = np.percentile(
                    own / self.seconds[reference], [25, 50, 75]
                )
                row[f"times_{label}"] = float(middle)
                row[f"times_{label}_iqr"] = float(high - low)
        return row | {"idle": self.idle}

    def median(self, name: str) -> float:
        """Return the median seconds of a contestant."""
        return float(np.median(self.seconds[name]))


class Referee:
    """Runs races; its patience with busy cores is one budget for all of them."""

    def __init__(
        self,
        rounds: int,
        patience: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
        busy: Callable[[], float | None] | None = None,
    ):
        """Set the rules.

        Args:
          rounds: Of every race.
          patience: Seconds to wait for idle cores, altogether.
          clock: Tells seconds.
          sleep: Waits for so many.
          busy: Takes a moment, and returns the share of the cores in use, or None.
        """
        self.rounds = rounds
        self.patience = patience
        self._clock, self._sleep = clock, sleep
        self._busy = busy or busy_share

    def race(
        self,
        contestants: Mapping[str, Contestant],
        *,
        rounds: int | None = None,
        repeats: int = 1,
        warm: bool = True,
    ) -> Times:
        """Let every contestant take one turn per round, every other round backwards.

        Args:
          contestants: What is timed. One that donates its arguments keeps the arrays it
            returned for its next call.
          rounds: Other than usual.
          repeats: Calls in a turn; the last one is waited for.
          warm: Whether a turn begins with a call that is not timed. It brings back the
            threads and the cache lines that other contestants, or waiting, took.
        """
        idle: bool | None = True
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for i in range(self.rounds if rounds is None else rounds):
            seen = self._wait()
            idle = seen if not seen else idle
            names = list(contestants)
            for name in names if i % 2 == 0 else reversed(names):
                turn = contestants[name]
                self._sleep(_PAUSE)
                if warm:
                    jax.block_until_ready(turn())
                start = self._clock()
                for _ in range(repeats - 1):
                    turn()
                jax.block_until_ready(turn())
                seconds[name].append((self._clock() - start) / repeats)
        return Times({name: np.array(s) for name, s in seconds.items()}, idle)

    def _wait(self) -> bool | None:
        """Wait for idle cores while patience lasts; return whether they are."""
        while (busy := self._busy()) is not None and busy > _IDLE:
            if self.patience <= 0:
                return False
            start = self._clock()
            self._sleep(_WINDOW)
            self.patience -= self._clock() - start
        return None if busy is None else True


def busy_share() -> float | None:
    """Watch the cores for a moment; return the share in use, None if it is not told."""
    if not _STAT.exists():
        return None
    before = _jiffies()
    time.sleep(_WINDOW)
    used, total = (b - a for a, b in zip(before, _jiffies(), strict=True))
    return used / max(1, total)


def _jiffies() -> tuple[int, int]:
    """Return how long our cores were in use, and how long they were there."""
    ours = {f"cpu{i}" for i in _cpus()}
    used = total = 0
    for name, *counts in map(str.split, _STAT.read_text().splitlines()):
        if name in ours:
            spent = [int(x) for x in counts[:8]]
            total += sum(spent)
            used += sum(spent) - spent[3] - spent[4]  # idle, or waiting for a disk
    return used, total


def n_cpus() -> int:
    """Return how many cores this process may use."""
    return len(_cpus())


def _cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
