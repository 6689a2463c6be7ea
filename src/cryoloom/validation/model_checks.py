"""What an atomic model and the map say of each other: FSC, Q-scores, residues that do not fit."""

import numpy as np
from torch import Tensor

from cryoloom.contract import Run
from cryoloom.data.model import AtomicModel
from cryoloom.maps.atoms import MapSampler, atom_density
from cryoloom.maps.filter import apply_bfactor, lowpass
from cryoloom.maps.fsc import fourier_shell_correlation, resolution_at
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.validation.half_map_checks import HalfMaps
from cryoloom.validation.items import Report, number
from cryoloom.validation.qscore import q_scores
from cryoloom.validation.residues import score_residues

KEYS = ("model_fsc", "model_q", "model_residues")
"""Items that need a model."""

FINEST_Q = 5.0
"""Å; in coarser maps single atoms do not show and residues are not judged."""


def check_model(
    maps: HalfMaps,
    model: AtomicModel,
    origin: tuple[float, float, float],
    resolution: float | None,
    run: Run,
    report: Report,
) -> None:
    """Answer the items of the model; `origin` is the place of the first voxel, xyz Å."""
    limit = maps.found.resolution if resolution is None else resolution
    shape = (maps.half1.shape[0],) * 3
    density = atom_density(model.position, model.element, model.bfactor, shape, maps.pixel_size, origin)
    if not float(density.abs().sum()) > 0:
        for key in KEYS[:1]:
            report.add(key, "failed", "The model lies outside of the map: their origins differ.")
        report.skip(KEYS, "The model lies outside of the map.")
        return
    _answer_fsc(maps, density, limit, report)
    if limit > FINEST_Q:
        report.skip(KEYS, f"At {limit:.1f} Å single atoms do not show.")
        return
    shown = lowpass(maps.mean, maps.pixel_size, max(limit, 2 * maps.pixel_size))
    if maps.wilson is not None and maps.wilson.bfactor > 0:
        shown = apply_bfactor(shown, maps.pixel_size, -maps.wilson.bfactor)
    sampler = MapSampler(shown.numpy(), maps.pixel_size, origin)
    q = q_scores(model.position, sampler, float(shown.mean()), float(shown.std()))
    mean = float(np.nanmean(q))
    low = float((q < 0.2).mean())
    report.add(
        "model_q",
        "passed" if low < 0.2 else "doubtful",
        f"Mean Q-score {mean:.2f}; {100 * low:.0f} % of the atoms are below 0.2.",
        value=number(mean),
        limit="less than 20 % of the atoms below 0.2",
    )
    scores = score_residues(model, q)
    bad = np.flatnonzero(scores.outlier)
    order = bad[np.argsort(np.nan_to_num(scores.shortfall[bad] + scores.stretch[bad]))]
    names = [model.residue_label(int(r)) for r in order]
    for name in names[:50]:
        run.log(f"the map does not show {name} as it is in the model")
    share = len(bad) / max(int(np.isfinite(scores.shortfall).sum()), 1)
    said = f"{len(bad)} residues do not fit ({100 * share:.1f} %)"
    report.add(
        "model_residues",
        "passed" if share <= 0.05 else "doubtful",
        said + (f": first {', '.join(names[:5])}." if names else "."),
        value=number(100 * share, 2),
        unit="%",
        limit="<= 5",
        detail={"residues": names[:200]},
    )


def _answer_fsc(maps: HalfMaps, density: Tensor, limit: float, report: Report) -> None:
    """FSC of the mean map and the model's density, behind a mask around the model."""
    mask = soft_mask_from_map(density, maps.pixel_size, lowpass_resolution=max(10.0, 2 * limit), extend=4.0, edge=6.0)
    fsc = fourier_shell_correlation(maps.mean * mask, density * mask).numpy()
    box = maps.half1.shape[0]
    at_half = resolution_at(fsc, 0.5, box, maps.pixel_size)
    last = max(round(box * maps.pixel_size / limit), 3)
    weight = np.arange(1, last + 1) ** 2.0
    mean = float((fsc[1 : last + 1] * weight[: len(fsc[1 : last + 1])]).sum() / weight[: len(fsc[1 : last + 1])].sum())
    if at_half > 20.0 and mean < 0.2:
        status, said = "failed", "The model does not lie in this map: another place, another hand, or another molecule."
    elif at_half > 1.3 * limit:
        status, said = (
            "doubtful",
            f"Map and model agree to {at_half:.2f} Å only (FSC 0.5), the map is good to {limit:.2f} Å.",
        )
    else:
        status, said = "passed", f"Map and model agree to {at_half:.2f} Å (FSC 0.5)."
    report.add(
        "model_fsc",
        status,
        said,
        value=number(at_half),
        unit="Å",
        limit="<= 1.3 times the resolution",
        detail={"mean_fsc": number(mean)},
    )
