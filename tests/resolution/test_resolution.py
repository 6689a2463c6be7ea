"""Planted local and directional resolution is found; the sampling of side views is that of theory."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.fourier import irfftn, rfftn
from cryoloom.geometry import direction_grid, random_rotations, rotation_about_z
from cryoloom.maps import filter_map, radial_frequency, spherical_mask
from cryoloom.maps.directional import directional_fsc
from cryoloom.maps.local_resolution import measure_local_resolution
from cryoloom.maps.sampling import measure_sampling
from cryoloom.maps.windowed import WindowedHalves
from cryoloom.resolution.settings import ResolutionSettings
from cryoloom.resolution.stage import measure_resolution

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun


def falling_signal(box: int, pixel_size: float, resolution: float, generator: torch.Generator) -> torch.Tensor:
    """White-noise texture whose half-map FSC against unit white noise in each half is 1/7 at `resolution`."""
    k = radial_frequency((box,) * 3, pixel_size)
    ratio = (1 / 6) * torch.exp(3.5 * (1 - (k * resolution) ** 2)).clamp(max=1e3)
    return filter_map(torch.randn(box, box, box, generator=generator), ratio.sqrt())


def two_domains(box: int, pixel_size: float, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    radius = 0.19 * box
    left = spherical_mask(box, radius, 3.0, centre_px=(box // 2, box // 2, 0.29 * box))
    right = spherical_mask(box, radius, 3.0, centre_px=(box // 2, box // 2, 0.71 * box))
    signal = left * falling_signal(box, pixel_size, 3.0, generator)
    signal = signal + right * falling_signal(box, pixel_size, 6.0, generator)
    halves = [signal + torch.randn(signal.shape, generator=generator) for _ in range(2)]
    return halves, left, right


@pytest.mark.slow
@pytest.mark.capability("RSL-4")
def test_domains_of_3_and_6_angstrom_are_told_apart_by_both_methods(measure):
    box, pixel_size = 112, 1.1
    (half1, half2), left, right = two_domains(box, pixel_size)
    local = measure_local_resolution(WindowedHalves(half1, half2, pixel_size, torch.maximum(left, right), 7.0))
    worst, said = 0.0, []
    for name in ("fsc", "significance"):
        values = getattr(local, name)
        for part, truth in ((left, 3.0), (right, 6.0)):
            median = float(np.median(values[part.numpy() > 0.5]))
            said.append(f"{name} {truth:.0f} Å: {median:.2f}")
            worst = max(worst, abs(median / truth - 1))
    measure(100 * worst, "%", "<= 10", note="; ".join(said))
    assert worst <= 0.10


def test_a_map_that_is_damped_along_z_is_worse_there():
    box, pixel_size = 64, 1.5
    generator = torch.Generator().manual_seed(2)
    k = radial_frequency((box,) * 3, pixel_size)
    kz = torch.fft.fftfreq(box, d=pixel_size)[:, None, None].abs()
    power = torch.exp(3.5 * (1 - (k * 5.0) ** 2) - 100 * kz**2).clamp(max=1e3) / 6
    signal = irfftn(rfftn(torch.randn(box, box, box, generator=generator), 3) * power.sqrt(), (box,) * 3)
    halves = [signal + torch.randn(signal.shape, generator=generator) for _ in range(2)]
    cones = directional_fsc(*halves, pixel_size)
    along = cones.resolution[cones.directions[:, 2] > 0.95].mean()
    across = cones.resolution[cones.directions[:, 2] < 0.2].mean()
    assert along > 1.2 * across
    assert cones.worst_over_best < 0.8 and cones.sphericity < 0.99


def test_a_map_that_is_equal_in_all_directions_has_equal_cones():
    generator = torch.Generator().manual_seed(3)
    signal = falling_signal(64, 1.5, 5.0, generator)
    halves = [signal + torch.randn(signal.shape, generator=generator) for _ in range(2)]
    cones = directional_fsc(*halves, 1.5)
    assert np.std(cones.resolution) / np.mean(cones.resolution) < 0.06
    assert np.median(cones.resolution) == pytest.approx(5.0, rel=0.05)
    assert cones.sphericity > 0.95 and cones.worst_over_best > 0.85
    assert cones.occupancy[5] == 1 and cones.occupancy[-1] < 0.2


def test_even_views_have_a_sampling_factor_of_one_and_need_no_tilt():
    views = random_rotations(8000, torch.Generator().manual_seed(0)).numpy()[:, :, 2]
    sampling = measure_sampling(views)
    assert sampling.scf == pytest.approx(1.0, abs=0.02) and sampling.best_tilt_deg == 0 and sampling.unsampled == 0
    assert sampling.efficiency > 0.97


@pytest.mark.capability("RSL-5")
def test_side_views_have_the_sampling_factor_of_theory(measure):
    turn = rotation_about_z(torch.arange(3000, dtype=torch.float64) * (2 * math.pi / 3000)).numpy()
    sampling = measure_sampling(turn[:, :, 0], advise=False)
    theory = 8 / math.pi**2
    # The density is (2/π) / sin θ for directions θ from the axis.
    tilt = np.arccos(np.clip(sampling.directions[:, 2], -1, 1))
    side = (tilt > 0.5) & (tilt < math.pi - 0.5)
    shape = sampling.density[side] * np.sin(tilt[side]) * math.pi / 2
    measure(100 * abs(sampling.scf / theory - 1), "%", "<= 5", note=f"SCF {sampling.scf:.3f}, theory {theory:.3f}")
    assert sampling.scf == pytest.approx(theory, rel=0.05)
    assert shape.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.capability("RSL-5")
def test_side_views_occupy_shells_as_theory_says(measure):
    """Sampling (2 / π) / sin θ multiplies the SNR; half of the cones are left at a known frequency."""
    box, pixel_size, resolution, generator = 88, 1.3, 4.0, torch.Generator().manual_seed(3)
    k = radial_frequency((box,) * 3, pixel_size)
    kz = torch.fft.fftfreq(box, d=pixel_size)[:, None, None]
    sine = (1 - (kz / k.clamp_min(1e-9)) ** 2).clamp_min(1e-4).sqrt()
    ratio = (2 / math.pi) / sine * (1 / 6) * torch.exp(3.5 * (1 - (k * resolution) ** 2)).clamp(max=1e3)
    signal = filter_map(torch.randn(box, box, box, generator=generator), ratio.sqrt())
    halves = [signal + torch.randn(box, box, box, generator=generator) for _ in "12"]
    found = directional_fsc(*halves, pixel_size)
    frequency = np.arange(len(found.occupancy)) / (box * pixel_size)
    measured = frequency[np.flatnonzero(found.occupancy > 0.5)[-1]] + 0.5 * frequency[1]
    # A cone's ratio is the mean over it; half of the directions of a sphere lie within 60 degrees of the axis.
    grid = direction_grid(24).numpy()
    axes = direction_grid(6).numpy()
    within = np.abs(axes @ grid.T) >= math.cos(math.radians(20.0))
    gain = within @ ((2 / math.pi) / np.sqrt(np.maximum(1 - grid[:, 2] ** 2, 1e-4))) / within.sum(1)
    # FSC 0.143 is a ratio of 1/6
    theory = math.sqrt(1 + math.log(np.median(gain) * (0.857 / 0.143) / 6) / 3.5) / resolution
    measure(100 * abs(measured / theory - 1), "%", "<= 5", note=f"half of the cones at {1 / measured:.2f} Å")
    assert measured == pytest.approx(theory, rel=0.05)


def test_top_views_alone_leave_gaps_and_a_tilt_is_advised():
    views = np.tile([[0.0, 0.0, 1.0]], (500, 1)) + 0.05 * np.random.default_rng(0).normal(size=(500, 3))
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    sampling = measure_sampling(views)
    assert sampling.scf < 0.2 and sampling.unsampled > 0.5
    assert sampling.efficiency < 0.5
    assert sampling.best_tilt_deg >= 30 and sampling.scf_at_best > 2 * sampling.scf


def test_the_stage_reports_place_and_direction(tmp_path):
    (half1, half2), left, right = two_domains(56, 1.4, seed=4)
    run = MemoryRun(tmp_path)
    maps = [VolumeMap(x.numpy(), 1.4) for x in (half1, half2, torch.maximum(left, right))]
    result = measure_resolution(*maps, None, ResolutionSettings(), run)
    local = result["local_resolution"].data
    assert np.median(local[left.numpy() > 0.5]) < np.median(local[right.numpy() > 0.5])
    assert run.summary["local_resolution_median"] > 2.8 and 0 < run.summary["cfar"] <= 1
    assert {figure.name for figure in run.figures} == {"local", "local_slices", "cones"}
