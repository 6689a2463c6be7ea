import numpy as np
import pytest
import torch

from cryoloom.abinitio.model import StartModel
from cryoloom.abinitio.store import StartStore
from cryoloom.abinitio.tournament import Contender, Outcome, count_agreeing, survivors

MODEL = StartModel(torch.zeros(1, 4), torch.zeros(1, 8, 8, 8))
CENTRE = torch.zeros(3, 2)


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
    contenders = [Contender(i, MODEL, CENTRE, e) for i, e in enumerate(evidence)]
    outcome = Outcome(contenders, 2.0, 0.1, 8.0, 0.3, 1)
    assert outcome.stands_out is expected


@pytest.mark.parametrize("n, expected", [(2, (2, 2, 2)), (4, (4, 3, 3)), (8, (8, 4, 3)), (20, (20, 10, 5))])
def test_half_the_starts_go_on_but_three_at_least(n, expected):
    assert tuple(survivors(n, i) for i in range(3)) == expected


def test_a_start_that_was_put_by_comes_back_to_the_bit(tmp_path):
    generator = torch.Generator().manual_seed(1)
    model = StartModel(torch.randn(2, 5, generator=generator), torch.randn(2, 6, 6, 6, generator=generator))
    contender = Contender(7, model, torch.randn(4, 2, generator=generator), 0.1 + 0.2)
    store = StartStore(tmp_path / "starts")
    assert store.recall(7, 1) is None
    store.keep(1, contender)
    back = StartStore(tmp_path / "starts").recall(7, 1)
    assert back is not None and back.seed == 7 and back.evidence == contender.evidence
    assert np.array_equal(back.model.volumes.numpy(), model.volumes.numpy())
    assert np.array_equal(back.model.profiles.numpy(), model.profiles.numpy())
    assert np.array_equal(back.centre_px.numpy(), contender.centre_px.numpy())
    assert store.recall(7, 0) is None and store.recall(6, 1) is None


@pytest.mark.parametrize(
    "evidence, agreements, gain, expected",
    [
        ((7.4, 7.0, 3.9), (0.67, 0.3), 4.6, 2),  # the same map twice, from few particles
        ((27.2, 27.2, 27.1), (0.69, 0.5), 0.8, 1),  # alike, and no better than what is not alike
        ((36.0, 35.0, 24.0), (0.96, 0.4), 13.0, 2),
        ((36.0, 35.0, 34.0), (0.7, 0.7), 13.0, 1),  # nothing to stand out from
        ((36.0, 35.9, 35.0), (0.3, 0.9), 13.0, 2),
    ],
)
def test_weak_agreement_counts_where_it_explains_more(evidence, agreements, gain, expected):
    assert count_agreeing(evidence, agreements, gain) == expected


@pytest.mark.parametrize(
    ("agreement", "n_agreeing", "firm"), [(0.95, 2, False), (0.99, 2, True), (0.9, 3, True), (0.99, 1, False)]
)
def test_two_starts_that_meet_loosely_ask_for_more(agreement, n_agreeing, firm):
    """Of 120 jobs one ended in a wrong map in which two starts had met to 0.95; in all others they met to 0.98."""
    contenders = [Contender(i, MODEL, CENTRE, e) for i, e in enumerate((19.4, 19.0, 16.1))]
    assert Outcome(contenders, 15.0, 0.6, 12.0, agreement, n_agreeing).firm is firm
