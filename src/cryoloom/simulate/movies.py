"""Movies of known truth: electrons on a moving, fading specimen.

For a weak phase object the mean count at a pixel is `dose T (1 + c)` with the contrast `c = -2 ctf * φ`. `φ` is the
phase of
the projected potential of each particle (drawn at its own place, height and displacement in each frame, faded by the
dose so
far and blurred by its motion within the frame), of water (another one in each frame), and of what stays: carbon and
dirt. Contrast is multiplied by the MTF; counts are Poisson with the sensitivity of each pixel.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import torch
from numpy.polynomial import legendre
from torch import Tensor

from cryoloom.data import Optics, VolumeMap
from cryoloom.fourier.exact import ExactSpectrum, exact_spectrum, project_dft
from cryoloom.fourier.resize import good_size
from cryoloom.fourier.shift import phase_ramp
from cryoloom.fourier.transform import frequency_grid, image_to_dft
from cryoloom.io.atomic import write_whole
from cryoloom.io.eer_writer import write_eer
from cryoloom.io.mrc import write_mrc
from cryoloom.io.tiff import write_tiff
from cryoloom.optics.ctf import ctf
from cryoloom.optics.dose import dose_weight
from cryoloom.simulate.detector import count_electrons, detector_mtf
from cryoloom.simulate.ice import Surroundings, phase_per_density, random_surroundings, warp_into, water_amplitude
from cryoloom.simulate.placement import place_particles
from cryoloom.simulate.true_motion import DEGREE, TrueMotion, mode_orders, random_motion
from cryoloom.simulate.views import sample_rotations

SUFFIX = {"tiff": ".tiff", "mrc": ".mrc", "eer": ".eer"}
_RIM = 4
_EER_RATE = 0.15  # electrons per pixel in a raw frame at most, so that few fall together


@dataclass(frozen=True)
class MovieRecipe:
    """How movies are taken.

    Attributes
    ----------
    shape
        Rows and columns of a frame.
    n_frames, dose_per_frame
        Frames, and e-/Å2 in each.
    pixel_size, voltage_kv, cs_mm, amplitude_contrast, phase_shift, hand
        Microscope; Å and radians.
    defocus, astigmatism
        Range of the mean defocus and largest `U - V`, Å.
    n_particles
        Per movie; None for half of what fits.
    preferred_fraction
        See `sample_rotations`.
    drift, doming
        See `random_motion`.
    bfactor
        Envelope, Å2.
    ice_thickness
        Å.
    contamination, carbon
        Mean number of pieces of dirt, and probability that carbon shows.
    bad
        Probability of a movie without particles, with strong drift within its frames.
    damage, mtf
        Whether structures fade and the detector blurs.
    format
        `"tiff"`, `"mrc"` or `"eer"`.
    """

    shape: tuple[int, int] = (1536, 1536)
    n_frames: int = 24
    dose_per_frame: float = 1.5
    pixel_size: float = 1.2
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift: float = 0.0
    hand: int = 1
    defocus: tuple[float, float] = (8_000.0, 25_000.0)
    astigmatism: float = 500.0
    n_particles: int | None = None
    preferred_fraction: float = 0.0
    drift: float = 30.0
    doming: float = 8.0
    bfactor: float = 60.0
    ice_thickness: float = 400.0
    contamination: float = 2.0
    carbon: float = 0.15
    bad: float = 0.0
    damage: bool = True
    mtf: bool = True
    format: str = "tiff"

    @property
    def optics(self) -> Optics:
        """Optics of the frames."""
        return Optics(
            name="simulated",
            pixel_size=self.pixel_size,
            voltage_kv=self.voltage_kv,
            cs_mm=self.cs_mm,
            amplitude_contrast=self.amplitude_contrast,
            original_pixel_size=self.pixel_size,
            hand=self.hand,
        )


@dataclass(frozen=True)
class MovieTruth:
    """What is true of one movie.

    Attributes
    ----------
    defocus_u, defocus_v, defocus_angle
        Of the middle of the ice, Å and radians.
    motion
        Where content sits in each frame.
    position_px, rotation, height
        Particles: centres yx in the first frame `(n, 2)`, poses `(n, 3, 3)`, heights in Å `(n,)`.
    surroundings
        Carbon and dirt.
    bad
        Whether the movie was spoilt.
    """

    defocus_u: float
    defocus_v: float
    defocus_angle: float
    motion: TrueMotion
    position_px: np.ndarray
    rotation: np.ndarray
    height: np.ndarray
    surroundings: Surroundings
    bad: bool


def draw_truth(recipe: MovieRecipe, diameter: float, seed: int, movie: int) -> MovieTruth:
    """Draw all that is random about one movie but its electrons and its water."""
    rng = np.random.default_rng([seed, movie, 1])
    bad = bool(rng.random() < recipe.bad)
    mean = rng.uniform(*recipe.defocus)
    astigmatism = rng.uniform(0, recipe.astigmatism)
    around = random_surroundings(
        recipe.shape,
        recipe.pixel_size,
        rng,
        voltage_kv=recipe.voltage_kv,
        contamination=recipe.contamination,
        carbon=bool(rng.random() < recipe.carbon),
    )
    motion = random_motion(
        recipe.n_frames,
        recipe.shape,
        rng,
        drift=recipe.drift,
        doming=recipe.doming,
        dose_per_frame=recipe.dose_per_frame,
    )
    if bad:
        modes = motion.modes.copy()
        angle = rng.uniform(0, 2 * np.pi)
        # 25 Å in every frame: each of them is a streak
        modes[0] += 25.0 * np.arange(recipe.n_frames)[:, None] * np.array([np.sin(angle), np.cos(angle)])
        motion = replace(motion, modes=modes)
    distance_px = 1.1 * diameter / recipe.pixel_size
    area = recipe.shape[0] * recipe.shape[1]
    # random sequential addition of discs jams at 0.547 of the area
    n = int(0.5 * 0.547 * area / (math.pi / 4 * distance_px**2)) if recipe.n_particles is None else recipe.n_particles
    position = place_particles(0 if bad else n, recipe.shape, distance_px, around, rng)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    rotation = sample_rotations(len(position), generator, preferred_fraction=recipe.preferred_fraction).numpy()
    reach = max(0.0, 0.5 * (recipe.ice_thickness - diameter))
    return MovieTruth(
        defocus_u=mean + 0.5 * astigmatism,
        defocus_v=mean - 0.5 * astigmatism,
        defocus_angle=rng.uniform(0, np.pi),
        motion=motion,
        position_px=position,
        rotation=rotation,
        height=rng.uniform(-reach, reach, len(position)),
        surroundings=around,
        bad=bad,
    )


def movie_frames(
    spectrum: ExactSpectrum, recipe: MovieRecipe, truth: MovieTruth, diameter: float, seed: int
) -> Iterator[Tensor]:
    """Expected electrons per pixel before the camera's sensitivity, `(h, w)` float32, frame by frame."""
    shape, pixel_size = recipe.shape, recipe.pixel_size
    h, w = shape
    big = frequency_grid(shape, pixel_size)
    ky, kx = big.unbind(-1)
    k = big.norm(dim=-1)
    transfer = -2 * _ctf(ky, kx, recipe, truth.defocus_u, truth.defocus_v, truth.defocus_angle)
    mtf = torch.from_numpy(detector_mtf((k * pixel_size).numpy())).to(torch.float32) if recipe.mtf else None
    if mtf is not None:
        transfer = transfer * mtf
    # The phase power per Å2 becomes the variance of half-spectrum coefficients: N / pixel area, halved for two parts
    water = transfer * water_amplitude(k, recipe.ice_thickness, recipe.voltage_kv) * math.sqrt(h * w / pixel_size**2)
    coarse = _image_surroundings(recipe, truth)
    thick = truth.surroundings.transmission.astype(np.float32)
    del transfer, k, big, mtf
    stamps = _Stamps(spectrum, recipe, truth, diameter)
    in_y = legendre.legvander(2 * (np.arange(h) + 0.5) / h - 1, DEGREE)
    in_x = legendre.legvander(2 * (np.arange(w) + 0.5) / w - 1, DEGREE)
    orders = np.asarray(mode_orders(), np.int64)
    step = truth.surroundings.step
    per_pixel = recipe.dose_per_frame * pixel_size**2
    generator = torch.Generator().manual_seed(seed)
    drift = np.diff(truth.motion.modes[0], axis=0, append=truth.motion.modes[0][-1:])
    for frame in range(recipe.n_frames):
        noise = torch.randn(h, w // 2 + 1, 2, generator=generator) * math.sqrt(0.5)
        dft = (torch.view_as_complex(noise) * water).numpy()
        contrast = scipy.fft.irfft2(dft, s=shape, overwrite_x=True, workers=max(1, torch.get_num_threads()))
        modes_px = truth.motion.modes[:, frame] / pixel_size
        if truth.bad:
            modes_px = np.concatenate([modes_px[:1] + 0.5 * drift[frame] / pixel_size, modes_px[1:]])
        warp_into(coarse, step, _RIM, in_y, in_x, orders, modes_px, contrast)
        stamps.add(contrast, frame)
        expected = np.zeros(shape, np.float32)
        warp_into(thick, step, _RIM, in_y, in_x, orders, modes_px, expected)
        expected *= np.float32(per_pixel) * np.maximum(1 + contrast, 0.05)
        yield torch.from_numpy(expected)


class _Stamps:
    """Images of the particles of one movie, ready to be drawn in any frame."""

    def __init__(self, spectrum: ExactSpectrum, recipe: MovieRecipe, truth: MovieTruth, diameter: float) -> None:
        pixel_size = recipe.pixel_size
        # room for what the defocus carries away, to 5 Å detail
        reach = min(0.02 * truth.defocus_u * 0.2, 110.0)
        self.box = good_size(math.ceil((diameter + 2 * reach) / pixel_size))
        self.recipe, self.truth = recipe, truth
        grid = frequency_grid((self.box, self.box), pixel_size)
        ky, kx = grid.unbind(-1)
        self.k = grid.norm(dim=-1)
        common = torch.exp(-0.25 * recipe.bfactor * self.k**2) * (
            -2 * phase_per_density(recipe.voltage_kv) * pixel_size
        )
        if recipe.mtf:
            common = common * torch.from_numpy(detector_mtf((self.k * pixel_size).numpy())).to(torch.float32)
        parts = []
        for rows in np.array_split(np.arange(len(truth.height)), max(1, len(truth.height) // 16)):
            if not len(rows):
                continue
            defocus = recipe.hand * truth.height[rows]
            modulation = ctf(
                ky,
                kx,
                defocus_u=torch.from_numpy(truth.defocus_u + defocus),
                defocus_v=torch.from_numpy(truth.defocus_v + defocus),
                defocus_angle=truth.defocus_angle,
                voltage_kv=recipe.voltage_kv,
                cs_mm=recipe.cs_mm,
                amplitude_contrast=recipe.amplitude_contrast,
                phase_shift=recipe.phase_shift,
            )
            dft = project_dft(spectrum, torch.from_numpy(truth.rotation[rows]), self.box)
            parts.append(dft * (modulation * common))
        self.dft = torch.cat(parts) if parts else torch.zeros(0, self.box, self.box // 2 + 1, dtype=torch.complex64)
        self.displacement_px = truth.motion.at(truth.position_px) / pixel_size  # (n, t, 2)

    def add(self, image: np.ndarray, frame: int) -> None:
        """Draw all particles as they are in one frame."""
        if not len(self.dft):
            return
        recipe = self.recipe
        fade = torch.ones_like(self.k)
        if recipe.damage:
            fade = dose_weight(self.k, recipe.dose_per_frame * (frame + 0.5), recipe.voltage_kv)
        fade = fade * self._blur(frame)
        place = self.truth.position_px + self.displacement_px[:, frame]
        whole = np.floor(place + 0.5)
        rest = torch.from_numpy(place - whole)
        size, half = self.box, self.box // 2
        for rows in np.array_split(np.arange(len(self.dft)), max(1, len(self.dft) // 8)):
            ramp = phase_ramp(rest[rows].to(torch.float32), (size, size))
            dft = (self.dft[rows] * (ramp * fade)).numpy()
            stamps = scipy.fft.irfft2(dft, s=(size, size), overwrite_x=True)
            stamps = np.fft.fftshift(stamps, axes=(-2, -1))
            for stamp, centre in zip(stamps, whole[rows].astype(np.int64), strict=True):
                top, left = centre - half
                y0, y1 = max(0, top), min(image.shape[0], top + size)
                x0, x1 = max(0, left), min(image.shape[1], left + size)
                if y0 < y1 and x0 < x1:
                    image[y0:y1, x0:x1] += stamp[y0 - top : y1 - top, x0 - left : x1 - left]

    def _blur(self, frame: int) -> Tensor:
        """Transfer of the motion within a frame: a sinc along its direction, from the neighbouring frames."""
        track = self.truth.motion.trajectory
        if len(track) < 2:
            return torch.ones_like(self.k)
        low, high = max(0, frame - 1), min(len(track) - 1, frame + 1)
        step = torch.from_numpy((track[high] - track[low]) / (high - low)).to(torch.float32)
        grid = frequency_grid((self.box, self.box), self.recipe.pixel_size)
        return torch.sinc(grid @ step)


def _ctf(ky: Tensor, kx: Tensor, recipe: MovieRecipe, u: float, v: float, angle: float) -> Tensor:
    return ctf(
        ky,
        kx,
        defocus_u=u,
        defocus_v=v,
        defocus_angle=angle,
        voltage_kv=recipe.voltage_kv,
        cs_mm=recipe.cs_mm,
        amplitude_contrast=recipe.amplitude_contrast,
        phase_shift=recipe.phase_shift,
        bfactor=recipe.bfactor,
    )


def _image_surroundings(recipe: MovieRecipe, truth: MovieTruth) -> np.ndarray:
    """Contrast of what stays, on its coarse grid, limited to 10 Å."""
    around = truth.surroundings
    shape = around.phase.shape
    grid = frequency_grid(shape, around.step * recipe.pixel_size)
    ky, kx = grid.unbind(-1)
    k = grid.norm(dim=-1)
    transfer = -2 * _ctf(ky, kx, recipe, truth.defocus_u, truth.defocus_v, truth.defocus_angle)
    limit = 0.5 * (1 + torch.cos(math.pi * ((k * 10.0 - 0.8) / 0.2).clamp(0, 1)))
    dft = image_to_dft(torch.from_numpy(around.phase - around.phase.mean()).to(torch.float32)) * transfer * limit
    image = torch.fft.fftshift(torch.fft.irfft2(dft, s=shape), dim=(-2, -1))
    return image.numpy()


def simulate_movie(
    spectrum: ExactSpectrum,
    diameter: float,
    recipe: MovieRecipe,
    folder: Path,
    *,
    seed: int,
    movie: int,
    sensitivity: np.ndarray,
    hot: np.ndarray,
) -> dict[str, Any]:
    """Make one movie and its truth; files appear whole.

    Returns
    -------
    truth
        What `truth/<stem>.json` holds: JSON values.
    """
    truth = draw_truth(recipe, diameter, seed, movie)
    stem = f"movie_{movie + 1:04d}"
    path = folder / "movies" / f"{stem}{SUFFIX[recipe.format]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    key = int(np.random.default_rng([seed, movie, 2]).integers(2**62))
    frames = movie_frames(spectrum, recipe, truth, diameter, key)
    hot_rate = 12.0 * recipe.dose_per_frame * recipe.pixel_size**2
    if recipe.format == "eer":
        write_eer(
            path,
            _raw_frames(raw_frames_per_frame(recipe), frames, sensitivity, hot, hot_rate, key),
            recipe.shape,
            pixel_size=recipe.pixel_size,
            total_dose_per_pixel=recipe.dose_per_frame * recipe.n_frames * recipe.pixel_size**2,
        )
    else:
        stack = np.empty((recipe.n_frames, *recipe.shape), np.uint8)
        for i, expected in enumerate(frames):
            counts = np.empty(recipe.shape, np.uint16)
            image = expected.numpy()
            image[hot[:, 0], hot[:, 1]] = hot_rate
            count_electrons(image, sensitivity, key + i, counts)
            stack[i] = np.minimum(counts, 127 if recipe.format == "mrc" else 255)
        if recipe.format == "mrc":
            write_mrc(path, stack.astype(np.int8), recipe.pixel_size, kind="stack")
        else:
            write_tiff(path, stack, compression="lzw")
    record = truth_record(stem, path, recipe, truth)
    with write_whole(folder / "truth" / f"{stem}.json") as file:
        file.write(json.dumps(record, indent=1).encode())
    return record


def truth_record(stem: str, path: Path, recipe: MovieRecipe, truth: MovieTruth) -> dict[str, Any]:
    """All that is true of one movie as JSON values.

    `motion_modes` are those of `TrueMotion`; `motion_positions_px` and `motion_tracks` list displacements in Å at a
    grid of places, for readers that do not want to evaluate polynomials.
    """
    y, x = np.meshgrid(*[(np.arange(5) + 0.5) * n / 5 for n in recipe.shape], indexing="ij")
    places = np.stack([y.reshape(-1), x.reshape(-1)], axis=1)
    around = truth.surroundings
    return {
        "name": stem,
        "movie": str(path),
        "recipe": asdict(recipe),
        "defocus_u": truth.defocus_u,
        "defocus_v": truth.defocus_v,
        "defocus_angle": truth.defocus_angle,
        "bad": truth.bad,
        "trajectory": truth.motion.trajectory.tolist(),
        "motion_modes": truth.motion.modes.tolist(),
        "motion_positions_px": places.tolist(),
        "motion_tracks": np.round(truth.motion.at(places), 5).tolist(),
        "position_px": truth.position_px.tolist(),
        "rotation": truth.rotation.tolist(),
        "height": truth.height.tolist(),
        "dirt_px": around.blobs.tolist(),
        "hole_px": around.hole,
    }


def movie_spectrum(volume: VolumeMap, *, device: str = "cpu") -> ExactSpectrum:
    """Transform of a map for `simulate_movie`; its pixel size is that of the movies."""
    return exact_spectrum(torch.from_numpy(volume.data), device=device)


def raw_frames_per_frame(recipe: MovieRecipe) -> int:
    """Raw EER frames that make up one frame of the recipe."""
    return max(4, math.ceil(recipe.dose_per_frame * recipe.pixel_size**2 / _EER_RATE))


def _raw_frames(
    n_raw: int, frames: Iterator[Tensor], sensitivity: np.ndarray, hot: np.ndarray, hot_rate: float, key: int
) -> Iterator[np.ndarray]:
    """Places of electrons of raw EER frames, `(n, 2)` yx on the grid four times as fine."""
    for i, expected in enumerate(frames):
        image = expected.numpy() / n_raw
        image[hot[:, 0], hot[:, 1]] = hot_rate / n_raw
        for j in range(n_raw):
            counts = np.empty(image.shape, np.uint16)
            count_electrons(image, sensitivity, key + 1000 * (i + 1) + j, counts)
            y, x = counts.nonzero()
            fine = np.random.default_rng([key, i, j]).integers(0, 4, (2, len(y)))
            yield np.stack([4 * y + fine[0], 4 * x + fine[1]], axis=1)
