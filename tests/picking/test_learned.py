"""The learned picker: its loss, its examples, its network, and what it finds from twenty labels."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, Optics, PickSet
from cryoloom.picking.learned.examples import (
    CROP,
    IGNORED,
    OFF_CENTRE,
    PARTICLE,
    UNLABELLED,
    Examples,
    Labelled,
    known_of,
    turned,
)
from cryoloom.picking.learned.labels import labels_of
from cryoloom.picking.learned.loss import positive_unlabelled_loss
from cryoloom.picking.learned.model import LearnedPicker, load_picker, save_picker
from cryoloom.picking.learned.network import PickerNetwork, answer_map
from cryoloom.picking.learned.training import train_network
from cryoloom.picking.networks import initialise_layers


def spots(n, seed, shape=(144, 160)):
    """Noise with bright discs, and where they are."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2, *shape)).astype(np.float32)
    place = np.stack(np.meshgrid(np.arange(20, shape[0] - 10, 28), np.arange(20, shape[1] - 10, 28)), -1).reshape(-1, 2)
    place = place[rng.permutation(len(place))[:n]] + rng.uniform(-3, 3, (n, 2))
    y, x = np.mgrid[: shape[0], : shape[1]]
    for cy, cx in place:
        image[:, np.hypot(y - cy, x - cx) < 5] += 2.0
    return image, place


def labelled(image, place):
    return Labelled(image, place, np.ones(len(place)), np.zeros(image.shape[1:], dtype=bool))


def test_the_loss_of_unlabelled_places_is_that_of_labelled_ones():
    generator = torch.Generator().manual_seed(0)
    particles = 1.0 + torch.randn(200_000, generator=generator, dtype=torch.float64)
    background = torch.randn(800_000, generator=generator, dtype=torch.float64) - 1.0
    loss = positive_unlabelled_loss(particles[:100_000], torch.cat([particles, background]), 0.2)
    known = torch.nn.functional.softplus(-particles).mean() + torch.nn.functional.softplus(background).mean()
    assert abs(float(loss - known)) < 0.01
    with pytest.raises(ValueError, match="prior"):
        positive_unlabelled_loss(particles, background, 1.0)


def test_a_negative_risk_is_turned_back():
    particles = torch.full((10,), 6.0, requires_grad=True)
    background = torch.full((10,), -9.0, requires_grad=True)
    positive_unlabelled_loss(particles, background, 0.3).backward()
    assert float(background.grad[0]) < 0  # a step down the gradient raises what is already too low


def test_what_is_known_around_a_label():
    excluded = np.zeros((80, 90), dtype=bool)
    excluded[:10] = True
    known = known_of((80, 90), np.asarray([[40.0, 50.0]]), 30.0, excluded)
    assert known.shape == (40, 45)
    assert known[20, 25] == PARTICLE and known[20, 25 + 7] == OFF_CENTRE and known[20, 25 + 3] == IGNORED
    assert known[20, 25 - 9] == UNLABELLED and (known[:5] == IGNORED).all()


@pytest.mark.parametrize("angle", [0.4, np.pi / 2])
def test_labels_turn_with_the_micrograph(angle):
    image = np.zeros((2, 61, 72), dtype=np.float32)
    image[:, 22, 45] = 1.0
    view = turned(labelled(image, np.asarray([[22.0, 45.0]])), angle)
    peak = np.unravel_index(int(view.image[0].argmax()), view.image[0].shape)
    assert np.abs(view.place[0] - peak).max() <= 0.5
    assert view.excluded[0, 0] and not view.excluded[30, 36]


def test_half_of_the_small_images_hold_a_label_and_the_prior_counts_the_others():
    image, place = spots(6, 1)
    examples = Examples([labelled(image, place)], 16.0, np.random.default_rng(0))
    batch = examples.batch(16)
    assert batch.image.shape == (16, 2, CROP, CROP)
    assert (batch.known == PARTICLE).any(dim=(1, 2))[:8].float().mean() > 0.9
    assert not batch.anywhere[:8].any() and batch.anywhere[8:].all()
    known = known_of(image.shape[1:], place, 16.0, np.zeros(image.shape[1:], dtype=bool))
    assert examples.prior(12) == pytest.approx(2 * (known == PARTICLE).sum() / (known == UNLABELLED).sum())
    assert examples.prior(-3) == 0
    with pytest.raises(ValueError, match="label"):
        Examples([labelled(image, place[:0])], 16.0, np.random.default_rng(0))


def test_moving_the_micrograph_moves_the_answer():
    network = PickerNetwork()
    initialise_layers(network, torch.Generator().manual_seed(0))
    image = torch.randn(2, 160, 136, generator=torch.Generator().manual_seed(1))
    here, there = answer_map(network, image), answer_map(network, image.roll((16, 8), (1, 2)))
    torch.testing.assert_close(here[56:88, 56:72], there[72:104, 64:80], atol=1e-4, rtol=1e-4)


def test_training_finds_spots_and_the_same_seed_gives_the_same_network(tmp_path):
    image, place = spots(14, 2)
    data = [labelled(image, place[:5])]
    first = train_network(data, 14, 14.0, steps=24, seed=7, batch_size=8)
    second = train_network(data, 14, 14.0, steps=24, seed=7, batch_size=8)
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert first.losses[-5:].mean() < 0.6 * first.losses[:3].mean()
    fresh, hidden = spots(10, 3)
    odds = answer_map(first.network, torch.from_numpy(fresh)).numpy()
    y, x = np.rint(hidden).astype(int).T
    assert np.median(odds[y, x]) > np.quantile(odds, 0.9)
    picker = LearnedPicker(first.network, first.background, 80.0, 100.0, True)
    save_picker(picker, tmp_path / "picker.npz")
    again = load_picker(tmp_path / "picker.npz")
    assert (again.core, again.extent, again.dark, again.background) == (80.0, 100.0, True, first.background)
    assert np.array_equal(answer_map(again.network, torch.from_numpy(fresh)).numpy(), odds)


def test_another_file_is_no_picker(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    np.savez(tmp_path / "b.npz", format=1)
    for name in ("a.npz", "b.npz"):
        with pytest.raises(InputError, match="no picker"):
            load_picker(tmp_path / name)


def test_labels_know_their_micrograph_by_path_or_name():
    micrographs = MicrographSet(
        path=np.asarray(["a/one.mrc", "a/two.mrc"]), optics=(Optics(pixel_size=1.0),), optics_index=np.zeros(2, int)
    )
    labels = PickSet(
        position_px=np.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        micrograph=np.asarray(["a/two.mrc", "one", "three"]),
        probability=np.asarray([0.5, 1.0, 1.0]),
    )
    found = labels_of(micrographs, labels)
    assert found.keys() == {0, 1}
    assert found[1][0].tolist() == [[1.0, 2.0]] and found[1][1].tolist() == [0.5]
    with pytest.raises(InputError, match="None of the labels"):
        labels_of(micrographs, labels.select([2]))
