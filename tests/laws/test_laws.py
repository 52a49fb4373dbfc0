"""Every law on every named regularizer.

Compiling is what takes the time here, so each law runs in one precision, and those that
compare programs on one case of every factory.
"""

import numpy as np
import pytest

from rmda_jax import testing
from tests._table import public_factories
from tests.laws._table import CASES, each_law, first_cases

pytestmark = pytest.mark.costly

# Whatever the shape, the same operations are traced.
OF_PROGRAMS = (
    testing.check_object,
    testing.check_jit,
    testing.check_vmap,
    testing.check_dtypes,
    testing.check_finite_gradients,
)
# In float32 these tell an error of 1e-3 from rounding, in float64 one of 1e-6.
SHARP = (
    testing.check_minimizes,
    testing.check_firmly_nonexpansive,
    testing.check_zero_step,
    testing.check_homogeneous,
    testing.check_metric_prox,
    testing.check_certificate,
    testing.check_critical_strengths,
)
# What these compile, the others need, too.
IN_BOTH = SHARP[:4]
OTHERS = [
    law for law in testing.LAWS if law in IN_BOTH or law not in OF_PROGRAMS + SHARP
]


def test_every_public_factory_has_a_case():
    assert {case.factory for case in CASES} == public_factories()
    assert {*OF_PROGRAMS, *SHARP, *OTHERS} == set(testing.LAWS)


# By default of every kind of regularizer, where others are of every factory. The first
# is a part of all laws; of every factory, oracles say more than the last.
ANSWERS = (testing.check_answers,)
COMPILED = tuple(law for law in OF_PROGRAMS if law is not testing.check_object)
HELD_TO_ORACLES = tuple(law for law in SHARP if law is not testing.check_certificate)


@pytest.mark.parametrize(("case", "law"), each_law(OTHERS, of_kinds=ANSWERS))
def test_regularizer_obeys_the_law(case, law):
    law(case.regularizer, case.x.astype(np.float32), case.step_size)


@pytest.mark.parametrize(
    ("case", "law"), each_law(OF_PROGRAMS, first_cases(), COMPILED)
)
def test_program_obeys_the_law(case, law):
    law(case.regularizer, case.x.astype(np.float32), case.step_size)


@pytest.mark.parametrize(("case", "law"), each_law(SHARP, of_kinds=HELD_TO_ORACLES))
def test_regularizer_obeys_the_law_in_float64(case, law, x64):
    law(case.regularizer, case.x, case.step_size)
