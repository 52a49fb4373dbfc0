"""How the settings of the identification example were chosen."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from examples.identification import (
    __main__ as identification,
    inner,
    methods,
    selection,
    simulation,
)

FOLDER = Path(selection.__file__).parent


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("selection.jsonl", methods.METHODS),
        ("inner_selection.jsonl", inner.SELECTED),
    ],
)
def test_settings_are_those_that_were_selected(file, settings):
    lines = map(json.loads, (FOLDER / file).read_text("utf-8").splitlines())
    rows = [line for line in lines if "distance" in line]
    assert {m: s[:2] for m, s in selection.selected(rows).items()} == {
        m: s[:2] for m, s in settings.items()
    }


def test_selection_takes_the_nearest_and_tells_of_an_edge():
    rates = [f"{rate:g}" for rate in selection.RATES]
    near = dict.fromkeys(rates, 2.0)
    rows = [
        {"method": "a", "factor": 1.0, "distance": near | {"10": None, "0.1": 1.0}},
        {"method": "b", "factor": 1.0, "distance": near | {"0.1": 1.0}},
        {"method": "b", "factor": 2.0, "distance": near | {"0.3": 0.5}},
        {"method": "b", "factor": 5.0, "distance": near | {"0.3": 0.7}},
    ]
    found = selection.selected(rows)
    assert found == {"a": methods.Setting(0.1), "b": methods.Setting(0.3, 2.0)}
    for edge in (rates[0], rates[-1]):
        at_edge = {"method": "c", "factor": 1.0, "distance": near | {edge: 0.1}}
        with pytest.raises(ValueError, match=r"c: .* at the edge"):
            selection.selected([*rows, at_edge])
    with pytest.raises(ValueError, match=r"b: .*factor=2.0.* at the edge"):
        selection.selected(rows[:3])


def test_selection_is_on_seeds_of_its_own_and_by_the_last_quarter(monkeypatch):
    assert not set(selection.SEEDS) & set(range(identification.Config().seeds))
    grid = selection.settings((1.0, 2.0))

    def simulate(problem, entries, seeds, n_steps):
        # Near at first; in the last quarter as far as the number of the setting.
        end = jnp.arange(40) >= 30
        far = jnp.arange(float(len(grid))).at[3].set(jnp.inf)[:, None, None]
        # NaN with any other seeds.
        right = jnp.where(seeds == jnp.asarray(selection.SEEDS), 0, jnp.nan)
        distance = jnp.where(end, far, 0) + right[:, None]
        return {name: SimpleNamespace(distance=distance) for name in entries}

    monkeypatch.setattr(selection, "simulate", simulate)
    entry = simulation.Entry("RMDA", None, None)
    rows = list(selection.distances(None, entry, grid, 400))
    assert [row["factor"] for row in rows] == [1.0, 2.0]
    found = [distance for row in rows for distance in row["distance"].values()]
    assert found == [0.0, 1.0, 2.0, None, *range(4, len(grid))]
