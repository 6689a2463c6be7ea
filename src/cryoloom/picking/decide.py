"""Candidates of all micrographs become picks: by the threshold of one picker, or by the agreement of several."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cryoloom.data import MicrographSet, PickSet
from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.consensus.search import Judged, keep
from cryoloom.picking.junk import outliers
from cryoloom.picking.learn import NOISE_P_VALUE
from cryoloom.picking.search import Candidates
from cryoloom.picking.settings import PickSettings


@dataclass(frozen=True)
class Decision:
    """What is picked.

    Attributes
    ----------
    picks
        Of all micrographs.
    scores
        Of all candidates, `(n,)`.
    threshold
        Smallest score of a pick; infinity without picks.
    p_value
        Probability that noise alone gives as much.
    false_fraction
        Expected share of false picks.
    n_junk
        Candidates that stand out of the noise but are left out, since they look like junk.
    searched
        Rows of the micrographs that could be searched.
    """

    picks: PickSet
    scores: np.ndarray
    threshold: float
    p_value: float
    false_fraction: float
    n_junk: int
    searched: list[int]


def decide_by_score(
    micrographs: MicrographSet, found: list[Candidates | None], diameter: float, settings: PickSettings
) -> Decision:
    """Candidates of one picker to picks, by one threshold for all micrographs; `found` has None for failed ones."""
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
    searched = [row for row, _ in kept]
    return Decision(picks, score, final.threshold, final.p_value, final.false_fraction, n_junk, searched)


def decide_by_agreement(
    micrographs: MicrographSet, judged: Judged, diameter: float, settings: PickSettings
) -> Decision:
    """Candidates of several pickers to picks, by their probability."""
    chosen, false = keep(judged, settings)
    agreement = judged.agreement
    picks = PickSet(
        position_px=judged.views.position_px[chosen],
        micrograph=np.asarray([str(micrographs.path[row]) for row in judged.row[chosen]], dtype=str),
        score=agreement.score[chosen],
        probability=agreement.probability[chosen],
        diameter=float(diameter),
        micrographs=tuple(str(micrographs.path[row]) for row in judged.searched),
    )
    noise_free = agreement.probability / np.maximum(agreement.clean, 1e-9)
    n_junk = int(((noise_free >= settings.least_probability) & (agreement.clean < 0.5)).sum())
    threshold = float(picks.score.min()) if picks.score is not None and len(picks) else float("inf")
    return Decision(picks, agreement.score, threshold, judged.p_value, false, n_junk, judged.searched)
