"""Stage `pick`: micrographs in, positions of particles out."""

from typing import Any

import numpy as np
import torch

from cryoloom.contract import InputError, Run, stage
from cryoloom.data import MicrographSet, PickSet
from cryoloom.io.images import read_micrograph
from cryoloom.io.records import write_coordinates
from cryoloom.picking.bank import BankMaker
from cryoloom.picking.consensus.search import ConsensusSearch, Sample
from cryoloom.picking.decide import decide_by_agreement, decide_by_score
from cryoloom.picking.figures import show_picks, stem_of
from cryoloom.picking.finders import Finder, bank_finder, round_finder
from cryoloom.picking.learn import learn_template, transfer_of
from cryoloom.picking.learned.model import LearnedPicker, load_picker
from cryoloom.picking.prepare import CORE
from cryoloom.picking.references import load_references, reference_diameter
from cryoloom.picking.search import Candidates, search_micrograph
from cryoloom.picking.settings import PICK, PickSettings
from cryoloom.picking.survey import survey_micrographs
from cryoloom.picking.template import RoundTemplate

BALLS = (0.6, 1.0, 1.25)  # diameters of the balls that the consensus looks for, over that of the best one
MOST_EXTENT = 3.0  # extent over the diameter of that ball


@stage(PICK)
def pick_particles(
    micrographs: MicrographSet, references: Any, model: Any, settings: PickSettings, run: Run
) -> dict[str, PickSet]:
    """Find particles on all micrographs; see `PickSettings`."""
    if references is not None and model is not None:
        raise InputError("--references and --model: two things to look for; give one of them.")
    reasons: list[str] = []

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
        scale = survey_micrographs(micrographs, load, name_of, core, settings, run)
        if settings.contrast == "auto":
            dark = scale.dark
        if core is None:
            core = scale.diameter
            if not scale.clear:
                reasons.append("no diameter stands out on these micrographs; give --diameter")
    finders: list[Finder] = [] if find is None else [find]
    if find is None or settings.method == "consensus":
        template = learn_template(micrographs, load, core, dark, settings, run)
        finders += [round_finder(template or RoundTemplate.ball(core))]
        if extent is None:
            extent = min(max(template.extent, core), MOST_EXTENT * core) if template is not None else core / CORE
    assert extent is not None
    diameter = extent
    if settings.method == "consensus":
        finders += [round_finder(RoundTemplate.ball(size * core)) for size in BALLS]
        search = ConsensusSearch(micrographs, load, Sample(core, diameter, dark), settings, run)
        decision = decide_by_agreement(micrographs, search.judge(finders, learn=learned is None), diameter, settings)
    else:
        found = _search(micrographs, load, name_of, Sample(core, diameter, dark), finders[0], learned, settings, run)
        decision = decide_by_score(micrographs, found, diameter, settings)
    picks = decision.picks
    for row in decision.searched:
        own = picks.select(picks.micrograph == micrographs.path[row])
        write_coordinates(own, run.folder / "coordinates" / f"{stem_of(name_of(row))}.star")
    unit = "log odds" if settings.method == "consensus" else "standard deviations of the background"
    show_picks(micrographs, decision, diameter, unit, load, run)
    n = len(picks)
    if n == 0:
        reasons.append(
            "nothing on these micrographs stands out from their background (the peaks of the inverted micrographs are "
            f"as high: p = {decision.p_value:.2g})"
        )
    verdict = "not found" if n == 0 else ("doubtful" if reasons else "found")
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        n_in=len(micrographs),
        n_out=n,
        diameter=round(float(diameter), 1),
        filter_diameter=round(float(core), 1),
        picks_per_micrograph=round(n / max(len(decision.searched), 1), 1),
        threshold=decision.threshold,
        p_value=decision.p_value,
        false_fraction=round(decision.false_fraction, 4),
        n_left_out_as_junk=decision.n_junk,
        references=references is not None,
        model=model is not None,
        contrast_sign=-1 if dark else 1,
    )
    return {"picks": picks}


def _search(
    micrographs: MicrographSet,
    load: Any,
    name_of: Any,
    sample: Sample,
    find: Finder,
    learned: LearnedPicker | None,
    settings: PickSettings,
    run: Run,
) -> list[Candidates | None]:
    """Candidates of one picker on each micrograph; None for those that failed."""

    def search(row: int) -> dict[str, Any]:
        image, pixel_size = load(row)
        found = search_micrograph(
            image,
            pixel_size,
            transfer_of(micrographs, row),
            sample.core,
            dark=sample.dark,
            distance=settings.distance * sample.extent,
            margin=settings.margin * sample.extent,
            exclude=settings.exclude,
            beside=0.5 if learned is None else 0.0,
            find=find,
        )
        return found.as_json()

    stored = run.each(list(range(len(micrographs))), search, key=name_of, label="Searching for particles")
    return [Candidates.from_json(entry) if entry is not None else None for entry in stored]
