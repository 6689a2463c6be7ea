"""Sums over all poses of a grid: grey scale, shifts and certainty, and the same whatever the threads."""

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import SerialExecutor, ThreadExecutor
from cryoloom.em import estimate_image_power, prepare_references, prepare_sums, search_directions, shift_grid, solve
from cryoloom.em.marginal import marginal_sums
from cryoloom.maps.fsc import fourier_shell_correlation

RINGS = 7


def _found(data, scale=1.0, executor=None, shift_sd_px=2.0):
    executor = executor or SerialExecutor()
    source = data.source()
    rows = np.arange(len(source))
    noise = estimate_image_power(source, executor, rows)
    references = prepare_references([data.volume * scale] * 2, executor, RINGS)
    return marginal_sums(
        source, references, np.arange(len(source)) % 2 + 1, rows, noise, executor, n_rings=RINGS,
        rotations=search_directions(4, "C1"), shifts_px=shift_grid(4.0, 2.0), shift_sd_px=shift_sd_px,
    )  # fmt: skip


def _fitted(data, **options):
    """On the grey scale of the images, as a schedule would bring it there."""
    scale = 1.0
    for _ in range(4):
        found = _found(data, scale, **options)
        scale *= found.gain
    return found


@pytest.fixture(scope="module")
def clear(simulated):
    return simulated(120, snr=0.2)


@pytest.fixture(scope="module")
def noisy(simulated):
    return simulated(120, snr=0.005)


def test_images_that_tell_their_poses_give_back_the_map_and_its_grey_scale(clear):
    found = _fitted(clear)
    assert found.told > 0.7
    assert abs(found.gain - 1.0) < 0.05
    maps = [solve(prepare_sums(s, "C1", SerialExecutor()), clear.box) for s in found.sums]
    for one in maps:
        fsc = fourier_shell_correlation(one, clear.volume)
        assert float(fsc[1:RINGS].min()) > 0.8


def test_noisy_images_are_known_to_tell_less(clear, noisy):
    sure, unsure = _fitted(clear), _fitted(noisy)
    assert unsure.evidence < 3.0 < sure.evidence
    assert unsure.told < 0.7 * sure.told


def test_the_spread_of_the_shifts_is_found(clear):
    # the simulated shifts have a standard deviation of 2 pixels times 1 / sqrt(3)
    truth = np.sqrt(np.mean(clear.truth.shift**2)) / clear.pixel_size
    found = _fitted(clear, shift_sd_px=1.5)
    assert abs(found.shift_spread_px - truth) < 0.5
    assert np.corrcoef(found.shift_px.ravel(), clear.truth.shift.ravel())[0, 1] > 0.7


def test_threads_change_nothing(clear):
    one, two = _found(clear), _found(clear, executor=ThreadExecutor(2))
    for a, b in zip(one.sums, two.sums, strict=True):
        assert torch.equal(a.sums, b.sums)


def test_a_reference_without_particles_is_refused(clear):
    source = clear.source()
    noise = estimate_image_power(source, SerialExecutor(), np.arange(len(source)))
    references = prepare_references([clear.volume] * 2, SerialExecutor(), RINGS)
    with pytest.raises(ValueError, match="particles for each reference"):
        marginal_sums(
            source, references, np.ones(len(source), np.int64), np.arange(8), noise, SerialExecutor(), n_rings=RINGS,
            rotations=search_directions(2, "C1"), shifts_px=shift_grid(0.0, 1.0), shift_sd_px=1.0,
        )  # fmt: skip
