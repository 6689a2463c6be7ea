"""Figures of `postprocess`: FSC curves, Guinier plot, mask, sharpened map."""

import numpy as np

from cryoloom.contract import Figure, Run
from cryoloom.data import VolumeMap
from cryoloom.maps.corrected import CorrectedFsc
from cryoloom.maps.detail import DetailCurve
from cryoloom.maps.interval import Crossing
from cryoloom.maps.mask import MaskFromMap
from cryoloom.maps.spectrum import GuinierFit
from cryoloom.maps.view import map_for_view
from cryoloom.postprocess.settings import PostprocessSettings

PROTEIN_SHARE = 0.6
"""Volume of a protein over that of its body in a 15 Å map cut at 30 % of its density."""


def show_results(
    run: Run,
    curves: CorrectedFsc,
    covariance: np.ndarray,
    crossing: Crossing,
    frequency: np.ndarray,
    settings: PostprocessSettings,
    fit: GuinierFit | None,
    detail: DetailCurve | None,
    sharpened: np.ndarray,
    mask: np.ndarray,
    half1: VolumeMap,
    found: MaskFromMap,
) -> None:
    """Figures of the stage: FSC curves, Guinier plot, mask over the map, and the sharpened map."""
    pixel_size = half1.pixel_size
    resolution = max(half1.data.shape) * pixel_size / crossing.shell
    sigma = np.sqrt(np.diag(covariance)) * (1 - np.clip(curves.corrected, 0, 1) ** 2)
    band = np.stack([curves.corrected - 1.96 * sigma, curves.corrected + 1.96 * sigma])
    run.show(
        Figure(
            name="fsc",
            kind="curves",
            title="Fourier shell correlation",
            caption="How well the two half maps agree at each resolution. The corrected curve counts: where it crosses "
            "0.143 is the resolution. The phase-randomised curve shows what the mask alone brings in; it should be "
            "near zero there.",
            x_label="Resolution",
            y_label="FSC",
            data={
                "x": frequency,
                "y": {
                    "corrected": curves.corrected,
                    "masked": curves.masked,
                    "unmasked": curves.unmasked,
                    "phase-randomised": curves.phase_randomised,
                },
                "bands": {"corrected": band},
                "lines": {"0.143": settings.fsc_threshold, "0.5": 0.5},
                "mark": float(crossing.shell / (max(half1.data.shape) * pixel_size)),
                "resolution_axis": True,
            },
        )
    )
    if fit is not None:
        use = (frequency > 1 / 20) & np.isfinite(fit.log_amplitude) & (frequency <= 1.3 * frequency[fit.used].max())
        run.show(
            Figure(
                name="guinier",
                kind="curves",
                title="Guinier plot",
                caption="Logarithm of the amplitude the halves share, relative to an average protein. Its slope is the "
                "B-factor that sharpening takes out; a straight line means the fit can be trusted.",
                x_label="Resolution",
                y_label="ln amplitude, relative to a protein",
                data={
                    "x": frequency[use],
                    "y": {
                        "map": fit.log_amplitude[use],
                        f"B = {fit.bfactor:.0f} ± {1.96 * fit.standard_error:.0f} Å²": np.where(
                            fit.used[use], fit.line()[use], np.nan
                        ),
                    },
                    "squared_axis": True,
                    "resolution_axis": True,
                },
            )
        )
    if detail is not None:
        scale = max(float(np.abs(detail.score).max()), 1e-30)
        run.show(
            Figure(
                name="sharpening",
                kind="curves",
                title="Detail against sharpening",
                caption="Surface of the map at a level that always encloses the same volume, less a price for each "
                f"separate piece; largest at {detail.best:.0f} Å². Far to the right of that the map falls to pieces.",
                x_label="B-factor taken out (Å²)",
                y_label="surface less pieces, relative",
                data={"x": detail.bfactors, "y": {"map": detail.score / scale}, "mark": round(detail.best)},
            )
        )
    c = mask.shape[0] // 2
    run.show(
        Figure(
            name="mask",
            kind="image",
            title="Mask over the map",
            caption="Central slice of the sharpened map with the mask laid over it. All density should lie inside, "
            "with a few Å of room.",
            data={"image": sharpened[c], "overlay": mask[c], "pixel_size": pixel_size},
        )
    )
    run.show(
        Figure(
            name="map",
            kind="volume",
            title="Sharpened map",
            caption="Central slices of the sharpened map, and its surface (drawn at "
            f"{1.3 * resolution:.1f} Å, so that noise does not fray it).",
            data=map_for_view(
                sharpened,
                pixel_size,
                mask,
                enclosed=0.85 * PROTEIN_SHARE * found.volume,
                surface_resolution=1.3 * resolution,
            ),
        )
    )
