"""The rules that choose: a learning rate before the demo, a row of its tables in it."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from examples._data import Dataset
from examples.demo.methods import METHODS, Setting
from examples.demo.training import Front, measure

SELECTION_SEEDS = (100, 101)  # not those of reported figures
EVERY = 2  # values of a front that are tried with each learning rate: every second
MOST_LOST = 0.01  # of accuracy, for the sake of sparsity

Row = dict[str, Any]


def try_settings(
    data: Dataset, methods: tuple[str, ...], epochs: int, batch_size: int
) -> Iterator[Row]:
    """Train by every learning rate of every method, and yield what came of it.

    With every second value of the front; means over SELECTION_SEEDS, on the params that
    carry the structure. Test data take no part.
    """
    for name in methods:
        method = METHODS[name]
        pairs = itertools.product(method.learning_rates, method.values[::EVERY])
        settings = [Setting(*pair) for pair in pairs]
        front = Front(name, settings, SELECTION_SEEDS, epochs, batch_size)
        *_, last = front.train(data.train)
        measured = jax.device_get(measure(last.params, data.validation))
        for i, setting in enumerate(settings):
            means = {key: float(np.mean(x[:, i])) for key, x in measured.items()}
            rounded = {key: round(mean, 5) for key, mean in means.items()}
            rounded["validation_accuracy"] = rounded.pop("accuracy")
            yield {"method": name, **setting._asdict(), **rounded}


def choose(rows: list[Row]) -> dict[str, Row]:
    """Return the row of every method with which the most groups are zero.

    Of those whose accuracy on validation data is at most MOST_LOST below that of the
    best dense network, or of the best row where none is dense. Of equals the one with
    the fewest weights, and the most accurate. A method has none if all of its rows cost
    more. Groups count, because they can be removed.

    Args:
      rows: With ``method``, ``validation_accuracy``, ``groups_zero`` and
        ``weights_zero``, means over seeds.
    """
    dense = [row for row in rows if row["method"] == "dense"] or rows
    best = max(row["validation_accuracy"] for row in dense)
    measures = ("groups_zero", "weights_zero", "validation_accuracy")
    chosen = {}
    for row in sorted(rows, key=lambda row: [row[key] for key in measures]):
        if row["validation_accuracy"] >= best - MOST_LOST:
            chosen[row["method"]] = row
    return chosen
