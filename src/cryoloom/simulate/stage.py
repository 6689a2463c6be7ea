"""The stages `simulate particles` and `simulate movies`: settings to recipes, kernels, records."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import Figure, InputError, Run, WorkFailed, stage
from cryoloom.data import VolumeMap
from cryoloom.fourier.resize import good_size
from cryoloom.geometry import symmetry_matrices
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.mtf import write_mtf
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.beds import BEDS, bed_recipe, bed_specimen
from cryoloom.simulate.detector import detector_mtf, gain_reference, random_sensitivity
from cryoloom.simulate.movie_records import movie_records
from cryoloom.simulate.movies import MovieRecipe, movie_spectrum, raw_frames_per_frame, simulate_movie
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import SHAPES, phantom
from cryoloom.simulate.potential import potential_map
from cryoloom.simulate.settings import (
    SIMULATE_MOVIES,
    SIMULATE_PARTICLES,
    SimulateMoviesSettings,
    SimulateParticlesSettings,
)
from cryoloom.simulate.structure import read_symmetric


@stage(SIMULATE_PARTICLES)
def simulate_particle_images(
    model: Path | None, map: VolumeMap | None, settings: SimulateParticlesSettings, run: Run
) -> dict[str, Any]:
    """Simulate a stack; see `SimulateParticlesSettings`."""
    specimen, recipe = _specimen_and_recipe(model, map, settings)
    with run.progress(recipe.n, "simulating particles") as progress:
        truth = simulate_particles(
            specimen, run.folder / "particles", recipe, seed=run.seed, executor=run.executor, device=run.device,
            on_chunk=progress.advance,
        )  # fmt: skip
    kind = truth.extra["cryoloomKind"]
    run.summarise(
        verdict="found",
        reasons=[f"{recipe.n} images simulated"],
        n_in=recipe.n,
        n_out=recipe.n,
        n_particles=int((kind == 0).sum()),
        n_junk=int((kind > 0).sum()),
        n_states=len(specimen.states),
        symmetry=specimen.symmetry,
        pixel_size=specimen.pixel_size,
        box=specimen.box,
        diameter=round(specimen.diameter, 1),
        snr=recipe.snr,
    )
    first, _ = read_mrc(truth.image_path[0], sections=slice(0, 16))
    run.show(
        Figure(
            "images", "gallery", "Simulated images", "The first images of the stack as a pipeline sees them.",
            data={"images": first, "columns": 8},
        )
    )  # fmt: skip
    assert truth.rotation is not None
    run.show(Figure("views", "orientations", "True viewing directions", data={"rotations": truth.rotation[:20_000]}))
    return {"particles": observed(truth), "truth": truth, "truth_map": specimen.truth()}


def model_atoms(
    model: Path | None, shape: str | None, symmetry: str | None, mass_kda: float, variant: int = 0
) -> tuple[Atoms, str]:
    """Atoms of a model file or of a phantom, and their point group."""
    if model is not None and shape is not None:
        raise InputError("--model and --phantom: give one of them.")
    try:
        if model is not None:
            return read_symmetric(model, symmetry or "C1"), (symmetry or "C1").upper()
        shape = shape or "globule"
        group = symmetry or SHAPES[shape]
        symmetry_matrices(group)
        return phantom(shape, group, mass_kda=mass_kda, seed=variant), group.upper()
    except (ValueError, RuntimeError, IndexError) as error:
        raise InputError(f"{model or shape}: {error}") from error


def fitting_box(diameter: float, pixel_size: float) -> int:
    """A box that holds a particle with a margin for its delocalised detail: 1.35 diameters."""
    return good_size(math.ceil(1.35 * diameter / pixel_size))


def _specimen_and_recipe(
    model: Path | None, given: VolumeMap | None, settings: SimulateParticlesSettings
) -> tuple[Specimen, ParticleRecipe]:
    if settings.bed is not None:
        if model is not None or given is not None:
            raise InputError("--bed brings its own particle: leave out --model and --map.")
        bed = BEDS[settings.bed]
        for name in ("pixel_size", "box", "symmetry"):
            if getattr(settings, name) not in (None, getattr(bed, name)):
                raise InputError(f"--{name.replace('_', '-')}: bed {settings.bed} fixes it at {getattr(bed, name)}.")
        specimen = bed_specimen(settings.bed, phantom=settings.phantom is not None)
        recipe = bed_recipe(settings.bed)
    elif given is not None:
        if model is not None or settings.phantom is not None:
            raise InputError("--map: leave out --model and --phantom.")
        box = given.data.shape[0]
        if len(set(given.data.shape)) != 1:
            raise InputError(f"--map: expected a cube, got {given.data.shape}.")
        symmetry = (settings.symmetry or "C1").upper()
        specimen = Specimen(((given,),), symmetry=symmetry, diameter=_map_diameter(given))
        if settings.box not in (None, box) or (settings.pixel_size or given.pixel_size) != given.pixel_size:
            raise InputError("--map fixes --box and --pixel-size; leave them out.")
        recipe = ParticleRecipe()
    else:
        atoms, symmetry = model_atoms(model, settings.phantom, settings.symmetry, settings.mass, settings.variant)
        pixel_size = settings.pixel_size or 1.5
        box = settings.box or fitting_box(atoms.diameter, pixel_size)
        try:
            volume = potential_map(atoms, box, pixel_size)
        except ValueError as error:
            raise InputError(f"--{error}") from error
        specimen = Specimen(((volume,),), symmetry=symmetry, diameter=atoms.diameter)
        recipe = ParticleRecipe()
    return specimen, _changed(recipe, settings)


def _changed(recipe: ParticleRecipe, settings: SimulateParticlesSettings) -> ParticleRecipe:
    """The recipe with what the user asked for."""
    defocus = (
        recipe.defocus[0] if settings.defocus_min is None else settings.defocus_min,
        recipe.defocus[1] if settings.defocus_max is None else settings.defocus_max,
    )
    if defocus[0] > defocus[1]:
        raise InputError(f"--defocus-min {defocus[0]:g} is larger than --defocus-max {defocus[1]:g}.")
    optional: dict[str, Any] = {
        "n": settings.particles,
        "snr": settings.snr,
        "junk": settings.junk,
        "preferred_fraction": settings.preferred,
    }
    return replace(
        recipe,
        **{name: value for name, value in optional.items() if value is not None},
        defocus=defocus,
        voltage_kv=settings.voltage_kv,
        cs_mm=settings.cs_mm,
        amplitude_contrast=settings.amplitude_contrast,
        phase_shift=math.radians(settings.phase_shift_deg),
        beam_tilt_mrad=(settings.beam_tilt_x_mrad, settings.beam_tilt_y_mrad),
        astigmatism=settings.astigmatism,
        height=settings.height,
        shift=settings.shift,
        bfactor=settings.bfactor,
        ewald=settings.ewald,
    )


def _map_diameter(volume: VolumeMap) -> float:
    """Twice the distance from the centre at which the density has fallen below a tenth of its peak."""
    box = volume.data.shape[0]
    z, y, x = np.ogrid[:box, :box, :box]
    radius = np.sqrt((z - box // 2) ** 2.0 + (y - box // 2) ** 2 + (x - box // 2) ** 2)
    inside = volume.data > 0.1 * np.quantile(volume.data, 0.999)
    return float(2 * np.quantile(radius[inside], 0.999) * volume.pixel_size)


@stage(SIMULATE_MOVIES)
def simulate_movie_files(model: Path | None, settings: SimulateMoviesSettings, run: Run) -> dict[str, Any]:
    """Simulate movies; see `SimulateMoviesSettings`."""
    if settings.defocus_min > settings.defocus_max:
        raise InputError(
            f"--defocus-min {settings.defocus_min:g} is larger than --defocus-max {settings.defocus_max:g}."
        )
    atoms, symmetry = model_atoms(model, settings.phantom, settings.symmetry, settings.mass, settings.variant)
    diameter = atoms.diameter
    recipe = _movie_recipe(settings)
    if diameter / recipe.pixel_size > 0.5 * min(recipe.shape):
        raise InputError(
            f"--width and --height: {recipe.shape[1]} x {recipe.shape[0]} pixels are too few "
            f"for a particle of {diameter:.0f} Å."
        )
    box = good_size(math.ceil(1.3 * diameter / recipe.pixel_size))
    volume = potential_map(atoms, box, recipe.pixel_size)
    spectrum = movie_spectrum(volume)
    rng = np.random.default_rng([run.seed, 0])
    sensitivity, hot = np.ones(recipe.shape, np.float32), np.zeros((0, 2), np.int64)
    gain_path = mtf_path = None
    if settings.gain:
        sensitivity, hot = random_sensitivity(recipe.shape, rng)
        gain_path = run.folder / "gain.mrc"
        # EER frames are divided by a reference in MRC format, all others are multiplied
        reference = sensitivity if recipe.format == "eer" else gain_reference(sensitivity)
        write_mrc(gain_path, reference, recipe.pixel_size)
    if settings.mtf:
        mtf_path = run.folder / "mtf.star"
        frequency = np.linspace(0, 0.5, 101)
        write_mtf(mtf_path, frequency, detector_mtf(frequency))
    (run.folder / "truth").mkdir(exist_ok=True)

    def make(movie: int) -> dict[str, Any]:
        return simulate_movie(
            spectrum, diameter, recipe, run.folder, seed=run.seed, movie=movie, sensitivity=sensitivity, hot=hot
        )

    done = run.each(range(settings.movies), make, key=lambda i: f"movie_{i + 1:04d}", label="simulating movies")
    records = [r for r in done if r is not None]
    if not records:
        raise WorkFailed("simulate movies: no movie could be made; run.log says why.")
    optics = replace(recipe.optics, mtf_path=None if mtf_path is None else str(mtf_path))
    movies, micrographs, particles = movie_records(records, recipe, optics, gain_path)
    motion = [float(np.linalg.norm(np.diff(r["trajectory"], axis=0), axis=1).sum()) for r in records]
    run.summarise(
        verdict="found",
        reasons=[f"{len(records)} movies with {len(particles)} particles simulated"],
        n_in=settings.movies,
        n_out=len(records),
        n_particles=len(particles),
        symmetry=symmetry,
        diameter=round(diameter, 1),
        pixel_size=recipe.pixel_size,
        motion_median=round(float(np.median(motion)), 2),
        total_dose=recipe.n_frames * recipe.dose_per_frame,
        eer_grouping=raw_frames_per_frame(recipe) if recipe.format == "eer" else None,
    )
    return {"movies": movies, "truth": particles, "truth_micrographs": micrographs, "truth_map": volume}


def _movie_recipe(settings: SimulateMoviesSettings) -> MovieRecipe:
    return MovieRecipe(
        shape=(settings.height, settings.width),
        n_frames=settings.frames,
        dose_per_frame=settings.dose_per_frame,
        pixel_size=settings.pixel_size,
        voltage_kv=settings.voltage_kv,
        cs_mm=settings.cs_mm,
        amplitude_contrast=settings.amplitude_contrast,
        phase_shift=math.radians(settings.phase_shift_deg),
        defocus=(settings.defocus_min, settings.defocus_max),
        astigmatism=settings.astigmatism,
        n_particles=settings.particles,
        preferred_fraction=settings.preferred,
        drift=settings.drift,
        doming=settings.doming,
        bfactor=settings.bfactor,
        ice_thickness=settings.ice_thickness,
        contamination=settings.contamination,
        carbon=settings.carbon,
        bad=settings.bad,
        damage=settings.damage,
        mtf=settings.mtf,
        format=settings.format,
    )
