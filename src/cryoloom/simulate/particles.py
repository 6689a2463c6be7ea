"""Particle stacks of known truth: poses, CTF, envelope, coloured noise at a defined signal-to-noise ratio, junk.

SNR is the variance of the noise-free, modulated image inside the particle's circle over the total noise variance
per pixel. Noise has variance 1; a particle's grey scale follows from the SNR. Images are made chunk by chunk, each
chunk from its own random stream and in its own stack, so memory is flat and the result does not depend on threads.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.data import Optics, ParticleSet, VolumeMap
from cryoloom.fourier.exact import ExactSpectrum, exact_spectrum
from cryoloom.fourier.transform import dft_to_image
from cryoloom.io.mrc import write_mrc
from cryoloom.simulate.imaging import image_dfts
from cryoloom.simulate.junk import junk_dfts
from cryoloom.simulate.noise import coloured_noise, ice_spectrum
from cryoloom.simulate.views import sample_rotations

KINDS = ("particle", "empty", "broken", "contaminant")
"""What an image shows, the values of the extra column `cryoloomKind`."""

BodyMotion = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From coordinates `(n,)` in [0, 1] to rotations `(n, b, 3, 3)` and translations `(n, b, 3)` xyz Å of the bodies."""


@dataclass(frozen=True)
class Specimen:
    """What is in the ice.

    Attributes
    ----------
    states
        Maps of the states, each a tuple of rigid bodies (mostly one), all of one box and pixel size.
    weights
        Population of each state; equal if empty.
    symmetry
        Point group of the maps.
    diameter
        Diameter in Å of the particle's circle.
    motion
        Continuous motion of the bodies, or None.
    """

    states: tuple[tuple[VolumeMap, ...], ...]
    symmetry: str = "C1"
    diameter: float = 200.0
    weights: tuple[float, ...] = ()
    motion: BodyMotion | None = None

    @property
    def box(self) -> int:
        """Side of the maps."""
        return self.states[0][0].data.shape[0]

    @property
    def pixel_size(self) -> float:
        """Å per voxel."""
        return self.states[0][0].pixel_size

    def truth(self, state: int = 0, coordinate: float = 0.5) -> VolumeMap:
        """Map of one state, its bodies joined; with a motion, at one coordinate."""
        bodies = self.states[state]
        if self.motion is None:
            return VolumeMap(sum((b.data for b in bodies[1:]), bodies[0].data), self.pixel_size)
        rotation, translation = self.motion(np.array([coordinate]))
        parts = [_moved_map(b, rotation[0, i], translation[0, i]) for i, b in enumerate(bodies)]
        return VolumeMap(np.sum(parts, axis=0), self.pixel_size)


@dataclass(frozen=True)
class ParticleRecipe:
    """How the images are taken; the defaults are those of bed `c1`.

    Attributes
    ----------
    n
        Images.
    snr
        Signal-to-noise ratio as defined above; 0 gives noise alone.
    voltage_kv, cs_mm, amplitude_contrast, phase_shift, beam_tilt_mrad, hand
        Microscope; phase shift in radians.
    defocus
        Smallest and largest mean defocus of a micrograph, Å.
    astigmatism
        Largest `U - V`, Å.
    height
        Particles lie at heights up to plus or minus this, Å.
    shift
        Centres lie up to plus or minus this from the centre of the box along each axis, Å.
    bfactor
        Envelope, Å2.
    rise, knee
        Colour of the noise (`ice_spectrum`).
    junk
        Share of images that show no particle.
    scale_spread
        Standard deviation of the grey scale of particles around 1.
    preferred_fraction, preferred_axis, preferred_spread
        See `sample_rotations`; radians.
    per_micrograph
        Particles on one micrograph; they share defocus and astigmatism.
    ewald
        Curve the Ewald sphere.
    """

    n: int = 3000
    snr: float = 0.05
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift: float = 0.0
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    hand: int = 1
    defocus: tuple[float, float] = (8_000.0, 22_000.0)
    astigmatism: float = 500.0
    height: float = 300.0
    shift: float = 6.0
    bfactor: float = 60.0
    rise: float = 3.0
    knee: float = 40.0
    junk: float = 0.1
    scale_spread: float = 0.0
    preferred_fraction: float = 0.0
    preferred_axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    preferred_spread: float = math.radians(12)
    per_micrograph: int = 60
    ewald: bool = False


