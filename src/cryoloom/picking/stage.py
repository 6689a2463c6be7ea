"""Stage `pick`: micrographs in, positions of particles out."""

from typing import Any

from cryoloom.contract import Run, stage
from cryoloom.data import MicrographSet, PickSet
from cryoloom.data.names import stem_of
from cryoloom.io.records import write_coordinates
from cryoloom.picking.consensus.search import ConsensusSearch
from cryoloom.picking.decide import decide_by_agreement, decide_by_score
from cryoloom.picking.figures import show_picks
from cryoloom.picking.learn import transfer_of
from cryoloom.picking.looked_for import LookedFor, MicrographImages, balls, look_for
from cryoloom.picking.search import Candidates, search_micrograph
from cryoloom.picking.settings import PICK, PickSettings


@stage(PICK)
def pick_particles(
    micrographs: MicrographSet, references: Any, model: Any, settings: PickSettings, run: Run
) -> dict[str, PickSet]:
    """Find particles on all micrographs; see `PickSettings`."""
    load = MicrographImages(micrographs, run)
    consensus = settings.method == "consensus"
    what = look_for(micrographs, load, references, model, settings, run, profile=consensus)
    sample, reasons = what.sample, list(what.reasons)
    core, diameter, dark = sample.core, sample.extent, sample.dark
    if consensus:
        search = ConsensusSearch(micrographs, load, sample, settings, run)
        judged = search.judge([*what.finders, *balls(sample)], learn=what.learned is None)
        decision = decide_by_agreement(micrographs, judged, diameter, settings)
    else:
        found = _search(micrographs, load, what, settings, run)
        decision = decide_by_score(micrographs, found, diameter, settings)
    picks = decision.picks
    for row in decision.searched:
        own = picks.select(picks.micrograph == micrographs.path[row])
        write_coordinates(own, run.folder / "coordinates" / f"{stem_of(str(micrographs.path[row]))}.star")
    unit = "log odds" if consensus else "standard deviations of the background"
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
    micrographs: MicrographSet, load: MicrographImages, what: LookedFor, settings: PickSettings, run: Run
) -> list[Candidates | None]:
    """Candidates of one picker on each micrograph; None for those that failed."""
    sample = what.sample

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
            beside=0.5 if what.learned is None else 0.0,
            find=what.finders[0],
        )
        return found.as_json()

    rows = list(range(len(micrographs)))
    stored = run.each(rows, search, key=lambda row: str(micrographs.path[row]), label="Searching for particles")
    return [Candidates.from_json(entry) if entry is not None else None for entry in stored]
