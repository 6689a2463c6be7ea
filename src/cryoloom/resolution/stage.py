"""Stage `resolution`: local resolution by two methods, FSC in cones, sampling by the views."""

from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.data.half_maps import check_half_maps
from cryoloom.geometry import symmetry_matrices
from cryoloom.maps.corrected import corrected_fsc
from cryoloom.maps.directional import directional_fsc
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.local_resolution import default_window, measure_local_resolution
from cryoloom.maps.log_bands import choose_bands
from cryoloom.maps.mask import find_mask
from cryoloom.maps.sampling import measure_sampling
from cryoloom.maps.spectrum import shell_frequencies
from cryoloom.maps.windowed import WindowedHalves
from cryoloom.resolution.settings import RESOLUTION, ResolutionSettings


@stage(RESOLUTION)
def measure_resolution(
    half1: VolumeMap,
    half2: VolumeMap,
    mask: VolumeMap | None,
    particles: ParticleSet | None,
    settings: ResolutionSettings,
    run: Run,
) -> dict[str, Any]:
    """Measure the resolution of two half maps in each place and along each direction."""
    check_half_maps(half1, half2, mask)
    pixel_size, box = half1.pixel_size, half1.data.shape[0]
    a, b = (torch.from_numpy(np.array(half.data, dtype=np.float32)) for half in (half1, half2))
    body = (
        find_mask(0.5 * (a + b), pixel_size).mask if mask is None else torch.from_numpy(np.array(mask.data, np.float32))
    )

    curves = corrected_fsc(a, b, body)
    crossing = locate_crossing(curves.corrected, curves.covariance * len(symmetry_matrices(settings.symmetry)))
    resolution = box * pixel_size / crossing.shell
    worst, best = (box * pixel_size / shell for shell in crossing.interval(len(curves.corrected)))

    window = settings.window or default_window(resolution, pixel_size)
    bands, _ = choose_bands(box, pixel_size, 30.0)
    with run.progress(2 * len(bands), "local resolution") as line:
        local = measure_local_resolution(
            WindowedHalves(a, b, pixel_size, body, window),
            threshold=settings.threshold,
            significance=settings.significance,
            step=line.advance,
        )
    cones = directional_fsc(
        a * body,
        b * body,
        pixel_size,
        cone_deg=settings.cone_deg,
        threshold=settings.threshold,
        dof_fraction=float((body > 0.5).float().mean()) / len(symmetry_matrices(settings.symmetry)),
    )

    inside = body.numpy() > 0.5
    quantiles = np.quantile(local.fsc[inside], [0.05, 0.5, 0.95]) if inside.any() else [float("nan")] * 3
    spread = np.quantile(cones.resolution, [0.05, 0.95])
    summary: dict[str, Any] = {
        "resolution": round(resolution, 3),
        "resolution_interval": [round(best, 3), round(worst, 3)],
        "symmetry": settings.symmetry,
        "pixel_size": pixel_size,
        "local_resolution_median": round(float(quantiles[1]), 3),
        "local_resolution_5_to_95_percent": [round(float(quantiles[0]), 3), round(float(quantiles[2]), 3)],
        "local_significance_median": round(float(np.median(local.significance[inside])), 3) if inside.any() else None,
        "directional_resolution_5_to_95_percent": [round(float(spread[0]), 3), round(float(spread[1]), 3)],
        "sphericity": round(cones.sphericity, 4),
        "cfar": round(cones.worst_over_best, 4),
    }
    reasons = [
        f"{resolution:.2f} Å overall; from {quantiles[0]:.1f} to {quantiles[2]:.1f} Å within the map and from "
        f"{spread[0]:.1f} to {spread[1]:.1f} Å along different directions."
    ]
    doubtful = False
    if cones.worst_over_best < 0.5:
        doubtful = True
        reasons.append("Some directions are much worse than others: the map is smeared along them.")
        run.warn("The resolution depends strongly on direction; views are missing or misaligned.")
    if particles is not None and particles.rotation is not None:
        summary |= _sampling_summary(particles, settings.symmetry, run, reasons)
    run.summarise(verdict="doubtful" if doubtful else "found", reasons=reasons, n_in=2, n_out=1, **summary)
    _show(run, local.fsc, inside, half1, a, b, body, cones, shell_frequencies((box,) * 3, pixel_size))
    return {
        "local_resolution": VolumeMap(local.fsc, pixel_size, half1.origin),
        "local_significance": VolumeMap(local.significance, pixel_size, half1.origin),
    }