@dataclass(frozen=True)
class _Plan:
    """Everything that is the same for all chunks."""

    truth: ParticleSet
    kind: np.ndarray
    coordinate: np.ndarray | None
    spectra: tuple[tuple[ExactSpectrum, ...], ...]
    motion: BodyMotion | None
    recipe: ParticleRecipe
    noise: Tensor
    diameter: float
    seed: int
    device: str = "cpu"
    gain: float = 1.0
    stems: list[str] = field(default_factory=list)


def simulate_particles(
    specimen: Specimen | VolumeMap,
    folder: Path | str,
    recipe: ParticleRecipe | None = None,
    *,
    seed: int = 0,
    executor: Executor | None = None,
    device: str = "cpu",
    on_chunk: Callable[[int], None] | None = None,
    **changes: object,
) -> ParticleSet:
    """Simulate particle images with known truth and write them as stacks.

    Parameters
    ----------
    specimen
        What is imaged; a bare map stands for one state without symmetry.
    folder
        Stacks `particles_0001.mrcs` ... are written here.
    recipe
        How; see `ParticleRecipe`. Further keyword arguments replace its fields.
    seed
        Seed of all random numbers.
    executor
        Runs chunks in parallel; in turn if None.
    device
        Where slices are taken.
    on_chunk
        Called with the number of images of each finished chunk.

    Returns
    -------
    truth
        All that is true of the images: `rotation`, `shift`, `defocus_*` of each particle at its height, `class_number`
        (the state from 1; 0 for junk), `scale`, and extra columns `cryoloomKind` (index into `KINDS`) and
        `cryoloomCoordinate` of the continuous motion. `observed` gives what a pipeline may see.
    """
    recipe = replace(recipe or ParticleRecipe(), **changes)  # type: ignore[arg-type]
    if isinstance(specimen, VolumeMap):
        specimen = Specimen(states=((specimen,),), diameter=0.8 * specimen.data.shape[0] * specimen.pixel_size)
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = _plan(specimen, recipe, seed, device)
    size = chunk_size(specimen.box)
    chunks = [(start, min(start + size, recipe.n)) for start in range(0, recipe.n, size)]

    def work(chunk: tuple[int, int]) -> tuple[int, int]:
        images = _chunk_images(plan, np.arange(*chunk), chunk[0])
        write_mrc(_stack_path(folder, chunk[0] // size), images.numpy(), specimen.pixel_size, kind="stack")
        return chunk

    for start, stop in executor.map(work, chunks) if executor is not None else map(work, chunks):
        if on_chunk is not None:
            on_chunk(stop - start)
    rows = np.arange(recipe.n)
    paths = np.asarray([str(_stack_path(folder, i)) for i in range(len(chunks))])
    return plan.truth.replace(image_path=paths[rows // size], image_index=rows % size)


def particle_images(
    specimen: Specimen, recipe: ParticleRecipe, *, seed: int = 0, device: str = "cpu"
) -> tuple[Tensor, ParticleSet]:
    """The same images in memory, `(n, box, box)`, and their truth; for small sets and tests."""
    plan = _plan(specimen, recipe, seed, device)
    size = chunk_size(specimen.box)
    parts = [
        _chunk_images(plan, np.arange(start, min(start + size, recipe.n)), start) for start in range(0, recipe.n, size)
    ]
    return torch.cat(parts), plan.truth


def observed(truth: ParticleSet) -> ParticleSet:
    """What a pipeline may see of simulated particles: images, micrographs, and the CTF of each micrograph."""
    extra = {name: column for name, column in truth.extra.items() if not name.startswith("cryoloom")}
    return truth.replace(
        rotation=None,
        shift=None,
        psi=None,
        class_number=None,
        scale=None,
        ctf_bfactor=None,
        defocus_u=truth.extra["cryoloomMicrographDefocusU"].copy(),
        defocus_v=truth.extra["cryoloomMicrographDefocusV"].copy(),
        extra=extra,
    )


def chunk_size(box: int) -> int:
    """Images per chunk and stack: about 32 MB."""
    return int(np.clip(2**23 // box**2, 16, 1024))


def _stack_path(folder: Path, index: int) -> Path:
    return folder / f"particles_{index + 1:04d}.mrcs"


def _plan(specimen: Specimen, recipe: ParticleRecipe, seed: int, device: str) -> _Plan:
    generator = torch.Generator().manual_seed(_mix(seed, 0))
    n, pixel_size, box = recipe.n, specimen.pixel_size, specimen.box

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return (low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)).numpy()

    micrograph = np.arange(n) // max(1, recipe.per_micrograph)
    n_micrographs = int(micrograph[-1]) + 1 if n else 0
    mean = uniform(*recipe.defocus, n_micrographs)
    astigmatism = uniform(0, recipe.astigmatism, n_micrographs)
    angle = uniform(0, math.pi, n_micrographs)
    height = uniform(-recipe.height, recipe.height, n)
    u = (mean + 0.5 * astigmatism)[micrograph]
    v = (mean - 0.5 * astigmatism)[micrograph]
    weights = np.asarray(specimen.weights or [1.0] * len(specimen.states), np.float64)
    edges = np.cumsum(weights / weights.sum())
    state = np.minimum(np.searchsorted(edges, uniform(0, 1, n), side="right"), len(weights) - 1)
    kind = np.where(uniform(0, 1, n) < recipe.junk, 1 + (uniform(0, 3, n)).astype(np.int64), 0)
    coordinate = uniform(0, 1, n) if specimen.motion is not None else None
    extra: dict[str, np.ndarray] = {
        "cryoloomKind": kind,
        "cryoloomMicrographDefocusU": u,
        "cryoloomMicrographDefocusV": v,
    }
    if coordinate is not None:
        extra["cryoloomCoordinate"] = coordinate
    normal = torch.randn(n, generator=generator, dtype=torch.float64).numpy()
    truth = ParticleSet(
        image_path=np.full(n, ""),
        image_index=np.arange(n),
        micrograph=np.asarray([f"micrographs/simulated_{i + 1:05d}.mrc" for i in range(n_micrographs)])[micrograph],
        optics=(
            Optics(
                name="simulated",
                pixel_size=pixel_size,
                voltage_kv=recipe.voltage_kv,
                cs_mm=recipe.cs_mm,
                amplitude_contrast=recipe.amplitude_contrast,
                beam_tilt_mrad=recipe.beam_tilt_mrad,
                original_pixel_size=pixel_size,
                box=box,
                hand=recipe.hand,
            ),
        ),
        optics_index=np.zeros(n, np.int64),
        defocus_u=u + recipe.hand * height,
        defocus_v=v + recipe.hand * height,
        defocus_angle=angle[micrograph],
        phase_shift=np.full(n, recipe.phase_shift),
        ctf_bfactor=np.full(n, recipe.bfactor),
        rotation=sample_rotations(
            n,
            generator,
            preferred_fraction=recipe.preferred_fraction,
            preferred_axis=recipe.preferred_axis,
            spread=recipe.preferred_spread,
        ).numpy(),
        shift=uniform(-recipe.shift, recipe.shift, n, 2),
        class_number=np.where(kind == 0, state + 1, 0),
        scale=np.clip(1 + recipe.scale_spread * normal, 0.2, None),
        extra=extra,
    )
    plan = _Plan(
        truth=truth,
        kind=kind,
        coordinate=coordinate,
        spectra=tuple(
            tuple(exact_spectrum(torch.from_numpy(body.data), device=device) for body in bodies)
            for bodies in specimen.states
        ),
        motion=specimen.motion,
        recipe=recipe,
        noise=ice_spectrum((box, box), pixel_size, rise=recipe.rise, knee=recipe.knee),
        diameter=specimen.diameter,
        seed=seed,
        device=device,
    )
    return replace(plan, gain=_gain_for_snr(plan))


def _gain_for_snr(plan: _Plan) -> float:
    """Grey scale for which the mean variance inside of the particle's circle is the SNR."""
    real = np.flatnonzero(plan.kind == 0)
    if plan.recipe.snr <= 0 or not len(real):
        return 0.0
    rows = real[np.linspace(0, len(real) - 1, min(128, len(real))).astype(np.int64)]
    box = plan.spectra[0][0].box
    axis = torch.arange(box) - box // 2
    radius_px = 0.5 * plan.diameter / plan.truth.optics[0].pixel_size
    circle = (axis[:, None] ** 2 + axis**2 <= radius_px**2).reshape(-1)
    variances = []
    for part in np.array_split(rows, max(1, len(rows) // 16)):
        clean = dft_to_image(_signal(plan, part, centred=True), (box, box)).reshape(len(part), -1)[:, circle]
        variances.append(clean.double().var(dim=1, correction=0))
    return math.sqrt(plan.recipe.snr / float(torch.cat(variances).mean()))


def _chunk_images(plan: _Plan, rows: np.ndarray, key: int) -> Tensor:
    """Images of some rows, `(n, box, box)`, noise from the stream of `key`."""
    generator = torch.Generator().manual_seed(_mix(plan.seed, key + 1))
    box = plan.spectra[0][0].box
    images = coloured_noise(len(rows), (box, box), plan.noise, generator)
    if plan.recipe.snr <= 0:
        return images
    for part in _batches(len(rows), 16):
        images[part] += dft_to_image(_with_junk(plan, rows[part], generator), (box, box))
    return images


def _with_junk(plan: _Plan, rows: np.ndarray, generator: torch.Generator) -> Tensor:
    box = plan.spectra[0][0].box
    dft = torch.zeros(len(rows), box, box // 2 + 1, dtype=torch.complex64)
    kind = plan.kind[rows]
    real = np.flatnonzero(kind == 0)
    if len(real):
        assert plan.truth.scale is not None
        grey = torch.from_numpy(plan.gain * plan.truth.scale[rows[real]]).to(torch.float32)
        dft[real] = _signal(plan, rows[real]) * grey[:, None, None]
    for i in np.flatnonzero(kind > 1):
        dft[i] = junk_dfts(
            KINDS[kind[i]],
            plan.truth.select(rows[i : i + 1]),
            box,
            diameter=plan.diameter,
            snr=plan.recipe.snr,
            bfactor=plan.recipe.bfactor,
            generator=generator,
        )[0]
    return dft


def _signal(plan: _Plan, rows: np.ndarray, *, centred: bool = False) -> Tensor:
    """Noise-free images of real particles as half spectra; grey scale 1."""
    truth, box = plan.truth, plan.spectra[0][0].box
    assert truth.class_number is not None
    state = truth.class_number[rows] - 1
    out = torch.zeros(len(rows), box, box // 2 + 1, dtype=torch.complex64)

    def column(name: str, picked: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(getattr(truth, name)[picked])).to(plan.device)

    for s in np.unique(state):
        here = np.flatnonzero(state == s)
        picked = rows[here]
        body_rotation = body_translation = None
        if plan.motion is not None and plan.coordinate is not None:
            turned, moved = plan.motion(plan.coordinate[picked])
            body_rotation, body_translation = torch.from_numpy(turned), torch.from_numpy(moved)
            body_rotation, body_translation = body_rotation.to(plan.device), body_translation.to(plan.device)
        shift = column("shift", picked)
        out[here] = image_dfts(
            list(plan.spectra[s]),
            column("rotation", picked),
            optics=truth.optics[0],
            box=box,
            defocus_u=column("defocus_u", picked),
            defocus_v=column("defocus_v", picked),
            defocus_angle=column("defocus_angle", picked),
            phase_shift=column("phase_shift", picked),
            shift=torch.zeros_like(shift) if centred else shift,
            bfactor=plan.recipe.bfactor,
            body_rotation=body_rotation,
            body_translation=body_translation,
            ewald=plan.recipe.ewald,
        ).cpu()
    return out


def _moved_map(body: VolumeMap, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """A body turned and moved, resampled in Fourier space (exact but for the corners of its transform)."""
    from cryoloom.fourier.exact import sample_spectrum
    from cryoloom.fourier.transform import frequency_grid

    n = body.data.shape[0]
    spectrum = exact_spectrum(torch.from_numpy(body.data))
    grid = frequency_grid((n, n, n), dtype=torch.float64)  # zyx, per pixel
    k = grid.flip(-1)  # xyz
    values = sample_spectrum(spectrum, (k * n) @ torch.from_numpy(rotation))
    ramp = (k * torch.from_numpy(translation / body.pixel_size)).sum(-1)
    values = values * torch.polar(torch.ones_like(ramp), -2 * math.pi * ramp)
    return dft_to_image(values.to(torch.complex64), (n, n, n)).numpy()


def _batches(n: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, n, size):
        yield np.arange(start, min(start + size, n))


def _mix(*numbers: int) -> int:
    """One seed from several."""
    return int(np.random.SeedSequence([int(n) % 2**32 for n in numbers]).generate_state(1, np.uint64)[0] >> 1)


def as_states(maps: Sequence[VolumeMap]) -> tuple[tuple[VolumeMap, ...], ...]:
    """States of one body each."""
    return tuple((m,) for m in maps)
