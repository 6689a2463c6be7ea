"""Demonstrations of the rows of movie alignment, with their numbers."""

import numpy as np
import pytest
import scipy.fft
import torch
from motion_bed import defocus_bound, simulate, simulate_correlated, specimen

from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.model import Beam
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.io.gain import ORIENTATIONS, orient
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.motion.correct import sum_movie
from cryoloom.motion.estimate import estimate_motion
from cryoloom.motion.field import MotionField, mode_values, rigid_field
from cryoloom.motion.frames import make_frames
from cryoloom.motion.gain_orientation import find_gain_orientation
from cryoloom.optics.dose import dose_weight


def _points(shape, n=15):
    y, x = np.meshgrid(np.linspace(0, shape[0] - 1, n), np.linspace(0, shape[1] - 1, n), indexing="ij")
    return np.stack([y, x], -1).reshape(-1, 2)


def _error(field: MotionField, movie) -> np.ndarray:
    """Found minus true displacement on a grid, `(n, t, 2)`; a shift of the whole movie is no error."""
    points = _points(field.shape)
    error = field.at(points) - movie.field(points)
    return error - error.mean((0, 1))


def _rms_whole(field, movie) -> float:
    return float(np.sqrt(np.mean(_error(field, movie).mean(0) ** 2)))


def _sequential(frames: np.ndarray, bfactor_px2: float = 300.0) -> np.ndarray:
    """Each frame aligned to the one before it by the peak of their correlation, and the steps added up."""
    h, w = frames.shape[1:]
    k2 = scipy.fft.fftfreq(h)[:, None] ** 2 + scipy.fft.rfftfreq(w) ** 2
    weight = np.exp(-bfactor_px2 / 2 * k2) * (k2 > (1 / 200) ** 2)
    path = [np.zeros(2)]
    before = None
    for frame in frames:
        dft = scipy.fft.rfft2(frame.astype(np.float32))
        if before is not None:
            image = scipy.fft.irfft2(weight * dft * before.conj(), s=(h, w))
            window = np.roll(image, (25, 25), (0, 1))[:51, :51]
            i, j = np.unravel_index(np.argmax(window[1:-1, 1:-1]), (49, 49))
            part = []
            for three in (window[i : i + 3, j + 1], window[i + 1, j : j + 3]):
                part.append(0.5 * (three[0] - three[2]) / (three[0] - 2 * three[1] + three[2]))
            path.append(path[-1] + [i - 24 + part[0], j - 24 + part[1]])
        before = dft
    return np.array(path)


@pytest.mark.slow
@pytest.mark.capability("MOT-1")
def test_whole_frame_motion_is_found_although_a_tenth_of_the_pairs_is_spoiled(measure):
    errors, sequential = [], []
    for seed in (0, 1):
        movie = simulate((2048, 2048), 30, snr=1e-3, drift_px=25, spoiled=0.1, seed=seed)
        estimate = estimate_motion(make_frames(movie.frames), 1.0, degree=0)
        errors.append(_rms_whole(estimate.field, movie))
        sequential.append(_rms_whole(rigid_field(_sequential(movie.frames), (2048, 2048)), movie))
    measure(max(errors), "px", "< 0.2", note=f"sequential alignment: {min(sequential):.2f} px at best")
    assert max(errors) < 0.2
    assert min(sequential) > max(errors)


@pytest.mark.slow
@pytest.mark.capability("MOT-2")
def test_local_motion_leaves_a_third_of_what_whole_frame_motion_leaves(measure):
    movie = simulate((2048, 2048), 30, snr=1e-3, drift_px=25, doming_px=8, seed=3)
    frames = make_frames(movie.frames)
    rms = [
        float(np.sqrt(np.mean(_error(estimate_motion(frames, 1.0, degree=degree).field, movie) ** 2)))
        for degree in (0, 3)
    ]
    measure(rms[0] / rms[1], "times", ">= 3", note=f"residual {rms[0]:.2f} px with whole-frame motion, {rms[1]:.2f} px")
    assert rms[0] / rms[1] >= 3


def _frc_with_truth(image: np.ndarray, truth: np.ndarray) -> np.ndarray:
    inner = (slice(64, -64), slice(64, -64))
    a, b = (torch.from_numpy(np.ascontiguousarray(i[inner] - i[inner].mean())) for i in (image, truth))
    return fourier_shell_correlation(a, b).numpy()


