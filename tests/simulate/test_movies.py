"""Movies: electrons, motion, damage and truth."""

import json

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre

from cryoloom.fourier.shift import shift_image
from cryoloom.io.eer import EerMovie
from cryoloom.io.movies import open_movie
from cryoloom.io.mtf import read_mtf, write_mtf
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.detector import count_electrons, detector_mtf, gain_reference, random_sensitivity
from cryoloom.simulate.ice import random_surroundings, warp_into
from cryoloom.simulate.movies import (
    MovieRecipe,
    draw_truth,
    movie_frames,
    movie_spectrum,
    raw_frames_per_frame,
    simulate_movie,
)
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.placement import place_particles
from cryoloom.simulate.potential import potential_map
from cryoloom.simulate.true_motion import DEGREE, mode_orders, random_motion

RECIPE = MovieRecipe(
    shape=(256, 320), n_frames=6, dose_per_frame=2.0, pixel_size=2.0, contamination=0, carbon=0, ice_thickness=300
)


@pytest.fixture(scope="module")
def particle():
    atoms = phantom("globule", mass_kda=60)
    return movie_spectrum(potential_map(atoms, 80, 2.0)), atoms.diameter


def total(frames):
    return torch.stack(list(frames))


@pytest.mark.parametrize("mean", [0.3, 2.5, 30.0])
def test_counts_are_poisson(mean):
    counts = np.empty((400, 500), np.uint16)
    count_electrons(np.full((400, 500), mean, np.float32), np.ones((400, 500), np.float32), 5, counts)
    assert counts.mean() == pytest.approx(mean, rel=0.01)
    assert counts.var() == pytest.approx(mean, rel=0.02)
    correlation = np.corrcoef(counts[:, 1:].ravel(), counts[:, :-1].ravel())[0, 1]
    assert abs(correlation) < 0.01
    assert abs(np.corrcoef(counts[1:].ravel(), counts[:-1].ravel())[0, 1]) < 0.01


def test_a_dead_pixel_counts_nothing_and_has_no_gain():
    sensitivity, hot = random_sensitivity((300, 200), np.random.default_rng(0))
    gain = gain_reference(sensitivity)
    counts = np.empty((300, 200), np.uint16)
    count_electrons(np.full((300, 200), 3.0, np.float32), sensitivity, 1, counts)
    assert (counts[sensitivity == 0] == 0).all() and (gain[sensitivity == 0] == 0).all()
    assert (sensitivity == 0).sum() > 40 and len(hot) == 40
    alive = sensitivity > 0
    np.testing.assert_allclose((sensitivity * gain)[alive], 1, rtol=1e-6)
    assert abs((counts * gain)[alive].mean() - 3.0) < 0.05


def test_the_detector_transfer_is_one_half_at_nyquist():
    np.testing.assert_allclose(detector_mtf(np.array([0.0, 0.5])), [1, 0.5], rtol=1e-12)


def test_mtf_files_are_read_as_written(tmp_path):
    k = np.linspace(0, 0.5, 11)
    write_mtf(tmp_path / "mtf.star", k, detector_mtf(k))
    frequency, value = read_mtf(tmp_path / "mtf.star")
    np.testing.assert_allclose(frequency, k)
    np.testing.assert_allclose(value, detector_mtf(k), rtol=1e-6)


def test_motion_starts_at_zero_and_bends_as_asked():
    motion = random_motion(30, (500, 700), np.random.default_rng(1), drift=30.0, doming=8.0, dose_per_frame=1.0)
    places = np.random.default_rng(0).uniform(0, 500, (50, 2))
    assert np.abs(motion.at(places)[:, 0]).max() < 1e-12
    many = [
        random_motion(30, (500, 700), np.random.default_rng(s), drift=30.0, doming=8.0, dose_per_frame=1.0)
        for s in range(200)
    ]
    end = np.array([np.linalg.norm(m.trajectory[-1]) for m in many])
    assert 15 < np.median(end) < 40
    corner = np.array([[0.0, 0.0], [499.0, 0.0], [0.0, 699.0], [499.0, 699.0]])
    local = np.array([np.linalg.norm(m.at(corner)[:, -1] - m.trajectory[-1], axis=-1).mean() for m in many])
    assert 4 < np.median(local) < 16


