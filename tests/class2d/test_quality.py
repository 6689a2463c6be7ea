import numpy as np
import torch
from bed_images import BOX, Memory, particles, view_images

from cryoloom.class2d.extent import estimate_diameter
from cryoloom.class2d.membership import member_probability
from cryoloom.class2d.quality import judge_classes, particle_junk


def judge(images, correlation, count):
    return judge_classes(images, correlation, torch.arange(1, 17), 10, count, 24.0, BOX * 4.0)


def test_a_class_without_agreement_between_its_halves_is_not_good():
    images = view_images(2)
    sharp = torch.linspace(1, 0.5, 16).double()
    noise = torch.full((16,), 0.05).double()
    quality = judge(images, torch.stack([sharp, noise]), torch.tensor([100, 100]))
    assert quality.good[0] > 0.8
    assert quality.good[1] < 0.05
    assert any("agree" in reason for reason in quality.reasons[1])


def test_an_average_that_lies_off_the_centre_or_over_the_rim_is_not_good():
    image = view_images(1)[0]
    images = torch.stack([image, image.roll(9, 1)])
    quality = judge(images, torch.linspace(1, 0.5, 16).double().expand(2, -1), torch.tensor([100, 100]))
    assert quality.good[0] > 0.8 and quality.good[1] < 0.2
    assert quality.reasons[0] == [] and quality.reasons[1]


def test_a_class_that_resolves_less_than_its_number_of_images_gives_is_no_particle():
    ring = torch.arange(16).double()
    per_image = 0.3 * torch.exp(-0.4 * ring)  # signal over noise
    count = torch.tensor([100, 80, 10, 60])
    ratio = count[:, None] * per_image
    ratio[3] = 60 * 3.0 * torch.exp(-1.6 * ring)  # ten times as strong, and of one size only
    quality = judge(view_images(4), ratio / (1 + ratio), count)
    assert (quality.good[:2] > 0.8).all()
    assert quality.good[2] > 0.6  # fewer images, the same particle
    assert quality.good[3] < 0.1 and "so many images" in " ".join(quality.reasons[3])


def test_a_dip_in_the_agreement_of_the_halves_is_no_lack_of_detail():
    per_image = 0.3 * torch.exp(-0.4 * torch.arange(16).double())
    count = torch.tensor([80, 80, 80])
    ratio = (count[:, None] * per_image).clone()
    ratio[2, 4:6] *= 0.02  # the transform of a view passes through zero
    quality = judge(view_images(3), ratio / (1 + ratio), count)
    assert (quality.good > 0.8).all()


def test_empty_classes_are_named():
    quality = judge(view_images(2), torch.ones(2, 16).double(), torch.tensor([10, 0]))
    assert quality.good[1] == 0 and quality.reasons[1] == ["no particles"]


def test_a_particle_that_fits_far_worse_than_its_fellows_is_junk():
    rng = np.random.default_rng(0)
    scale = np.r_[rng.normal(1, 0.1, 200), rng.normal(0.3, 0.1, 40)]
    scale[:100] *= 0.6  # averages of another class may be too strong
    group = np.r_[np.zeros(100, int), np.ones(140, int)]
    member = member_probability(scale, np.full(240, 400.0), group)
    junk = particle_junk(np.array([0.9, 0.95]), group, member)
    assert (junk[200:] > 0.9).mean() > 0.95
    assert (junk[:200] < 0.5).mean() > 0.95
    assert particle_junk(np.array([0.9]), np.array([-1]), np.ones(1))[0] == 1.0


def test_a_set_without_junk_loses_next_to_nothing():
    rng = np.random.default_rng(1)
    scale = rng.normal(1, 0.15, 2000)
    member = member_probability(scale, np.full(2000, 200.0), rng.integers(0, 10, 2000))
    assert (member > 0.5).mean() > 0.97
    assert (member_probability(scale[:10], np.ones(10), np.zeros(10, int)) == 1).all()  # too few to know


def test_the_diameter_is_found_from_the_images():
    images, *_ = particles(300, 4, snr=0.4)
    diameter = estimate_diameter(Memory(images), len(images), 4.0)
    assert 56 < diameter < 110  # blobs within a radius of 26 Å, one or two pixels wide, up to 8 Å off centre
