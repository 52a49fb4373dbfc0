"""Every law on every named regularizer, in float32; the sharp ones in float64, too."""

import numpy as np
import pytest

from rmda_jax import testing
from tests._factories import public_factories
from tests.laws._table import CASES, each_law

# In float32 these tell errors above 1e-3 or so from rounding; here above 1e-7.
SHARP = (
    testing.check_minimizes,
    testing.check_firmly_nonexpansive,
    testing.check_zero_step,
    testing.check_homogeneous,
    testing.check_metric_prox,
    testing.check_certificate,
)


def test_every_public_factory_has_a_case():
    assert {case.factory for case in CASES} == public_factories()


@pytest.mark.parametrize(("case", "law"), each_law())
def test_regularizer_obeys_the_law(case, law):
    law(case.regularizer, case.x.astype(np.float32), case.step_size)


@pytest.mark.parametrize(("case", "law"), each_law(SHARP))
def test_regularizer_obeys_the_law_in_float64(case, law, x64):
    law(case.regularizer, case.x, case.step_size)
