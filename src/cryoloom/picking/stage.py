"""Stage `pick`: micrographs in, positions of particles out."""

from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import MicrographSet, PickSet
from cryoloom.io.images import read_micrograph
from cryoloom.io.records import write_coordinates
from cryoloom.picking.bank import BankMaker
from cryoloom.picking.calibrate import Calibration, calibrate
from cryoloom.picking.finders import Finder, bank_finder, round_finder
from cryoloom.picking.junk import outliers
from cryoloom.picking.learn import NOISE_P_VALUE, learn_template, transfer_of
from cryoloom.picking.learned.model import load_picker
from cryoloom.picking.matched import scales
from cryoloom.picking.prepare import CORE
from cryoloom.picking.reduce import flatten_background, reduce_micrograph
from cryoloom.picking.references import load_references, reference_diameter
from cryoloom.picking.scale import Scale, decide_scale
from cryoloom.picking.search import Candidates, search_micrograph, survey_scales
from cryoloom.picking.settings import PICK, PickSettings
from cryoloom.picking.template import RoundTemplate

N_FIGURES = 4
MOST_EXTENT = 3.0  # extent over the diameter of that ball


@stage(PICK)
def pick_particles(
    micrographs: MicrographSet, references: Any, model: Any, settings: PickSettings, run: Run
) -> dict[str, PickSet]:
    """Find particles on all micrographs; see `PickSettings`."""
    if references is not None and model is not None:
        raise InputError("--references and --model: two things to look for; give one of them.")
    reasons: list[str] = []
    rows = list(range(len(micrographs)))

    def name_of(row: int) -> str:
        return str(micrographs.path[row])

    def load(row: int) -> tuple[torch.Tensor, float]:
        image = torch.from_numpy(read_micrograph(micrographs.path[row])).to(run.device)
        return image, micrographs.optics[int(micrographs.optics_index[row])].pixel_size

    find: Finder | None = None
    extent, learned = settings.diameter, None
    if model is not None:
        learned = load_picker(model)
        extent, find = extent or learned.extent, learned.find
    if references is not None:
        images = load_references(
            references, pixel_size=settings.reference_pixel_size, contrast=settings.reference_contrast
        )
        extent = extent or reference_diameter(images)
        find = bank_finder(BankMaker(images, extent, np.deg2rad(settings.angle_step_deg)), CORE * extent)
    dark = settings.contrast != "bright"
    core = CORE * extent if extent is not None else None
    if learned is not None and extent is not None:
        core = learned.core * extent / learned.extent  # a network knows the shape, at any size
        dark = learned.dark if settings.contrast == "auto" else dark
    elif core is None or settings.contrast == "auto":
        scale = _survey(micrographs, load, name_of, core, settings, run)
        if settings.contrast == "auto":
            dark = scale.dark
        if core is None:
            core = scale.diameter
            if not scale.clear:
                reasons.append("no diameter stands out on these micrographs; give --diameter")
    if find is None:
        template = learn_template(micrographs, load, core, dark, settings, run)
        find = round_finder(template or RoundTemplate.ball(core))
        if extent is None:
            extent = min(max(template.extent, core), MOST_EXTENT * core) if template is not None else core / CORE
    assert extent is not None
    diameter = extent

    def search(row: int) -> dict[str, Any]:
        image, pixel_size = load(row)
        found = search_micrograph(
            image,
            pixel_size,
            transfer_of(micrographs, row),
            core,
            dark=dark,
            distance=settings.distance * diameter,
            margin=settings.margin * diameter,
            exclude=settings.exclude,
            find=find,
        )
        return found.as_json()

    stored = run.each(rows, search, key=name_of, label="Searching for particles")
    found = [Candidates.from_json(entry) if entry is not None else None for entry in stored]
    picks, calibration, n_junk = _decide(micrographs, found, diameter, settings)
    for row in rows:
        own = picks.select(picks.micrograph == micrographs.path[row])
        if found[row] is not None:
            write_coordinates(own, run.folder / "coordinates" / f"{_stem(name_of(row))}.star")
    _show(micrographs, found, picks, calibration, diameter, load, dark, run)
    n = len(picks)
    searched = sum(entry is not None for entry in found)
    if n == 0:
        reasons.append(
            "nothing on these micrographs stands out from their background (the peaks of the inverted micrographs are "
            f"as high: p = {calibration.p_value:.2g})"
        )
    verdict = "not found" if n == 0 else ("doubtful" if reasons else "found")
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        n_in=len(micrographs),
        n_out=n,
        diameter=round(float(diameter), 1),
        filter_diameter=round(float(core), 1),
        picks_per_micrograph=round(n / max(searched, 1), 1),
        threshold=calibration.threshold,
        p_value=calibration.p_value,
        false_fraction=round(calibration.false_fraction, 4),
        n_left_out_as_junk=n_junk,
        references=references is not None,
        model=model is not None,
        contrast_sign=-1 if dark else 1,
    )
    return {"picks": picks}


