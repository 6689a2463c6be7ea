"""`compare classes2d`: views by a mixture of averages against views by a plain clustering of similarities.

The first method (`class2d.classify`) refines averages by expectation maximisation over classes, angles and shifts, with
the CTF; the second (`class2d.baseline`) never makes an average. Classes of the second take the numbers of those
classes of the first with which they share most images. What is compared is the class of each image, as one number per
class, 1 for the class it is in.

Where the methods disagree, the images decide. Each cluster of the second method is averaged by itself, and an image
gets its likelihood in the averages of both classes, each made of the half of the images in which it is not. Two views
that a method took for one, or one that it took for two, dispute many images in the same way. These are decided
together, for what they say together is clear, and the answers stay those of one partition. A class that takes in the
images of a cluster takes on its average as well: what that costs the images which the class held before is part of the
decision, so that a cluster of one view never joins the class of another.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from cryoloom.class2d.baseline import cluster_images
from cryoloom.class2d.classify import classify
from cryoloom.class2d.extent import estimate_diameter
from cryoloom.class2d.iteration import begin
from cryoloom.class2d.references import build_references
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.settings import Class2DSettings
from cryoloom.class2d.stage import make_plan
from cryoloom.class2d.state import Plan, State
from cryoloom.class2d.sums import ClassSums, empty_class_sums
from cryoloom.compare.agreement import Answers, Comparison, compare_answers
from cryoloom.compare.settings import COMPARE_CLASSES2D, CompareClasses2DSettings
from cryoloom.compare.show import show_comparison
from cryoloom.contract import Executor, InputError, Run, stage
from cryoloom.data import ParticleSet
from cryoloom.em.groups import noise_groups
from cryoloom.em.images import ImageReader, ImageSource
from cryoloom.em.rings import image_batch, plan_rings, reference_bank, search_rings
from cryoloom.io.particles import ParticleImages

CORRELATION = 0.3
"""Of the errors of the two methods, which see the same noise."""
MARGIN = 12.0
"""Nats per image by which the second method has to be better.