def _sampling_summary(particles: ParticleSet, symmetry: str, run: Run, reasons: list[str]) -> dict[str, Any]:
    """Sampling by the particles' views with all symmetry copies; at most 20,000 particles are looked at."""
    views = np.asarray(particles.rotation)[:, :, 2]
    if len(views) > 20_000:
        views = views[:: len(views) // 20_000 + 1]
    operators = symmetry_matrices(symmetry).numpy()
    copies = np.einsum("sij,nj->sni", operators, views).reshape(-1, 3)
    if len(copies) > 40_000:
        copies = copies[:: len(copies) // 40_000 + 1]
    sampling = measure_sampling(copies)
    if sampling.best_tilt_deg:
        advice = (
            f"The views leave gaps (sampling factor {sampling.scf:.2f}); tilting the stage by "
            f"{sampling.best_tilt_deg:.0f}° would raise it to about {sampling.scf_at_best:.2f}."
        )
        reasons.append(advice)
        run.warn(advice)
    rotations = np.asarray(particles.rotation)[:: len(operators) * len(views) // 20_000 + 1]
    run.show(
        Figure(
            name="views",
            kind="orientations",
            title="Directions from which the particles are seen",
            caption=f"Sampling factor {sampling.scf:.2f} (1 for even views, 0.81 for side views only); "
            f"{100 * sampling.unsampled:.0f} % of Fourier space is not sampled; efficiency of the orientations "
            f"{sampling.efficiency:.2f}."
            + (f" All equal views of {symmetry} are drawn." if len(operators) > 1 else ""),
            data={"rotations": (operators[:, None] @ rotations).reshape(-1, 3, 3)},
        )
    )
    return {
        "sampling_factor": round(sampling.scf, 4),
        "orientation_efficiency": round(sampling.efficiency, 4),
        "unsampled_fraction": round(sampling.unsampled, 4),
        "advised_tilt_deg": sampling.best_tilt_deg,
    }


def _show(
    run: Run,
    local: np.ndarray,
    inside: np.ndarray,
    half1: VolumeMap,
    a: torch.Tensor,
    b: torch.Tensor,
    body: torch.Tensor,
    cones: Any,
    frequency: np.ndarray,
) -> None:
    values = local[inside]
    run.show(
        Figure(
            name="local",
            kind="histogram",
            title="Local resolution",
            caption="Of all voxels inside the mask. A long tail to coarse values means flexible or weakly bound parts.",
            x_label="local resolution (Å)",
            y_label="voxels",
            data={"values": values[:: max(1, len(values) // 200_000)], "lines": {"median": float(np.median(values))}},
        )
    )
    c = local.shape[0] // 2
    planes = [np.where(inside[c], local[c], np.nan), np.where(inside[:, c], local[:, c], np.nan)]
    planes.append(np.where(inside[:, :, c], local[:, :, c], np.nan))
    run.show(
        Figure(
            name="local_slices",
            kind="gallery",
            title="Local resolution in the central slices",
            caption="Bright is fine, dark is coarse; blank outside the mask.",
            data={
                "images": np.stack(planes),
                "labels": ["xy", "xz", "yz"],
                "columns": 3,
                "scale": "local resolution (Å)",
            },
        )
    )
    run.show(
        Figure(
            name="cones",
            kind="curves",
            title="FSC along different directions",
            caption="The curves of all cones lie in the band. A wide band means that some directions are worse.",
            x_label="Resolution",
            y_label="FSC",
            data={
                "x": frequency,
                "y": {
                    "mean of the cones": cones.fsc.mean(0),
                    "directions above 0.143": cones.occupancy,
                },
                "bands": {"mean of the cones": np.quantile(cones.fsc, [0.025, 0.975], axis=0)},
                "lines": {"0.143": 0.143},
                "resolution_axis": True,
            },
        )
    )