@pytest.mark.slow
@pytest.mark.capability("MOT-3")
def test_exposure_filter_raises_the_correlation_with_the_truth_beyond_four_angstrom(measure):
    # Critical doses of the paper applied to the specimen itself: the filter must win wherever damage matters.
    def damage(k, dose):
        return dose_weight(torch.from_numpy(k), float(dose)).numpy()

    n, dose = 40, 1.5
    movie = simulate((896, 896), n, snr=0.2, drift_px=10, dose_per_frame=dose, damage=damage, bfactor=20, seed=4)
    frames = make_frames(movie.frames)
    field = estimate_motion(frames, 1.0, dose_per_frame=dose).field
    sums = sum_movie(frames, field, 1.0, dose_per_frame=dose, undosed=True)
    weighted, plain = _frc_with_truth(sums.micrograph, movie.signal), _frc_with_truth(sums.undosed, movie.signal)
    size = 896 - 128
    beyond = slice(round(size / 4.0), round(size * 0.42))
    gain = weighted[beyond].mean() - plain[beyond].mean()
    measure(
        float(weighted[beyond].mean() / plain[beyond].mean()), "times", "> 1",
        note=f"FRC from 4 to 2.4 Å: {weighted[beyond].mean():.3f} weighted, {plain[beyond].mean():.3f} plain",
    )  # fmt: skip
    assert gain > 3 * np.std(weighted[beyond] - plain[beyond]) / np.sqrt(beyond.stop - beyond.start)
    lower = slice(8, round(size / 10))
    assert weighted[lower].mean() > plain[lower].mean() - 0.02


@pytest.mark.capability("MOT-5")
def test_motion_is_recovered_under_a_pattern_that_locks_plain_correlation_to_zero(measure):
    big = specimen(768 + 128, 768 + 128, 1.0, np.random.default_rng(5))
    movie = simulate((768, 768), 20, snr=4e-3, drift_px=12, fixed_pattern=0.3, signal=big, seed=5)
    estimate = estimate_motion(make_frames(movie.frames), 1.0, degree=0)
    error = _rms_whole(estimate.field, movie)
    locked = _sequential(movie.frames, bfactor_px2=0.0)
    measure(error, "px", "< 0.3, plain correlation at 0", note=f"plain moves {np.abs(locked).max():.2f} px in all")
    assert np.abs(locked).max() < 0.5
    assert np.abs(movie.drift_px).max() > 8
    assert error < 0.3


@pytest.mark.capability("MOT-7")
def test_all_eight_orientations_of_a_gain_are_told_apart(measure):
    rng = np.random.default_rng(6)
    gain = rng.normal(1, 0.03, (256, 256)).clip(0.5)
    total = rng.poisson(30 / gain).astype(float)
    right = 0
    for rotation, flip in ORIENTATIONS:
        stored = _undo(gain, rotation, flip)
        choice = find_gain_orientation(total, stored)
        turned = orient(stored, choice.rotation, choice.flip)
        right += bool(np.array_equal(turned, gain) and choice.is_certain and not choice.divide)
    measure(right, "of 8", "8")
    assert right == 8


def _undo(image, rotation, flip):
    """The image that `orient` turns into `image`."""
    flipped = image[::-1] if flip == 1 else image[:, ::-1] if flip == 2 else image
    return np.rot90(flipped, rotation)


@pytest.mark.capability("MOT-10")
def test_even_and_odd_sums_add_up_to_the_full_sum(measure):
    rng = np.random.default_rng(7)
    frames = make_frames(rng.poisson(2, (9, 200, 220)).astype(np.uint8))
    modes = rng.normal(0, 0.3, (6, 9, 2))
    field = MotionField(modes - modes[:, :1], (200, 220), 2)
    split = sum_movie(frames, field, 1.0, dose_per_frame=1.0, even_odd=True)
    whole = sum_movie(frames, field, 1.0, dose_per_frame=1.0)
    worst = float(np.abs(split.even + split.odd - whole.micrograph).max() / np.abs(whole.micrograph).max())
    measure(worst, "of the largest value", "< 2e-6 (float rounding)")
    np.testing.assert_array_equal(split.even + split.odd, split.micrograph)
    assert worst < 2e-6


@pytest.mark.slow
@pytest.mark.capability("MOT-4")
def test_regularised_motion_follows_correlated_tracks_better_than_a_free_fit(measure):
    """Tracks correlated over 300, 400 and 500 nm; both fits have the same bases, the free one has no prior."""
    ratios, residual = [], []
    for seed, length in enumerate((3000.0, 4000.0, 5000.0)):
        movie = simulate_correlated(seed, length=length)
        rms = []
        for regularised in (True, False):
            field = estimate_motion(make_frames(movie.frames), 3.0, regularised=regularised).field
            error = field.at(movie.position_px) - movie.track_px
            rms.append(float(np.sqrt(np.mean((error - error.mean((0, 1))) ** 2))))
        residual.append(rms)
        ratios.append(rms[1] / rms[0])
    worst = min(ratios)
    listed = ", ".join(f"{a:.2f} / {b:.2f}" for a, b in residual)
    measure(worst, "times", "> 1", note=f"free over regularised, least of 3; px, both: {listed}")
    assert worst > 1


