"""`compare picking`: templates (or the mean profile) against a network, place by place.

The methods are those of the stage `pick`. The first looks for the given references, or else for the mean profile of the
first picks; the second is a network. The network learns from what the first and some balls find, and always on other
micrographs than it judges: half of them train the network for the other half. Items are all places at which one of them
sees something, and the answer of a method is the probability that noise does not explain what it sees there, counted
against the decoys that the same method finds on the inverted micrographs.

The consensus pools the odds of both (`consensus.pool`): two that believe a little believe more together, and each
counts as much as it separates places from decoys on these very micrographs. A place is in dispute where the two, or
one of them and the verdict of `consensus.fit`, which hears the looks of the place too, are far apart: junk may deceive
both methods. Where too little is sure to train a network, the first method answers alone, and every place is in
dispute.
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
from cryoloom.picking.consensus.pool import SUREST, pool
from cryoloom.picking.consensus.search import ConsensusSearch, judge_seen
from cryoloom.picking.finders import LOWEST, Finder
from cryoloom.picking.looked_for import LookedFor, MicrographImages, balls, look_for
from cryoloom.picking.settings import PickSettings


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
        Probability by each method that noise does not explain the place, `(n, 2)`; NaN where there is no network.
    pooled
        The same by both methods together, `(n,)`.
    together
        Probability that it is a particle, by both and its looks, `(n,)`.
    """

    row: np.ndarray
    position_px: np.ndarray
    alone: np.ndarray
    pooled: np.ndarray
    together: np.ndarray

    @property
    def trained(self) -> bool:
        """Whether there is a network."""
        return bool(np.isfinite(self.alone[:, 1]).any())

    def select(self, rows: np.ndarray) -> "TwoPickers":
        """Some of the places."""
        return TwoPickers(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def two_pickers(
    micrographs: MicrographSet, load: MicrographImages, what: LookedFor, settings: PickSettings, run: Run
) -> TwoPickers:
    """Search all micrographs by both methods, or by the first alone where too little is sure to train a network.

    What is masked is no place.
    """
    search = ConsensusSearch(micrographs, load, what.sample, settings, run)
    first = search.look(lambda row: [*what.finders, *balls(what.sample)], "Looking without a network")
    unseen = search.learn(first)
    if unseen is None:
        word = first.agreement.alone[:, 0]
        missing = np.column_stack([word, np.full(len(word), np.nan)])
        found = TwoPickers(first.row, first.views.position_px, missing, word, first.agreement.probability)
        return found.select(~first.views.masked & (first.views.scores[:, 0] > LOWEST))

    def both(row: int) -> Sequence[Finder]:
        return [what.finders[0], unseen(row)]

    seen = search.see(both, "Looking by both methods")
    judged = judge_seen(seen, witness=-1)
    pooled = pool(seen.candidates, seen.decoys, seen.row, seen.decoy_row)
    agreement, place = judged.agreement, judged.views.position_px
    return TwoPickers(judged.row, place, agreement.alone, pooled, agreement.probability).select(~judged.views.masked)


def compare_pickers(items: np.ndarray, found: TwoPickers, methods: tuple[str, str], tolerance: float) -> Comparison:
    """Hold both answers of all places together; the tolerance is one of probabilities."""
    alone = np.clip(found.alone, SUREST, 1 - SUREST)
    answers = [Answers(name, alone[:, i], np.sqrt(alone[:, i] * (1 - alone[:, i]))) for i, name in enumerate(methods)]
    sides = np.column_stack([alone, found.together])
    both = compare_answers(
        "probability of a particle", "", items, *answers, tolerance=tolerance, distance=np.ptp(sides, axis=1)
    )
    # the answer of the first where there is no network, as it gives it
    return dataclasses.replace(both, consensus=found.pooled if found.trained else both.consensus)


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
    if not len(found.row):
        raise WorkFailed("Nothing stands out on these micrographs; give more micrographs, or --diameter.")
    first = "templates" if references is not None else "mean profile"
    if not found.trained:
        run.warn(
            f"Too little is sure on these micrographs to train a network with: the {first} answer alone, and all "
            "places are in dispute; give more micrographs, or --diameter."
        )
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
