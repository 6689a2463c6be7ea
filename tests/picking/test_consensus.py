"""Agreement of pickers: clusters of their peaks, and what is told from views made by hand."""

import numpy as np
import picking_bed
import pytest
import torch

from cryoloom.picking.calibrate import noise_p_value
from cryoloom.picking.consensus.fit import agree
from cryoloom.picking.consensus.search import Judged, keep
from cryoloom.picking.consensus.views import LOOKS, Views, cluster, views_of
from cryoloom.picking.finders import LOWEST, round_finder
from cryoloom.picking.prepare import prepare_micrograph
from cryoloom.picking.settings import PickSettings
from cryoloom.picking.template import RoundTemplate


def made_views(rng, n, mean, shift=0.0):
    """`n` places with scores about `mean` in three pickers, and looks about `shift`."""
    strength = rng.normal(size=(n, 1))
    return Views(
        rng.uniform(0, 1000, (n, 2)),
        np.maximum(mean + 0.5 * strength + rng.normal(scale=0.8, size=(n, 3)), LOWEST),
        shift + rng.normal(size=(n, len(LOOKS))),
        np.zeros(n, dtype=bool),
        np.zeros(n, dtype=bool),
        np.full(n, 5.0),
    )


def made_set(seed=0, n_particles=600, n_noise=1500, n_junk=200):
    rng = np.random.default_rng(seed)
    parts = [made_views(rng, n_particles, 4.6), made_views(rng, n_noise, 2.2), made_views(rng, n_junk, 5.0, 3.0)]
    candidates = Views.join(parts)
    kind = np.repeat([0, 1, 2], [len(p) for p in parts])
    decoys = made_views(rng, n_noise, 2.2)
    return candidates, decoys, kind, rng.integers(0, 5, len(candidates)), rng.integers(0, 5, len(decoys))


def test_peaks_of_several_pickers_on_one_particle_are_one_candidate():
    first = (np.asarray([[10.0, 10.0], [50.0, 50.0]]), np.asarray([5.0, 3.0]))
    second = (np.asarray([[12.0, 10.0], [90.0, 20.0]]), np.asarray([4.0, 6.0]))
    found = cluster([first, second], 10.0)
    order = np.argsort(found.place[:, 0])
    assert found.scores[order].tolist() == [[5.0, 4.0], [3.0, LOWEST], [LOWEST, 6.0]]
    assert found.place[order][0].tolist() == pytest.approx([10.8, 10.0], abs=0.01)
    assert found.apart[order].tolist() == pytest.approx([2.0, 0.0, 0.0])
    assert len(cluster([first, first], 200.0).place) == 1
    assert len(cluster([(np.zeros((0, 2)), np.zeros(0))] * 2, 5.0).place) == 0


def test_noise_and_junk_are_told_from_particles():
    candidates, decoys, kind, group, decoy_group = made_set()
    found = agree(candidates, decoys, group, decoy_group)
    assert picking_bed.auc(found.probability[kind == 0], found.probability[kind == 1]) > 0.95
    assert picking_bed.auc(found.clean[kind == 0], found.clean[kind == 2]) > 0.95
    assert (kind[found.trusted] == 0).mean() > 0.9
    for low, high in ((0.0, 0.3), (0.8, 1.0)):
        rows = (found.probability >= low) & (found.probability <= high)
        assert abs(found.probability[rows].mean() - (kind[rows] == 0).mean()) < 0.1
    # all pickers together rank better than each of them
    n = int((kind == 0).sum() * 0.9)
    together = (kind[np.argsort(-found.score)[:n]] == 0).mean()
    assert all(together > (kind[np.argsort(-column)[:n]] == 0).mean() + 0.05 for column in candidates.scores.T)


def test_masked_places_are_never_kept_and_the_share_of_false_picks_is_respected():
    candidates, decoys, kind, group, decoy_group = made_set(1)
    candidates.masked[:50] = True
    found = agree(candidates, decoys, group, decoy_group)
    judged = Judged(candidates, group, found, 1e-9, [0, 1, 2, 3, 4])
    rows, false = keep(judged, PickSettings(false_picks=0.1))
    assert not candidates.masked[rows].any() and false <= 0.1
    assert (kind[rows] != 0).mean() < 0.15 and (kind[rows] == 0).sum() > 450
    assert len(keep(Judged(candidates, group, found, 0.2, [0]), PickSettings())[0]) == 0


def test_what_crowds_along_the_border_is_not_believed():
    candidates, decoys, kind, group, decoy_group = made_set(2, n_junk=0)
    rng = np.random.default_rng(0)
    decoys.border[:50] = 0.7  # the strip has a thirtieth of the area
    particles, noise = np.flatnonzero(kind == 0), np.flatnonzero(kind == 1)
    candidates.border[rng.choice(noise, 50, replace=False)] = 0.7
    even = agree(candidates, decoys, group, decoy_group)
    crowd = particles[:200]  # a third of all that stands above noise
    candidates.border[crowd] = 0.7
    crowded = agree(candidates, decoys, group, decoy_group)
    assert np.median(crowded.clean[crowd]) < 0.5 < np.median(even.clean[crowd])
    np.testing.assert_allclose(crowded.clean[particles[200:]], even.clean[particles[200:]], atol=0.05)


def test_candidates_and_decoys_of_pure_noise_are_alike():
    image = torch.randn(700, 800, generator=torch.Generator().manual_seed(4))
    finders = [round_finder(RoundTemplate.ball(d)) for d in (60.0, 90.0)]
    prepared = prepare_micrograph(image, 3.0, None, 80.0, dark=True, exclude=False)
    candidates, decoys = views_of(prepared, finders, 80.0, distance=60.0, margin=20.0)
    free = ~candidates.contested
    assert abs(free.sum() - len(decoys)) < 0.25 * len(decoys)
    assert candidates.looks.shape[1] == len(LOOKS)
    assert noise_p_value(np.sort(candidates.scores[free].sum(1)), np.sort(decoys.scores.sum(1))) > 1e-3
    back = Views.from_json(candidates.as_json())
    np.testing.assert_allclose(back.scores, candidates.scores, atol=1e-4)
    inverse, _ = views_of(
        prepare_micrograph(-image, 3.0, None, 80.0, dark=True, exclude=False), finders, 80.0, distance=60.0, margin=20.0
    )
    np.testing.assert_allclose(np.median(inverse.looks, 0), np.median(decoys.looks, 0), atol=0.35)
