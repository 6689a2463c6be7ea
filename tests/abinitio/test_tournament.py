import pytest
import torch

from cryoloom.abinitio.model import StartModel
from cryoloom.abinitio.tournament import Contender, Outcome

MODEL = StartModel(torch.zeros(1, 4), torch.zeros(1, 8, 8, 8))


@pytest.mark.parametrize(
    "evidence, expected",
    [
        ((28.48, 26.44, 26.42, 26.40, 26.36, 26.33), True),
        ((26.16, 26.10, 26.04, 26.00, 25.98, 25.95), False),
        ((24.6, 23.2, 22.8, 22.1, 21.5), False),
        ((28.48, 26.44, 26.42), False),
    ],
)
def test_only_a_start_far_above_many_that_are_alike_stands_out(evidence, expected):
    contenders = [Contender(i, MODEL, e) for i, e in enumerate(evidence)]
    outcome = Outcome(contenders, 2.0, 0.1, 8.0, 0.3, 1)
    assert outcome.stands_out is expected
