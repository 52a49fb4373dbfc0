"""Every law on every named regularizer, in float32 or, the sharp ones, in float64."""

import numpy as np
import pytest

from rmda_jax import testing
from tests._factories import public_factories
from tests.laws._table import CASES, each_law

# In float32 these tell an error of 1e-3 from rounding, in float64 one of 1e-6. What the
# metric prox does in float32, its oracle tells.
SHARP = (
    testing.check_minimizes,
    testing.check_firmly_nonexpansive,
    testing.check_zero_step,
    testing.check_homogeneous,
    testing.check_metric_prox,
    testing.check_certificate,
)
IN_FLOAT32 = [law for law in testing.LAWS if law is not testing.check_metric_prox]


def test_every_public_factory_has_a_case():
    assert {case.factory for case in CASES} == public_factories()


@pytest.mark.parametrize(("case", "law"), each_law(IN_FLOAT32))
def test_regularizer_obeys_the_law(case, law):
    law(case.regularizer, case.x.astype(np.float32), case.step_size)


@pytest.mark.parametrize(("case", "law"), each_law(SHARP))
def test_regularizer_obeys_the_law_in_float64(case, law, x64):
    law(case.regularizer, case.x, case.step_size)
