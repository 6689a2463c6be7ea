"""Stage `train-picker`: micrographs and a few labels in, a network out that finds such particles."""

from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, Run, stage
from cryoloom.data import MicrographSet, PickSet
from cryoloom.io.images import read_micrograph
from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.learn import transfer_of
from cryoloom.picking.learned.examples import APART, labelled_micrograph
from cryoloom.picking.learned.labels import Answers, answers_at_labels, labels_of, size_and_contrast
from cryoloom.picking.learned.model import LearnedPicker, save_picker
from cryoloom.picking.learned.training import Trained, train_network
from cryoloom.picking.matched import scales
from cryoloom.picking.prepare import CORE, Prepared, prepare_micrograph
from cryoloom.picking.search import Candidates, search_micrograph
from cryoloom.picking.settings import TRAIN_PICKER, TrainPickerSettings

FEW_LABELS = 15
_RULE = {"false_picks": 0.15, "least_probability": 0.3}
_MARGIN = 0.35  # extents, of candidates from the edge


@stage(TRAIN_PICKER)
def train_picker(
    micrographs: MicrographSet, labels: PickSet, settings: TrainPickerSettings, run: Run
) -> dict[str, PickSet]:
    """Train a network on labels; see `TrainPickerSettings`."""
    places = labels_of(micrographs, labels)
    chosen = sorted(sorted(places, key=lambda row: -len(places[row][0]))[: settings.most_micrographs])
    n_labels = sum(len(places[row][0]) for row in chosen)

    def name_of(row: int) -> str:
        return str(micrographs.path[row])

    def load(row: int) -> tuple[torch.Tensor, float]:
        image = torch.from_numpy(read_micrograph(micrographs.path[row])).to(run.device)
        return image, micrographs.optics[int(micrographs.optics_index[row])].pixel_size

    extent = settings.diameter or labels.diameter
    finest = max(group.pixel_size for group in micrographs.optics)
    diameters = (
        scales(max(settings.diameter_min, 8 * finest), settings.diameter_max) if extent is None else [CORE * extent]
    )

    def look(row: int) -> dict[str, Any]:
        answers = answers_at_labels(*load(row), transfer_of(micrographs, row), *places[row], diameters)
        return {"total": answers.total, "n": answers.n}

    seen = [entry for entry in run.each(chosen, look, key=name_of, label="Looking at the labels") if entry is not None]
    core, dark = size_and_contrast([Answers(np.asarray(e["total"]), e["n"]) for e in seen], diameters)
    extent = extent or core / CORE

    def prepare(row: int) -> Prepared:
        return prepare_micrograph(
            *load(row), transfer_of(micrographs, row), core, dark=dark, exclude=settings.exclude, beside=0.0
        )

    def search(row: int, find: Any = None) -> dict[str, Any]:
        image, pixel_size = load(row)
        return search_micrograph(
            image, pixel_size, transfer_of(micrographs, row), core, dark=dark, distance=APART * extent,
            margin=_MARGIN * extent, exclude=settings.exclude, find=find, beside=0.5 if find is None else 0.0,
        ).as_json()  # fmt: skip

    if settings.particles is not None:
        expected = settings.particles * len(chosen)
    else:
        expected = _expected(run.each(chosen, search, key=name_of, label="Counting particles"))
    expected = max(expected, float(n_labels))
    images, pixel = [], 0.0
    for row in chosen:
        prepared = prepare(row)
        images.append(labelled_micrograph(prepared, *places[row]))
        pixel = max(pixel, prepared.pixel_size)
    with run.progress(settings.steps, "Training") as progress:
        trained = train_network(
            images, expected, extent / pixel,
            steps=settings.steps, seed=run.seed, device=run.device, advance=progress.advance,
        )  # fmt: skip
    picker = LearnedPicker(trained.network, trained.background, core, extent, dark)
    save_picker(picker, run.folder / "picker.npz")

    def check(row: int) -> dict[str, Any]:
        return search(row, picker.find)

    found = run.each(chosen, check, key=name_of, label="Looking what the network finds")
    _summarise(found, trained, n_labels, expected, picker, run)
    return {}


def _expected(stored: list[dict[str, Any] | None]) -> float:
    """Number of particles on the micrographs, as a ball and its decoys tell."""
    found = [Candidates.from_json(entry) for entry in stored if entry is not None]
    if not found:
        return 0.0
    score = np.concatenate([c.score[~c.contested] for c in found])
    return calibrate(score, np.concatenate([c.decoys for c in found]), **_RULE).n_true


def _summarise(
    stored: list[dict[str, Any] | None],
    trained: Trained,
    n_labels: int,
    expected: float,
    picker: LearnedPicker,
    run: Run,
) -> None:
    found = [Candidates.from_json(entry) for entry in stored if entry is not None]
    score = np.concatenate([c.score[~c.contested] for c in found] or [np.zeros(0)])
    calibration = calibrate(score, np.concatenate([c.decoys for c in found] or [np.zeros(0)]), **_RULE)
    n_found = int((score >= calibration.threshold).sum())
    reasons = []
    if n_labels < FEW_LABELS:
        reasons.append(f"only {n_labels} labels; about 20 are needed")
    if n_found == 0:
        reasons.append("the network finds nothing on its own micrographs that noise would not give as well")
    run.summarise(
        verdict="not found" if n_found == 0 else ("doubtful" if reasons else "found"),
        reasons=reasons,
        n_in=n_labels,
        n_out=n_found,
        micrographs=len(found),
        expected_particles=round(expected, 1),
        diameter=round(picker.extent, 1),
        filter_diameter=round(picker.core, 1),
        contrast_sign=-1 if picker.dark else 1,
        false_fraction=round(calibration.false_fraction, 4),
    )
    run.show(
        Figure(
            name="training",
            kind="curves",
            title="Loss during the training",
            caption="It falls and levels off. If it still falls at the end, more steps may help.",
            x_label="Step",
            y_label="Loss",
            data={"x": np.arange(1, len(trained.losses) + 1), "y": {"loss": trained.losses}},
        )
    )
