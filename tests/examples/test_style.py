"""The look that all figures share."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from examples import _style
from examples.poster import figures
from examples.poster.presets import METHODS


@pytest.mark.parametrize("heights", [[0.0, 0.0, 0.01, 0.9], [0.97, 0.98, 0.99, 1.0]])
def test_names_beside_curves_are_apart_and_inside(heights):
    found = _style.spread(np.asarray(heights), 0.1)
    assert np.all(np.diff(found) > 0.099)
    assert found.min() >= 0
    assert found.max() <= 1


def test_curves_are_named_in_their_colour_at_their_height():
    axes = Figure().subplots()
    axes.plot([0, 1], [0.0, 0.0], color="#0072B2", label="low")
    axes.plot([0, 1], [0.0, 1.0], color="#D55E00", label="high")
    axes.plot([0, 1], [0.5, 0.5], label="_")
    axes.set_ylim(0, 1)
    _style.label_ends(axes)
    low, high = axes.texts
    assert (low.get_text(), low.get_color()) == ("low", "#0072B2")
    assert (high.get_text(), high.get_color()) == ("high", "#D55E00")
    assert low.get_position()[1] == pytest.approx(0.0)
    assert high.get_position()[1] == pytest.approx(1.0)


def test_every_method_of_the_poster_has_a_colour_of_its_own():
    colors = [figures._color(method) for method in METHODS]
    assert len(set(colors)) == len(METHODS)
    assert figures._color("rmda") == _style.COLORS["RMDA"]