Averages of one view from other images differ too: on simulated sets they gain up to 8, images of a view that the first
method had taken for another one from 16 on.
"""
ITERATIONS = 8
"""Of the averages of single clusters."""
FEWEST = 8
"""Images that make an average of a cluster."""
LEAST = 20
"""Fewest images."""


@dataclass(frozen=True)
class TwoClassifications:
    """What both methods say of each image.

    Attributes
    ----------
    label
        Class from 0, numbered as the first method does, `(2, n)` int64.
    share
        Probability of it as the method states it, `(2, n)`.
    support
        0 for the first method; for the second the log-likelihood that the images that are disputed in the same way gain
        on average in its averages, less `MARGIN`, `(2, n)`.
    psi, shift_px
        Pose of the image in each of both classes, as in `class2d.state`, `(2, n)` and `(2, n, 2)`.
    n_classes
        Classes.
    """

    label: np.ndarray
    share: np.ndarray
    support: np.ndarray
    psi: np.ndarray
    shift_px: np.ndarray
    n_classes: int


def two_classifications(
    source: RingSource,
    coarse: RingSource,
    plan: Plan,
    executor: Executor,
    generator: torch.Generator,
    *,
    equal: bool = False,
) -> TwoClassifications:
    """Classes of all images by both methods.

    Parameters
    ----------
    source, coarse
        Images on all rings for the mixture, and on those of low resolution for the clustering.
    plan
        Of the mixture; the clustering looks for as many clusters.
    equal
        Clusters of equal size.
    """
    state = classify(source, plan, executor, generator)
    seed = int(torch.randint(1 << 62, (1,), generator=generator))
    clusters = cluster_images(coarse, plan.n_classes, np.random.default_rng(seed), equal=equal)
    first = state.class_index
    label = np.stack([first, matched_labels(first, clusters.cluster, plan.n_classes)])
    support, psi, shift = np.zeros(label.shape), np.stack([state.psi] * 2), np.stack([state.shift_px] * 2)
    disputed = np.flatnonzero(label[0] != label[1])
    if len(disputed):
        others = _averages_of(source, plan, state, clusters.cluster, executor, generator)
        gain, psi[1], shift[1] = _gains(source, plan, state, others, first, clusters.cluster)
        support[1, disputed] = _support(gain, label, clusters.cluster, plan.n_classes)[disputed] - MARGIN
    return TwoClassifications(label, np.stack([state.posterior, clusters.share]), support, psi, shift, plan.n_classes)


def matched_labels(first: np.ndarray, second: np.ndarray, n_classes: int) -> np.ndarray:
    """Labels `second` renumbered so that as many as possible equal `first`, `(n,)` each."""
    together = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(together, (second, first), 1)
    rows, columns = linear_sum_assignment(-together)
    number = np.empty(n_classes, np.int64)
    number[rows] = columns
    return number[second]


def compare_classifications(items: np.ndarray, both: TwoClassifications) -> Comparison:
    """Hold both answers together; distances are those of membership, and any other class is disagreement."""
    n_classes = both.n_classes
    one = np.eye(n_classes)
    # of the squared differences to the truth two are 1 if the class is wrong
    error = np.sqrt(2 * (1 - np.clip(both.share, 0.0, 1.0)) / n_classes)
    answers = [
        Answers(method, one[both.label[i]], error[i], both.support[i])
        for i, method in enumerate(("mixture of averages", "clustering of similarities"))
    ]
    apart = float(np.sqrt(2 / n_classes))
    return compare_answers("class", "membership", items, *answers, tolerance=0.5 * apart, correlation=CORRELATION)


def _averages_of(
    source: RingSource, plan: Plan, state: State, cluster: np.ndarray, executor: Executor, generator: torch.Generator
) -> ClassSums:
    """Sums of each cluster of the second method, aligned by itself, in the halves of the first method."""
    sums = empty_class_sums(source.plan, plan.n_classes)
    for number in range(plan.n_classes):
        rows = np.flatnonzero(cluster == number)
        if len(rows) < FEWEST:
            continue
        part = _subset(source, rows)
        alone = replace(plan, n_classes=1, n_iterations=min(plan.n_iterations, ITERATIONS))
        start = begin(part, alone, executor, generator)
        start.half, start.random = state.half[rows], generator.get_state().numpy()
        own = classify(part, alone, executor, generator, state=start).sums
        sums.numerator[:, number] = own.numerator[:, 0]
        sums.weight[:, number] = own.weight[:, 0]
        sums.count[:, number] = own.count[:, 0]
    return sums


def _support(gain: np.ndarray, label: np.ndarray, cluster: np.ndarray, n_classes: int) -> np.ndarray:
    """What images that both methods classify alike gain on average in the second's average, `(n,)`.

    From it goes what the images that the first method has in the same class lose with their average, unless another
    class of the first method holds them as well.
    """
    at = np.arange(len(cluster))
    way = label[0] * n_classes + label[1]
    number = np.bincount(way, minlength=n_classes**2)
    total = np.bincount(way, gain[at, n_classes + cluster], minlength=n_classes**2)
    of_cluster = np.zeros(n_classes, np.int64)
    of_cluster[label[1]] = cluster  # the cluster that has the number of a class
    others = gain[:, :n_classes].copy()
    others[at, label[0]] = -np.inf
    left = np.maximum(others.max(1), gain[at, n_classes + of_cluster[label[0]]])
    lost = np.bincount(label[0], np.minimum(left, 0.0), minlength=n_classes)
    return ((total + np.tile(lost, n_classes)) / np.maximum(number, 1))[way]


def _gains(
    source: RingSource, plan: Plan, state: State, others: ClassSums, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-likelihood of each image in every average less that in its class of the first method.

    Returns
    -------
    gain
        `(n, 2 classes)`: averages of the first method, then those of the clusters; -inf where there is no average.
    psi, shift_px
        Pose in the average of its cluster, `(n,)` and `(n, 2)`; that of the first method where there is none.
    """
    n_classes = plan.n_classes
    pairs = [(getattr(state.sums, name), getattr(others, name)) for name in ("numerator", "weight", "count")]
    joined = replace(state, sums=ClassSums(*(torch.cat(pair, dim=1) for pair in pairs)))
    references = build_references(source, replace(plan, n_classes=2 * n_classes), joined)
    search, present = references.plan.search, references.index.numpy()
    gain = np.full((len(first), 2 * n_classes), -np.inf)
    psi, shift_px = state.psi.copy(), state.shift_px.copy()
    for side in range(2):
        bank = reference_bank(search, references.samples[side], dtype=plan.dtype)
        for part in source.batches(np.flatnonzero(state.half == side)):
            chunk, n = source.chunk(part), search.n_rings
            inverse_noise = (1.0 / state.noise[chunk.group]).to(torch.float32)[:, :n]
            batch = image_batch(search, chunk.samples[:, :n], chunk.ctf[:, :n], inverse_noise)
            found = search_rings(batch, bank, search, references.wide, top=len(bank), fit_scale=False)
            reference = present[found.reference.numpy()]
            score = np.full((len(part), 2 * n_classes), -np.inf)
            np.put_along_axis(score, reference, found.score.numpy(), axis=1)
            own = score[np.arange(len(part)), first[part]]
            gain[part] = score - own[:, None]
            which = reference == (n_classes + second[part])[:, None]
            row, entry = np.nonzero(which)
            psi[part[row]] = found.psi.numpy()[row, entry]
            shift_px[part[row]] = found.shift_px.numpy()[row, entry]
    return gain, psi, shift_px


