"""What `help` shows of a transformation, and what tools find in it."""

import inspect
import pydoc
import typing

import optax
import pytest

import rmda_jax as rj

NAMES = "rmda ramda proxsgd proxsgd_adaptive proxgen proxssi rigl".split()


@pytest.mark.parametrize("name", NAMES)
def test_help_names_what_may_be_a_schedule(name):
    factory = getattr(rj, name)
    signature = str(inspect.signature(factory))
    assert "ScalarOrSchedule" in signature
    assert "numpy" not in signature  # of the union of what is a number
    assert signature.partition(" -> ")[0] in pydoc.plain(pydoc.render_doc(factory))


@pytest.mark.parametrize("name", NAMES)
def test_tools_find_what_may_be_a_schedule(name):
    """As Optax's own suite asks, and as type hints give it."""
    factory = getattr(rj, name)
    hints = typing.get_type_hints(factory)
    scheduled = {n for n, hint in hints.items() if hint == optax.ScalarOrSchedule}
    parameters = inspect.signature(factory).parameters
    assert scheduled == {
        parameter.name
        for parameter in parameters.values()
        if parameter.annotation in (optax.ScalarOrSchedule, optax.Schedule)
    }
    assert scheduled


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (rj.Regularizer.prox, "Arrays"),
        (rj.Regularizer.metric_prox, "Arrays"),
        (rj.Regularizer.margin, "Scalar"),
        (rj.RegularizerMap.prox, "Scalar"),
    ],
)
def test_help_names_arrays_and_scalars(method, name):
    signature = str(inspect.signature(method))
    assert name in signature
    assert "numpy" not in signature
