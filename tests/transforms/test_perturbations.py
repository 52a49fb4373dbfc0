"""The table of perturbations fits the source; running it takes minutes, not here."""

import pytest

from tests.transforms.perturbations import PERTURBATIONS, ROOT


@pytest.mark.parametrize(
    "perturbation", PERTURBATIONS, ids=lambda p: f"{p.module}-{p.mistake}"
)
def test_perturbation_names_one_expression(perturbation):
    source = (ROOT / perturbation.module).read_text()
    assert source.count(perturbation.right) == 1
    assert perturbation.right != perturbation.wrong
