"""The resolution's interval covers the truth as often as it says, with and without masks, and noise is not resolved."""

import numpy as np
import pytest
import torch

from cryoloom.fourier import irfftn, rfftn, spread_shells
from cryoloom.maps import crossing_shell, fourier_shell_correlation, spherical_mask
from cryoloom.maps.freedom import effective_counts, fsc_noise_covariance
from cryoloom.maps.interval import locate_crossing


def true_curve(n: int, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """FSC of half maps that falls to 0.143 somewhere, with a B-factor and a bump, and where it does."""
    crossing = rng.uniform(0.35, 0.8) * (n - 1)
    x = np.arange(n) / crossing
    logit = np.log(0.143 / 0.857) + rng.uniform(2.5, 6.0) * (1 - x**2) + 4 * np.exp(-6 * x)
    logit += rng.uniform(0, 0.15) * np.sin(2 * np.pi * (x * rng.uniform(0.7, 2.0) + rng.random()))
    fsc = 1 / (1 + np.exp(-logit))
    return fsc, crossing_shell(fsc, 0.143)


def halves_with(fsc: np.ndarray, box: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two volumes of unit power per shell whose expected FSC is the curve."""
    gain = torch.from_numpy(fsc).float().clamp(0, 1)
    shape = (box, box, box)
    fields = [rfftn(torch.randn(shape, generator=generator), 3) for _ in range(3)]
    signal, noise = spread_shells(gain.sqrt(), shape), spread_shells((1 - gain).sqrt(), shape)
    return tuple(irfftn(fields[0] * signal + field * noise, shape) for field in fields[1:])


@pytest.mark.parametrize("radius", [7.0, 11.0])
def test_a_mask_lowers_the_degrees_of_freedom_as_noise_shows(radius):
    box, generator = 32, torch.Generator().manual_seed(0)
    mask = spherical_mask(box, radius, 4.0)
    curves = []
    for _ in range(20):
        a, b = torch.randn(2, 20, box, box, box, generator=generator)
        curves.append(fourier_shell_correlation(a * mask, b * mask, ndim=3))
    measured = torch.cat(curves).numpy()
    covariance = fsc_noise_covariance((box,) * 3, mask)
    inner = slice(4, 16)
    np.testing.assert_allclose(measured.var(0)[inner], np.diag(covariance)[inner], rtol=0.3)
    neighbours = np.mean(measured[:, 4:15] * measured[:, 5:16], axis=0)
    np.testing.assert_allclose(neighbours.mean(), np.diag(covariance, 1)[4:15].mean(), rtol=0.3)


def test_without_a_mask_every_voxel_counts_and_with_one_fewer_do():
    full = effective_counts((24, 24, 24))
    assert full[0] == 1 and full[1] == 18
    masked = effective_counts((24, 24, 24), spherical_mask(24, 6.0, 3.0))
    assert (masked <= full * 1.001).all() and masked[10] < 0.4 * full[10]


def test_a_noiseless_curve_gives_its_own_crossing():
    fsc, truth = true_curve(65, np.random.default_rng(1))
    found = locate_crossing(fsc, fsc_noise_covariance((128, 128, 128)))
    assert found.shell == pytest.approx(truth, rel=0.003) and found.bounded


def test_a_curve_that_stays_up_has_no_upper_bound_but_the_sampling():
    found = locate_crossing(np.full(33, 0.9), fsc_noise_covariance((64, 64, 64)))
    assert not found.bounded and found.shell == 32 and found.interval(33)[1] == 32


def test_a_lone_dip_does_not_end_a_good_curve():
    fsc, truth = true_curve(65, np.random.default_rng(2))
    fsc[int(truth) // 3] = 0.05
    assert locate_crossing(fsc, fsc_noise_covariance((128, 128, 128))).shell == pytest.approx(truth, rel=0.03)


def test_a_chance_correlation_of_low_shells_is_no_resolution():
    covariance = np.diag(1.0 / effective_counts((48, 48, 48), spherical_mask(48, 14.0, 4.0)))
    fsc = np.zeros(25)
    fsc[:6] = [1.0, -0.1, 0.38, 0.06, 0.12, 0.08]
    assert locate_crossing(fsc, covariance).shell <= 1.0
    fsc[1:4] = [0.99, 0.9, 0.6]
    assert 3.0 < locate_crossing(fsc, covariance).shell < 5.5


@pytest.mark.slow
@pytest.mark.capability("UNC-5")
def test_the_interval_of_the_resolution_covers_it_as_often_as_it_says(measure):
    rng, hits, errors = np.random.default_rng(11), 0, []
    n_pairs = 2000
    for pair in range(n_pairs):
        box = (40, 48, 56)[pair % 3]
        mask = spherical_mask(box, rng.uniform(0.22, 0.42) * box, 5.0) if pair % 4 else torch.ones(box, box, box)
        fsc, truth = true_curve(box // 2 + 1, rng)
        half1, half2 = halves_with(fsc, box, torch.Generator().manual_seed(pair))
        measured = fourier_shell_correlation(half1 * mask, half2 * mask).numpy()
        covariance = fsc_noise_covariance((box,) * 3, mask if pair % 4 else None)
        found = locate_crossing(measured, covariance)
        low, high = found.interval(box // 2 + 1)
        hits += low <= truth <= high
        errors.append(abs(found.shell / truth - 1))
    share = hits / n_pairs
    measure(
        100 * share,
        "%",
        "93 to 97",
        note=f"{n_pairs} pairs; 95th percentile of the error {np.quantile(errors, 0.95):.3f}",
    )
    assert 0.93 <= share <= 0.97