def _subset(source: RingSource, rows: np.ndarray) -> RingSource:
    """Some images of a source as a source of their own."""
    images = source.images
    some = ImageSource(
        _Rows(images.reader, rows), images.particles.select(rows), images.mask_diameter,
        noise_group=images.noise_group[rows], cache_bytes=0,
    )  # fmt: skip
    return RingSource(some, source.plan, use_ctf=source.use_ctf)


@dataclass(frozen=True)
class _Rows:
    """A reader of some rows of another one."""

    reader: ImageReader
    rows: np.ndarray

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images of rows of the subset, `(n, h, w)`."""
        return self.reader.read(self.rows[rows])


@stage(COMPARE_CLASSES2D)
def compare_classes2d(particles: ParticleSet, settings: CompareClasses2DSettings, run: Run) -> dict[str, ParticleSet]:
    """Classify by both methods, and say of each image what both agree on."""
    if len(particles) < LEAST:
        raise InputError(f"The set holds {len(particles)} particles; a comparison of classes needs at least {LEAST}.")
    reader = ParticleImages(particles)
    box, pixel_size = reader.shape[1], float(particles.optics[0].pixel_size)
    diameter = settings.mask_diameter or estimate_diameter(reader, len(particles), pixel_size)
    diameter = min(diameter, 0.95 * box * pixel_size)
    asked = Class2DSettings(**{name: getattr(settings, name) for name in Class2DSettings.model_fields})
    plan = make_plan(asked, len(particles), diameter, box, pixel_size)
    images = ImageSource(
        reader, particles, diameter, noise_group=noise_groups(particles, settings.noise), cache_bytes=0
    )
    field = box * pixel_size
    room = min(1 << 30, run.memory_budget // 4)
    source, coarse = (
        RingSource(
            images,
            plan_rings(box, max(min(box // 2 - 1, int(field / finest)), plan.first_radius), plan.diameter_px),
            use_ctf=settings.ctf,
            cache_bytes=room,
        )
        for finest in (settings.resolution_limit, settings.cluster_resolution)
    )
    with run.progress(1, "2D classes by two methods") as progress:
        both = two_classifications(
            source, coarse, plan, run.executor, run.generator("classes2d"), equal=settings.equal_size
        )
        progress.advance()
    names = np.asarray(
        [f"{index + 1}@{path}" for path, index in zip(particles.image_path, particles.image_index, strict=True)]
    )
    comparison = compare_classifications(names, both)
    show_comparison(comparison, run, classes=plan.n_classes, mask_diameter=round(diameter, 1))
    label = comparison.consensus.argmax(1)
    taken = np.where(label == both.label[0], 0, 1)
    at = np.arange(len(label))
    return {
        "particles": particles.replace(
            class_number=label + 1,
            psi=-both.psi[taken, at],
            shift=both.shift_px[taken, at] * pixel_size,
            extra=dict(particles.extra) | {"cryoloomMethodsDisagree": comparison.disagree.astype(np.float64)},
        )
    }
