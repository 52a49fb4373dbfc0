"""Which multiple is fastest, by a timer that knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rmda_jax import shrink
from tests.shrink.test_multiples import X, layers, mlp

X = jnp.asarray(X, jnp.float32)
PARAMS = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), layers())
# Of 20 and 30 units 5 and 11 are read.
WIDTHS = {1: (5, 11), 4: (8, 12), 8: (8, 16), 16: (16, 16), 24: (20, 24), 32: (20, 30)}


def found(seconds, **options):
    """Return what is fastest, where the programs take these seconds in turn."""

    def timer(calls):
        assert len(calls) == len(seconds)
        for call in calls:
            np.testing.assert_allclose(call(), mlp(PARAMS, X), rtol=1e-5, atol=1e-5)
        return np.array([[x, x, 9 * x] for x in seconds])

    return shrink.fastest(mlp, PARAMS, X, timer=timer, **options)


def test_the_fastest_is_taken():
    best = found([2.0, 1.8, 1.7, 1.0, 1.2, 1.9, 2.0])
    assert best.multiple_of == 8
    assert best.plan is best.trials[2].plan
    widths = [(*x.plan.widths["a"][1:], x.plan.widths["c"][0]) for x in best.trials]
    assert dict(zip(WIDTHS, widths, strict=True)) == WIDTHS
    assert [x.latency for x in best.trials][:3] == [0.9, 0.85, 0.5]
    assert best.trials[0].weights == (6 * 5 + 5 * 11 + 11 * 3) / (120 + 600 + 90)
    assert str(best).splitlines()[3].split() == ["8", "0.28", "0.50", "taken"]


def test_of_those_that_are_as_fast_the_smallest_is_taken():
    assert found([1.0, 0.104, 0.1, 0.5, 0.5, 0.5, 0.5]).multiple_of == 1
    assert found([1.0, 0.106, 0.1, 0.5, 0.5, 0.5, 0.5]).multiple_of == 4


def test_equal_plans_are_run_once():
    multiples = (1, {"c": 8, "*": 1}, 32, 64)
    best = found([1.0, 0.5, 0.6, 0.7], multiples=multiples, for_program=True)
    assert [x.seconds for x in best.trials] == [0.5, 0.6, 0.7, 0.7]


def test_there_must_be_multiples():
    with pytest.raises(ValueError, match="`multiples` must have something to try"):
        _ = found([], multiples=())
