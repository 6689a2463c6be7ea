"""`compare picking`: templates (or the mean profile) against a network, place by place.

The methods are those of the stage `pick`. The first looks for the given references, or else for the mean profile of the
first picks; the second is a network. The network learns from what the first and some balls find, and always on other
micrographs than it judges: half of them train the network for the other half. Items are all places at which one of them
sees something, and the answer of a method is the probability that noise does not explain what it sees there, counted
against the decoys that the same method finds on the inverted micrographs.

The consensus multiplies the odds of both, as if they erred apart (logarithmic pool; Genest and Zidek 1986,
doi:10.1214/ss/1177013825), so two that believe a little believe more together, and the surer one counts more. A place
is in dispute where the two, or one of them and the verdict of `consensus.fit`, which hears the looks of the place too,
are far apart: junk may deceive both methods.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoloom.compare.agreement import Answers, Comparison, compare_answers
from cryoloom.compare.settings import COMPARE_PICKING, ComparePickingSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Run, WorkFailed, stage
from cryoloom.data import MicrographSet, PickSet
from cryoloom.data.names import stem_of
from cryoloom.picking.consensus.search import ConsensusSearch, Judged
from cryoloom.picking.finders import Finder
from cryoloom.picking.looked_for import LookedFor, MicrographImages, balls, look_for
from cryoloom.picking.settings import PickSettings

SUREST = 0.02
"""A probability that is counted against decoys is never nearer to 0 or 1 than this."""


@dataclass(frozen=True)
class TwoPickers:
    """What both methods say of all places.

    Attributes
    ----------
    row
        Micrograph of each place, `(n,)`.
    position_px
        Pixels yx, `(n, 2)`.
    alone
        Probability by each method that noise does not explain the place, `(n, 2)`.
    together
        Probability that it is a particle, by both and its looks, `(n,)`.
    """

    row: np.ndarray
    position_px: np.ndarray
    alone: np.ndarray
    together: np.ndarray

    @classmethod
    def of(cls, judged: Judged) -> "TwoPickers":
        """From the search by both; what is masked is no place."""
        open_ = ~judged.views.masked
        agreement = judged.agreement
        return cls(
            judged.row[open_], judged.views.position_px[open_], agreement.alone[open_], agreement.probability[open_]
        )


def two_pickers(
    micrographs: MicrographSet, load: MicrographImages, what: LookedFor, settings: PickSettings, run: Run
) -> TwoPickers | None:
    """Search all micrographs by both methods; None where too little stands out to train a network."""
    search = ConsensusSearch(micrographs, load, what.sample, settings, run)
    first = search.look(lambda row: [*what.finders, *balls(what.sample)], "Looking without a network")
    unseen = search.learn(first)
    if unseen is None:
        return None

    def both(row: int) -> Sequence[Finder]:
        return [what.finders[0], unseen(row)]

    return TwoPickers.of(search.look(both, "Looking by both methods", witness=-1))


def compare_pickers(items: np.ndarray, found: TwoPickers, methods: tuple[str, str], tolerance: float) -> Comparison:
    """Hold both answers of all places together; the tolerance is one of probabilities."""
    alone = np.clip(found.alone, SUREST, 1 - SUREST)
    answers = [Answers(name, alone[:, i], np.sqrt(alone[:, i] * (1 - alone[:, i]))) for i, name in enumerate(methods)]
    sides = np.column_stack([alone, found.together])
    both = compare_answers(
        "probability of a particle", "", items, *answers, tolerance=tolerance, distance=np.ptp(sides, axis=1)
    )
    yes, no = alone.prod(1), (1 - alone).prod(1)
    return dataclasses.replace(both, consensus=yes / (yes + no))


@stage(COMPARE_PICKING)
def compare_picking(
    micrographs: MicrographSet, references: Any, settings: ComparePickingSettings, run: Run
) -> dict[str, Any]:
    """Look for particles by both methods, and say what both agree on."""
    load = MicrographImages(micrographs, run)
    pick = PickSettings(
        method="consensus",
        diameter=settings.diameter,
        diameter_min=settings.diameter_min,
        diameter_max=settings.diameter_max,
        steps=settings.steps,
        exclude=settings.exclude,
    )
    what = look_for(micrographs, load, references, None, pick, run, profile=True)
    found = two_pickers(micrographs, load, what, pick, run)
    if found is None:
        raise WorkFailed(
            "Too little stands out on these micrographs to train a network with; give more micrographs, or --diameter."
        )
    first = "templates" if references is not None else "mean profile"
    name = np.asarray([str(micrographs.path[row]) for row in found.row])
    items = np.asarray(
        [f"{stem_of(path)} y {y:.0f} x {x:.0f}" for path, (y, x) in zip(name, found.position_px, strict=True)]
    )
    comparison = compare_pickers(items, found, (first, "network"), settings.tolerance)
    show_comparison(comparison, run, diameter=round(what.sample.extent, 1))
    likely = comparison.consensus >= settings.least_probability
    picks = PickSet(
        position_px=found.position_px[likely],
        micrograph=name[likely],
        score=comparison.consensus[likely],
        probability=comparison.consensus[likely],
        class_number=comparison.disagree[likely].astype(np.int64) + 1,
        diameter=what.sample.extent,
        micrographs=tuple(str(path) for path in micrographs.path),
    )
    return {"picks": picks}
