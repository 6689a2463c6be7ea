"""Stage `variability`: from posed particles to the directions in which they differ and where each particle stands."""

import math
from typing import Any

import numpy as np

from cryoloom.class3d.common import CommonMap, common_map, given_poses
from cryoloom.class3d.principal import KNOWN, PrincipalVolumes, principal_volumes
from cryoloom.class3d.settings import VARIABILITY, VariabilitySettings
from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em.groups import half_sets, noise_groups
from cryoloom.em.images import ImageSource, cache_bytes
from cryoloom.em.place import Place
from cryoloom.io.particles import ParticleImages

FRAMES = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Standard deviations at which the maps of a series stand."""


@stage(VARIABILITY)
def find_variability(
    particles: ParticleSet, mask: VolumeMap | None, settings: VariabilitySettings, run: Run
) -> dict[str, Any]:
    """Find the directions in which particles differ."""
    if particles.rotation is None:
        raise InputError("The particles have no poses; give the particles of a refinement.")
    if len(particles) < 40 * settings.components:
        raise InputError(
            f"The set holds {len(particles)} particles; {settings.components} principal volumes need at least "
            f"{40 * settings.components}: set --components lower."
        )
    half = half_sets(particles, run.generator("halves"))
    reader = ParticleImages(particles)
    field = reader.shape[-1] * float(particles.optics[0].pixel_size)
    source = ImageSource(
        reader,
        particles,
        min(settings.mask_diameter or 0.8 * field, 0.98 * field),
        noise_group=noise_groups(particles, settings.noise),
        cache_bytes=cache_bytes(run.memory_budget),
        place=Place(run.devices),
    )
    poses = given_poses(particles, half, source.pixel_size)
    common = common_map(
        source, poses, source.mask_diameter, run.executor,
        symmetry=settings.symmetry, finest=settings.finest, focus=mask,
    )  # fmt: skip
    run.log(f"map of all particles: {field / common.radius:.1f} Å")
    found = principal_volumes(
        source, poses, common, run.executor, run.generator("directions"),
        n_volumes=settings.components, radii=_radii(source, common, settings), symmetry=settings.symmetry, log=run.log,
    )  # fmt: skip
    results = _maps(found, source.field)
    extra = dict(particles.extra)
    for j in range(settings.components):
        extra[f"cryoloomVariability{j + 1:03d}"] = found.coordinates[:, j].copy()
        extra[f"cryoloomVariabilityError{j + 1:03d}"] = found.spread[:, j].copy()
    results["particles"] = particles.replace(half=half, extra=extra)
    _show(run, found, source.field)
    _summarise(run, particles, found, source.field, settings)
    return results


def _radii(source: ImageSource, common: CommonMap, settings: VariabilitySettings) -> list[int]:
    """From a tenth of the particle to the finest detail that is asked for, but no finer than the map of all."""
    last = int(np.clip(round(source.field / (settings.finest or 8.0)), 4, common.radius))
    first = int(np.clip(round(10.0 * source.field / source.mask_diameter), 4, last))
    return sorted({first, min(last, math.ceil(1.6 * first)), last})


def _maps(found: PrincipalVolumes, field: float) -> dict[str, Any]:
    """The mean, the principal volumes at one standard deviation, and series along those that were found."""
    pixel_size = field / found.mean.shape[0]
    results: dict[str, Any] = {"mean": VolumeMap(found.mean.numpy(), pixel_size)}
    for j, volume in enumerate(found.volumes):
        one = volume * float(found.deviation[j])
        name = f"component{j + 1:03d}"
        results[name] = VolumeMap(one.numpy(), pixel_size)
        if found.found[j]:
            for k, at in enumerate(FRAMES):
                results[f"{name}_frame{k + 1}"] = VolumeMap((found.mean + at * one).numpy(), pixel_size)
    return results


def _show(run: Run, found: PrincipalVolumes, field: float) -> None:
    shells = np.arange(found.fsc.shape[1])
    run.show(
        Figure(
            name="agreement",
            kind="curves",
            title="Principal volumes as either half has them",
            caption="FSC between the volumes of two halves analysed apart: to which resolution each is known.",
            x_label="resolution",
            y_label="FSC",
            data={
                "x": shells / field,
                "y": {f"volume {j + 1}": f for j, f in enumerate(found.fsc)},
                "lines": {"0.143": 0.143},
                "resolution_axis": True,
            },
        )
    )
    for j in np.flatnonzero(found.found):
        run.show(
            Figure(
                name=f"coordinates{j + 1:03d}",
                kind="histogram",
                title=f"Particles along volume {j + 1}",
                caption="One lump: a continuous change or none; two: states. Each value is uncertain by "
                f"{np.median(found.spread[:, j]):.2f} in the median.",
                x_label="standard deviations",
                data={"values": found.coordinates[:, j]},
            )
        )
        one = found.volumes[j] * float(found.deviation[j])
        run.show(
            Figure(
                name=f"change{j + 1:03d}",
                kind="volume",
                title=f"Volume {j + 1}",
                caption="What is added from the mean to one standard deviation.",
                data={"volume": one.numpy(), "pixel_size": field / found.mean.shape[0]},
            )
        )
    if found.found[:2].all() and len(found.found) > 1:
        run.show(
            Figure(
                name="landscape",
                kind="scatter",
                title="Particles along the first two volumes",
                x_label="volume 1, standard deviations",
                y_label="volume 2, standard deviations",
                data={"x": found.coordinates[:, 0], "y": found.coordinates[:, 1]},
            )
        )


def _summarise(
    run: Run, particles: ParticleSet, found: PrincipalVolumes, field: float, settings: VariabilitySettings
) -> None:
    n = int(found.found.sum())
    known = field / found.known
    reasons = [
        f"{n} of {len(found.found)} principal volumes are seen in both halves",
        *(
            f"volume {j + 1}: variance {100 * found.variance[j]:.2f} ± {100 * found.error[j]:.2f} % of the mean map's "
            f"power to {known:.0f} Å; halves agree to {found.limit[j]:.0f} Å"
            for j in np.flatnonzero(found.found)
        ),
    ]
    if n:
        reasons.append(
            f"expected to be right to {known:.0f} Å within {math.degrees(KNOWN):.0f}°: what few particles have, or "
            "what moves little, shows at low resolution only"
        )
    if n == 0:
        reasons.insert(0, "the halves agree on no direction in which the particles differ")
    run.summarise(
        verdict="found" if n else "not found",
        reasons=reasons,
        n_in=len(particles),
        n_out=len(particles),
        symmetry=settings.symmetry,
        pixel_size=float(particles.optics[0].pixel_size),
        volumes_found=n,
        variances=[round(float(v), 6) for v in found.variance],
        variance_errors=[round(float(v), 6) for v in found.error],
        angles_between_halves_deg=[round(math.degrees(v), 2) for v in found.angles],
        agreement_of_halves=[round(float(v), 3) for v in found.likeness],
        limits=[round(float(v), 2) for v in found.limit],
        resolution_known=round(known, 3),
        resolution_used=round(field / found.radius, 3),
    )
