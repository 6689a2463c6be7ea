"""All micrographs searched by several pickers, and by a network that learns from what they agree on.

The pickers judge first. If noise does not explain what they find, the candidates that are surely particles train a
network, which then is one more picker. Half of the micrographs train the network that searches the other half, so that
no network is asked about places it was shown; what noise makes is then no more alike in its eyes than any other noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cryoloom.contract import Run
from cryoloom.data import MicrographSet
from cryoloom.picking.calibrate import noise_p_value
from cryoloom.picking.consensus.fit import Agreement, agree
from cryoloom.picking.consensus.views import Views, views_of
from cryoloom.picking.finders import LOWEST, Finder
from cryoloom.picking.learn import NOISE_P_VALUE, transfer_of
from cryoloom.picking.learned.examples import Labelled, labelled_micrograph
from cryoloom.picking.learned.model import LearnedPicker, save_picker
from cryoloom.picking.learned.training import train_network
from cryoloom.picking.looked_for import Sample
from cryoloom.picking.prepare import Prepared, prepare_micrograph
from cryoloom.picking.settings import PickSettings

_MOST_LEARNT = 12  # micrographs of each half
_LEAST_LEARNT = 30  # particles that a network is trained with


@dataclass(frozen=True)
class Judged:
    """All candidates of all micrographs.

    Attributes
    ----------
    views
        Of all candidates, those of one micrograph after the other.
    row
        Micrograph of each, `(n,)`.
    agreement
        Scores and probabilities.
    p_value
        Probability that noise alone favours the candidates over the decoys as much.
    searched
        Rows of the micrographs that could be searched.
    """

    views: Views
    row: np.ndarray
    agreement: Agreement
    p_value: float
    searched: list[int]


@dataclass(frozen=True)
class Seen:
    """What some pickers see on all micrographs.

    Attributes
    ----------
    candidates, decoys
        Views of both, those of one micrograph after the other.
    row, decoy_row
        Micrograph of each, `(n,)` and `(m,)`.
    searched
        Rows of the micrographs that could be searched.
    """

    candidates: Views
    decoys: Views
    row: np.ndarray
    decoy_row: np.ndarray
    searched: list[int]


class ConsensusSearch:
    """Search of one set of micrographs.

    Parameters
    ----------
    micrographs
        All of them.
    load
        Gives the image and the pixel size of a row.
    sample
        What is looked for.
    settings, run
        Of the job.
    """

    def __init__(
        self,
        micrographs: MicrographSet,
        load: Callable[[int], tuple[Tensor, float]],
        sample: Sample,
        settings: PickSettings,
        run: Run,
    ) -> None:
        self._micrographs, self._load, self._sample = micrographs, load, sample
        self._settings, self._run = settings, run

    def judge(self, finders: Sequence[Finder], *, learn: bool) -> Judged:
        """Search with all pickers, and with a network that learns from them if `learn`."""
        first = self.look(lambda row: finders, "Looking with all pickers")
        unseen = self.learn(first) if learn else None
        if unseen is None:
            return first
        second = self.look(lambda row: [*finders, unseen(row)], "Looking with the network too", witness=-1)
        return Judged(second.views, second.row, second.agreement, first.p_value, second.searched)

    def learn(self, first: Judged) -> Callable[[int], Finder] | None:
        """For each micrograph a network that was trained on others; None where too little is sure to train one.

        `first` is what other pickers found.
        """
        if first.p_value > NOISE_P_VALUE:
            return None
        networks = [network for half in (0, 1) if (network := self._train(first, half)) is not None]
        if len(networks) < 2:
            self._run.log("too few sure particles to train networks with")
            return None
        for half, network in enumerate(networks):
            save_picker(network, self._run.folder / f"picker_{half + 1}.npz")
        return lambda row: networks[1 - row % 2].find

    def _prepare(self, row: int) -> Prepared:
        image, pixel_size = self._load(row)
        transfer = transfer_of(self._micrographs, row)
        sample = self._sample
        return prepare_micrograph(
            image, pixel_size, transfer, sample.core, dark=sample.dark, exclude=self._settings.exclude, beside=0.0
        )

    def look(self, finders_of: Callable[[int], Sequence[Finder]], label: str, *, witness: int = 0) -> Judged:
        """Search each micrograph with the pickers that `finders_of` gives for its row, and judge what they find.

        `witness` is the picker that errs least like the others.
        """
        return judge_seen(self.see(finders_of, label), witness=witness)

    def see(self, finders_of: Callable[[int], Sequence[Finder]], label: str) -> Seen:
        """Search each micrograph with the pickers that `finders_of` gives for its row."""

        def look(row: int) -> dict[str, Any]:
            candidates, decoys = views_of(
                self._prepare(row),
                finders_of(row),
                self._sample.core,
                distance=self._settings.distance * self._sample.extent,
                margin=self._settings.margin * self._sample.extent,
            )
            return {"candidates": candidates.as_json(), "decoys": decoys.as_json()}

        rows = list(range(len(self._micrographs)))
        stored = self._run.each(rows, look, key=lambda row: str(self._micrographs.path[row]), label=label)
        searched = [row for row, entry in zip(rows, stored, strict=True) if entry is not None]
        both = [
            [Views.from_json(entry[side]) for entry in stored if entry is not None] for side in ("candidates", "decoys")
        ]
        row_of, decoy_row = (
            np.concatenate([np.full(len(part), row) for row, part in zip(searched, parts, strict=True)]).astype(int)
            for parts in both
        )
        candidates, decoys = (Views.join(parts) for parts in both)
        return Seen(candidates, decoys, row_of, decoy_row, searched)

    def _train(self, judged: Judged, half: int) -> LearnedPicker | None:
        """A network from the sure particles of every second micrograph."""
        trusted = judged.agreement.trusted
        counts = {row: int((trusted & (judged.row == row)).sum()) for row in judged.searched if row % 2 == half}
        rows = sorted(sorted((row for row in counts if counts[row]), key=lambda row: -counts[row])[:_MOST_LEARNT])
        if sum(counts[row] for row in rows) < _LEAST_LEARNT:
            return None
        images: list[Labelled] = []
        pixel, expected = 0.0, 0.0
        for row in rows:
            own = judged.row == row
            prepared = self._prepare(row)
            place, probability = judged.views.position_px[own & trusted], judged.agreement.probability
            images.append(labelled_micrograph(prepared, place, probability[own & trusted]))
            pixel, expected = max(pixel, prepared.pixel_size), expected + float(probability[own].sum())
        steps = self._settings.steps
        with self._run.progress(steps, f"Training network {half + 1} of 2") as progress:
            trained = train_network(
                images,
                expected,
                self._sample.extent / pixel,
                steps=steps,
                seed=self._run.seed + half,
                device=self._run.device,
                advance=progress.advance,
            )
        sample = self._sample
        return LearnedPicker(trained.network, trained.background, sample.core, sample.extent, sample.dark)


def judge_seen(seen: Seen, *, witness: int = 0) -> Judged:
    """Judge what pickers see; `witness` is the picker that errs least like the others."""
    candidates, decoys = seen.candidates, seen.decoys
    free = ~candidates.masked & ~candidates.contested
    total, decoy_total = ((views.scores - LOWEST).sum(1) for views in (candidates, decoys))
    p_value = noise_p_value(np.sort(total[free]), np.sort(decoy_total))
    agreement = agree(candidates, decoys, seen.row, seen.decoy_row, witness=witness)
    return Judged(candidates, seen.row, agreement, p_value, seen.searched)


def keep(judged: Judged, settings: PickSettings) -> tuple[np.ndarray, float]:
    """Rows of the candidates that are kept, and the share of them that is expected to be false.

    The most probable ones are kept, as long as each is probable enough and the expected share of false ones among all
    of them is allowed; with a set threshold, those that score as much.
    """
    agreement = judged.agreement
    order = np.argsort(-agreement.probability, kind="stable")
    order = order[~judged.views.masked[order]]
    chance = agreement.probability[order]
    false = np.cumsum(1 - chance) / np.arange(1, len(order) + 1)
    if settings.threshold is not None:
        kept = agreement.score[order] >= settings.threshold
    elif judged.p_value > NOISE_P_VALUE:
        kept = np.zeros(len(order), dtype=bool)
    else:
        kept = (chance >= settings.least_probability) & (false <= settings.false_picks)
    share = float((1 - chance[kept]).mean()) if kept.any() else 1.0
    return np.sort(order[kept]), share