@pytest.mark.slow
@pytest.mark.capability("MOT-6")
def test_frame_snr_and_defocus_are_read_from_movies_alone(measure):
    """The signal-to-noise ratio of a frame in the band that is looked at, and the defocus from the aligned sum."""
    size, pixel_size = 1280, 1.2
    rng = np.random.default_rng(6)
    k = np.hypot(scipy.fft.fftfreq(size, pixel_size)[:, None], scipy.fft.fftfreq(size, pixel_size)[None])
    band = (k > 1 / 300) & (k < 0.42 / (2 * pixel_size))
    wrong, defocus_errors, best = [], [], []
    for seed in range(8):
        snr, defocus = float(np.exp(rng.uniform(np.log(1e-3), np.log(1e-2)))), float(rng.uniform(8_000, 25_000))
        scene = specimen(size + 128, size + 128, pixel_size, np.random.default_rng(seed), defocus=defocus)
        movie = simulate((size, size), 20, pixel_size=pixel_size, snr=snr, drift_px=10, seed=seed, signal=scene)
        frames = make_frames(movie.frames)
        found = estimate_motion(frames, pixel_size)
        power = np.abs(scipy.fft.fft2(movie.signal)) ** 2
        wrong.append(abs(found.frame_snr / (snr * float(power[band].sum()) / size**4) - 1))
        image = sum_movie(frames, found.field.at_mean_shape(), pixel_size).micrograph
        ctf = estimate_image_ctf(torch.from_numpy(image), pixel_size, Beam(300.0, 2.7, 0.1), SearchRange())
        defocus_errors += [abs(value - defocus) for value in ctf.defocus.uv_angle[:2]]
        best.append(defocus_bound(movie.signal, len(movie.frames) * snr, pixel_size, defocus))
    median, high = np.percentile(defocus_errors, [50, 95])
    draws = np.random.default_rng(0).standard_normal((2_000, len(best), 3)) * np.asarray(best)
    half = np.hypot(draws[..., 1], draws[..., 2])
    bound = np.percentile(np.abs(np.concatenate([draws[..., 0] + half, draws[..., 0] - half], 1)), 95, axis=1)
    measure(max(wrong), "relative error", "<= 0.2", note="largest of 8 movies, frame SNR 1e-3 to 1e-2, 300 to 5.7 Å")
    note = (
        f"defocus from the aligned sum; median {median:.0f} Å; at the bound (Cramér-Rao, all else known) the 95th "
        f"percentile is {np.mean(bound):.0f} Å on average, below 100 in {100 * np.mean(bound < 100):.0f} % of such sets"
    )
    measure(high, "Å", "median < 50, 95th percentile < 100", bound=float(np.mean(bound)), note=note)
    assert max(wrong) <= 0.2
    assert median < 50
    assert high < 100


@pytest.mark.slow
@pytest.mark.capability("UNC-2")
def test_intervals_of_frame_shifts_cover_the_truth(measure, evidence):
    """100 movies, 23 frame shifts on two axes each; those of one movie share the error of its first frame."""
    i, n = evidence.shard
    done = {case["seed"] for case in evidence.cases()}
    for seed in range(100 + i - 1, 200, n):
        if seed in done:
            continue
        movie = simulate((768, 768), 24, snr=3e-3, drift_px=15, doming_px=2, seed=seed)
        field = estimate_motion(make_frames(movie.frames), 1.0).field
        centre = np.array([[383.5, 383.5]])
        error = (field.at(centre) - movie.field(centre))[0, 1:]
        half_width = 1.96 * field.standard_error_px(centre)[0, 1:, None]
        inside = int((np.abs(error) < half_width).sum())
        z = 1.96 * float(np.sqrt(np.mean((error / half_width) ** 2)))
        evidence.append(seed=seed, outcome=f"{inside} of {error.size} inside", value=z, inside=inside, n=error.size)
    cases = evidence.cases()
    total = sum(case["n"] for case in cases)
    coverage = sum(case["inside"] for case in cases) / max(total, 1)
    measure(coverage, "of 95 % intervals", "0.93-0.97", note=f"{total} intervals from {len(cases)} simulations")
    assert len(cases) >= 100
    assert 0.93 <= coverage <= 0.97


def test_true_field_of_the_generator_is_representable():
    movie = simulate((128, 140), 3, snr=1.0, drift_px=2, doming_px=1)
    points = _points((128, 140), 6)
    values = mode_values(points, (128, 140), 2)
    true = movie.field(points).reshape(len(points), -1)
    fitted = values @ np.linalg.lstsq(values, true, rcond=None)[0]
    np.testing.assert_allclose(fitted, true, atol=1e-9)