def test_warping_moves_content_by_the_field():
    h, w, step, rim = 96, 128, 2, 4
    y, x = np.meshgrid(np.arange(h // step + 8), np.arange(w // step + 8), indexing="ij")
    yy, xx = (y - rim) * step, (x - rim) * step

    def wave(y, x):
        return np.sin(0.12 * y + 0.07 * x).astype(np.float32)

    modes = np.zeros((len(mode_orders()), 2))
    modes[0] = [3.0, -2.0]
    modes[1] = [1.0, 0.5]  # P_1(y)
    in_y = legendre.legvander(2 * (np.arange(h) + 0.5) / h - 1, DEGREE)
    in_x = legendre.legvander(2 * (np.arange(w) + 0.5) / w - 1, DEGREE)
    out = np.zeros((h, w), np.float32)
    warp_into(wave(yy, xx), step, rim, in_y, in_x, np.asarray(mode_orders(), np.int64), modes, out)
    row, column = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    down = 2 * (row + 0.5) / h - 1
    expected = wave(row - 3.0 - down, column + 2.0 - 0.5 * down)
    assert np.abs(out - expected)[8:-8, 8:-8].max() < 0.01


def test_particles_keep_their_distance_and_avoid_dirt():
    rng = np.random.default_rng(0)
    around = random_surroundings((800, 900), 2.0, rng, voltage_kv=300.0, contamination=3, carbon=True)
    position = place_particles(40, (800, 900), 60.0, around, rng)
    gap = np.linalg.norm(position[:, None] - position[None], axis=-1) + 1e9 * np.eye(len(position))
    assert gap.min() >= 60 and len(position) > 5
    assert around.is_free(position, 30.0).all()


def test_frames_laid_on_each_other_by_the_true_motion_show_the_particle(particle):
    """Particles drawn in the frames sit where position and motion say: a mean of stamps is sharp only if so."""
    spectrum, diameter = particle
    recipe = MovieRecipe(
        shape=(256, 256), n_frames=12, pixel_size=2.0, n_particles=1, contamination=0, carbon=0, ice_thickness=1e-3,
        drift=8.0, doming=4.0, damage=False, mtf=False, defocus=(12_000, 12_001), bfactor=30.0,
    )  # fmt: skip
    truth = draw_truth(recipe, diameter, 3, 0)
    if not (60 < truth.position_px[0]).all() or not (truth.position_px[0] < 196).all():
        truth.position_px[0] = [121.3, 140.8]
    frames = total(movie_frames(spectrum, recipe, truth, diameter, 1))
    contrast = frames / frames.mean((-2, -1), keepdim=True) - 1
    shift = truth.motion.at(truth.position_px)[0] / recipe.pixel_size + truth.position_px[0] - 128
    centred = shift_image(contrast, torch.from_numpy(-shift).to(torch.float32))[:, 90:166, 90:166]
    flat = centred.reshape(12, -1)
    flat = flat - flat.mean(1, keepdim=True)
    similarity = (flat @ flat.T) / (flat.norm(dim=1)[:, None] * flat.norm(dim=1))

    assert float(similarity.min()) > 0.97
    unmoved = contrast[:, 90:166, 90:166].reshape(12, -1)
    assert float(torch.corrcoef(unmoved)[0, -1]) < 0.8


def test_protein_is_dark_and_damage_takes_fine_detail_first(particle):
    spectrum, diameter = particle
    recipe = MovieRecipe(
        shape=(256, 256), n_frames=20, dose_per_frame=3.0, pixel_size=2.0, n_particles=8, contamination=0, carbon=0,
        ice_thickness=1e-3, drift=0.0, doming=0.0, mtf=False, bfactor=0.0,
    )  # fmt: skip
    truth = draw_truth(recipe, diameter, 5, 0)
    frames = total(movie_frames(spectrum, recipe, truth, diameter, 1))
    middle = np.round(truth.position_px).astype(int)
    inside = torch.zeros(256, 256, dtype=torch.bool)
    for y, x in middle:
        inside[max(0, y - 12) : y + 12, max(0, x - 12) : x + 12] = True
    assert float(frames[:, inside].mean()) < float(frames[:, ~inside].mean())
    spectra = torch.fft.rfft2(frames - frames.mean((-2, -1), keepdim=True)).abs() ** 2
    ky, kx = torch.fft.fftfreq(256)[:, None].abs(), torch.fft.rfftfreq(256)[None]
    low = spectra[:, ky.maximum(kx) < 0.05].sum(1)
    # off the axes, where the edges of the frame do not leak
    high = spectra[:, (ky.minimum(kx) > 0.2) & (ky.maximum(kx) < 0.3)].sum(1)
    assert float(high[-1] / high[0]) < 0.02
    assert float(low[-1] / low[0]) > 0.2


@pytest.mark.parametrize("kind", ["tiff", "mrc", "eer"])
def test_movies_on_disk_hold_the_electrons_and_the_truth(particle, tmp_path, kind):
    spectrum, diameter = particle
    recipe = MovieRecipe(**(vars(RECIPE) | {"format": kind, "n_frames": 3}))
    sensitivity, hot = random_sensitivity(recipe.shape, np.random.default_rng(0), n_hot=3)
    record = simulate_movie(spectrum, diameter, recipe, tmp_path, seed=1, movie=4, sensitivity=sensitivity, hot=hot)
    assert json.loads((tmp_path / "truth" / "movie_0005.json").read_text()) == json.loads(json.dumps(record))
    if kind == "eer":
        with EerMovie(record["movie"], grouping=raw_frames_per_frame(recipe)) as movie:
            frames = movie.frames(0, movie.n_frames)
    else:
        with open_movie(record["movie"]) as movie:
            frames = movie.frames(0, movie.n_frames)
    assert frames.shape == (3, 256, 320)
    gain = gain_reference(sensitivity)
    corrected = frames * gain
    # 2 e/Å2 on 4 Å2, of which the ice lets 85 % through; a counting camera at low rate loses a few per cent in EER
    assert np.median(corrected[:, gain > 0]) == pytest.approx(6.8, rel=0.12)
    assert (frames[:, hot[:, 0], hot[:, 1]].mean(0) > 3 * 6.8).all() or kind == "eer"
    assert len(record["height"]) == len(record["position_px"]) > 0


def test_the_same_seed_gives_the_same_movie(particle, tmp_path):
    spectrum, diameter = particle
    flat, none = np.ones(RECIPE.shape, np.float32), np.zeros((0, 2), np.int64)
    films = []
    for folder in ("a", "b"):
        record = simulate_movie(
            spectrum, diameter, RECIPE, tmp_path / folder, seed=7, movie=0, sensitivity=flat, hot=none
        )
        with open_movie(record["movie"]) as movie:
            films.append(movie.frames(0, movie.n_frames))
    np.testing.assert_array_equal(*films)


def test_a_spoilt_movie_has_no_particles_and_streaks(particle):
    spectrum, diameter = particle
    recipe = MovieRecipe(**(vars(RECIPE) | {"bad": 1.0}))
    truth = draw_truth(recipe, diameter, 2, 0)
    assert truth.bad and len(truth.position_px) == 0
    assert np.linalg.norm(np.diff(truth.motion.trajectory, axis=0), axis=1).min() > 10
    assert total(movie_frames(spectrum, recipe, truth, diameter, 3)).isfinite().all()


def test_atoms_know_their_mass_and_reach():
    one = Atoms(np.array([[3.0, 4.0, 0.0]]), np.array([6]), np.array([10.0]), np.array([1.0]), np.array(["A"]))
    assert one.mass_kda == pytest.approx(0.012011)
    assert one.diameter == pytest.approx(2 * 6.7)
