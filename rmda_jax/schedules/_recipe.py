"""A recipe: keyword arguments that print as the table of their stages."""

from typing import Any

from rmda_jax._text import table_lines

_FOREVER = 10**9  # updates


class Stages(dict[str, Any]):
    """Keyword arguments of a dual-averaging transformation; `stages` makes them.

    Printed, it is the table of its stages.

    Args:
      arguments: The keyword arguments.
      steps_per_epoch: Updates per epoch; if not 1, the table counts epochs, too.
      total_steps: Updates of the whole run; None if not known.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        steps_per_epoch: int = 1,
        total_steps: int | None = None,
    ):
        super().__init__(arguments)
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps

    def __str__(self) -> str:
        starts = sorted({0, *self["restart_steps"]})
        ends = [*starts[1:], self.total_steps]
        epochs = () if self.steps_per_epoch == 1 else ("epochs",)
        header = ("stage", "updates", *epochs, "learning rate", "averaging")
        rows: list[tuple[str, ...]] = []
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            last = _FOREVER if end is None else end - 1
            counts = (
                _span(start, None if end is None else last),
                *(f"from {start / self.steps_per_epoch:g}" for _ in epochs),
            )
            averaging = [
                f"{self._at('averaging', count):.3g}" for count in (start, last)
            ]
            rate = f"{self._at('learning_rate', start):.3g}"
            rows.append(
                (str(i + 1), *counts, rate, " to ".join(dict.fromkeys(averaging)))
            )
        (first, *lines), rule = table_lines(header, rows)
        return "\n".join([first, rule, *lines, self.ending()])

    def first_exact(self) -> int | None:
        """Return the first count of updates at which the averaging is 1, or None."""
        low, high = -1, (self.total_steps or _FOREVER) - 1
        if self._at("averaging", high) < 1:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._at("averaging", middle) < 1:
                low = middle
            else:
                high = middle
        return high

    def ending(self) -> str:
        """Say when the params have exact zeros."""
        count = self.first_exact()
        if count is not None:
            return (
                f"The averaging is 1, and zeros of the params exact, from {count:,} on."
            )
        run = (
            "" if self.total_steps is None else f" within {self.total_steps:,} updates"
        )
        return (
            f"The averaging does not reach 1{run}: the params have no exact zeros, the "
            "structured_params have."
        )

    def _at(self, name: str, count: int) -> float:
        value: Any = self[name]
        schedule: Any = value if callable(value) else lambda count: value
        return float(schedule(count))


def _span(start: int, last: int | None) -> str:
    return f"from {start:,}" if last is None else f"{start:,} to {last:,}"