def _survey(
    micrographs: MicrographSet, load: Any, name_of: Any, diameter: float | None, settings: PickSettings, run: Run
) -> Scale:
    """Diameter and contrast that the micrographs agree on; a given diameter is only looked around."""
    finest = max(group.pixel_size for group in micrographs.optics)
    if diameter is None:
        diameters, most = scales(max(settings.diameter_min, 8 * finest), settings.diameter_max), 100
    else:
        diameters, most = [diameter / 1.25, diameter, 1.25 * diameter], 8
    n = len(micrographs)
    chosen = [int(row) for row in np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))]

    def survey(row: int) -> dict[str, Any]:
        image, pixel_size = load(row)
        bright, dark = survey_scales(
            image, pixel_size, transfer_of(micrographs, row), diameters, exclude=settings.exclude
        )
        return {"bright": np.round(bright, 2), "dark": np.round(dark, 2)}

    stored = run.each(chosen, survey, key=name_of, label="Finding the size")
    done = [entry for entry in stored if entry is not None]
    scale = decide_scale(diameters, *(np.asarray([entry[side] for entry in done]) for side in ("bright", "dark")))
    run.log(f"diameter {scale.diameter:.0f} Å, particles {'dark' if scale.dark else 'bright'}, clear: {scale.clear}")
    if diameter is None:
        run.summarise(diameter_evidence={"diameter": [round(d, 1) for d in diameters], "votes": scale.votes})
        run.show(
            Figure(
                name="diameter",
                kind="curves",
                title="Which diameter fits the particles",
                caption="Each particle votes for the diameter of the round filter that fits it best; what is inverted "
                "votes against. The diameter is the upper end of the main peak, since some views are narrow.",
                x_label="Diameter (Å)",
                y_label="Votes",
                data={"x": np.asarray(diameters), "y": {"all micrographs": scale.votes}},
            )
        )
    return scale


def _decide(
    micrographs: MicrographSet, found: list[Candidates | None], diameter: float, settings: PickSettings
) -> tuple[PickSet, Calibration, int]:
    """Candidates of all micrographs to picks, by one threshold."""
    kept = [(row, c) for row, c in enumerate(found) if c is not None]
    path = np.concatenate(
        [np.full(len(c.score), micrographs.path[row], dtype=object) for row, c in kept] or [np.zeros(0, dtype=object)]
    )
    position = np.concatenate([c.position_px for _, c in kept] or [np.zeros((0, 2))])
    score = np.concatenate([c.score for _, c in kept] or [np.zeros(0)])
    decoys = np.concatenate([c.decoys for _, c in kept] or [np.zeros(0)])
    density = np.concatenate([c.density for _, c in kept] or [np.zeros(0)])
    alone = ~np.concatenate([c.contested for _, c in kept] or [np.zeros(0, dtype=bool)])
    texture = np.concatenate([c.texture for _, c in kept] or [np.zeros(0)])
    rule = {"false_picks": settings.false_picks, "least_probability": settings.least_probability}
    first = calibrate(score[alone], decoys, threshold=settings.threshold, **rule)
    good = np.ones(len(score), dtype=bool)
    if settings.exclude:
        good = ~outliers(density, texture, score >= first.threshold)
    n_junk = int((~good & (score >= first.threshold)).sum())
    final = calibrate(score[good & alone], decoys, threshold=settings.threshold, **rule)
    chosen = np.flatnonzero(good & (score >= final.threshold))
    if final.p_value > NOISE_P_VALUE and settings.threshold is None:
        chosen = chosen[:0]  # noise would give as much
    labels: dict[str, Any] = {}
    for name in kept[0][1].labels if kept else ():
        labels[name] = np.concatenate([c.labels[name] for _, c in kept])[chosen]
    if "class_number" in labels:
        labels["class_number"] = labels["class_number"].astype(np.int64)
    picks = PickSet(
        position_px=position[chosen],
        micrograph=np.asarray(path[chosen], dtype=str),
        score=score[chosen],
        probability=final.probability(score[chosen]),
        diameter=float(diameter),
        micrographs=tuple(str(micrographs.path[row]) for row, _ in kept),
        **labels,
    )
    return picks, final, n_junk


def _show(
    micrographs: MicrographSet,
    found: list[Candidates | None],
    picks: PickSet,
    calibration: Calibration,
    diameter: float,
    load: Any,
    dark: bool,
    run: Run,
) -> None:
    """Picks on a few micrographs, and the histogram of scores with the threshold."""
    scores = np.concatenate([c.score for c in found if c is not None] or [np.zeros(0)])
    lines = {"threshold": calibration.threshold} if np.isfinite(calibration.threshold) else {}
    if len(scores):
        run.show(
            Figure(
                name="scores",
                kind="histogram",
                title="Scores of all candidates",
                caption="Candidates right of the threshold are picks. A good threshold lies in the valley between "
                "noise (left) and particles (right).",
                x_label="Score (standard deviations of the background)",
                y_label="Candidates",
                data={"values": scores, "lines": lines},
            )
        )
    usable = [row for row, c in enumerate(found) if c is not None]
    for number, i in enumerate(np.unique(np.linspace(0, len(usable) - 1, N_FIGURES).astype(int)) if usable else []):
        row = usable[i]
        image, pixel_size = load(row)
        h = image.shape[0]
        reduced = reduce_micrograph(image, pixel_size, max(pixel_size, h * pixel_size / 1024), dark=False)
        flat = flatten_background(reduced.image, 2 * diameter / reduced.mean_pixel_size)
        own = picks.select(picks.micrograph == micrographs.path[row])
        points = reduced.from_micrograph(torch.from_numpy(np.asarray(own.position_px, dtype=np.float64)))
        run.show(
            Figure(
                name=f"picks_{number + 1}",
                kind="image",
                title=f"{_stem(str(micrographs.path[row]))}: {len(own)} picks",
                caption="Circles have the diameter that was found or given; colour is the probability of each pick.",
                data={
                    "image": flat.cpu().numpy(),
                    "pixel_size": reduced.mean_pixel_size,
                    "points": points.cpu().numpy(),
                    "values": own.probability,
                    "radius": 0.5 * diameter / reduced.mean_pixel_size,
                },
            )
        )


def _stem(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
