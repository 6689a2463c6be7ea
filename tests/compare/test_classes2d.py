"""The comparison of two ways to sort images into views, and the plain one of the two."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.class2d.baseline import cluster_images, k_means, turned_similarity
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.state import Plan
from cryoloom.compare.classes2d import compare_classifications, matched_labels, two_classifications
from cryoloom.compute.executor import SerialExecutor
from cryoloom.em.images import ImageSource
from cryoloom.em.rings import plan_rings
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_particles
from cryoloom.project.runner import run_stage

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "class2d"))
from bed_images import BOX as SMALL_BOX
from bed_images import PIXEL_SIZE, Memory, particles
from classes_bed import BOX, classes_case
from judging import LEAST_CASES, JudgedCase, figures_of, judge_figures

from cryoloom.simulate.beds import BEDS

PIXEL = BEDS["c1"].pixel_size * BEDS["c1"].box / BOX
SEEDS = list(range(1000, 1000 + LEAST_CASES))
GROSS = 0.5  # an image is in the right class or in a wrong one


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sources(images, record, diameter, box, radii):
    source = ImageSource(Memory(images), record, diameter, cache_bytes=0)
    pixel_size = record.optics[0].pixel_size
    return [RingSource(source, plan_rings(box, radius, diameter / pixel_size)) for radius in radii]


def judged_case(seed: int) -> JudgedCase:
    """Whether each image is in a wrong class, by both methods and by both together."""
    from bed_views import specimen

    images, record, view = classes_case(seed)
    n_views, diameter = int(view.max()) + 1, specimen("c1").diameter
    source, coarse = sources(images, record, diameter, BOX, (18, round(BOX * PIXEL / 12) - 2))
    plan = Plan(
        n_classes=n_views, diameter_px=diameter / PIXEL, n_iterations=15, batch_size=10_000, shift_range_px=2.5,
        first_radius=6,
    )  # fmt: skip
    both = two_classifications(source, coarse, plan, SerialExecutor(), torch.Generator().manual_seed(seed))
    found = compare_classifications(np.arange(len(view)), both)
    labels = (*both.label, found.consensus.argmax(1))
    # classes have no names: those of each answer are matched to the views that they share most images with
    wrong = [(matched_labels(view, label, n_views) != view).astype(np.float64) for label in labels]
    return JudgedCase(*wrong, found.disagree)


@pytest.mark.slow
@pytest.mark.capability("C2D-7")
@pytest.mark.capability("CMP-4")
def test_views_by_both_methods_are_as_good_as_those_of_the_better_one(measure, evidence):
    """60 sets of 300 to 450 images of 4 to 6 views of bed `c1` (without junk, which has no view), at box 40."""
    i, n = evidence.shard
    done = {case["seed"] for case in evidence.cases()}
    for seed in SEEDS[i - 1 :: n]:
        if seed not in done:
            case = judged_case(seed)
            wrong = {name: int(getattr(case, name).sum()) for name in ("first", "second", "consensus")}
            evidence.append(seed=seed, outcome="measured", **figures_of(case, GROSS), **wrong)
    cases = evidence.cases()
    found = judge_figures(cases)
    items = sum(case["n_items"] for case in cases)
    first, second, both = (100 * sum(case[k] for case in cases) / items for k in ("first", "second", "consensus"))
    note = (
        f"mixture of averages, k-means on principal components of similarities; SNR 0.05, box 40 of 6 Å; wrong: "
        f"{first:.1f} %, {second:.1f} %, together {both:.1f} %; {found.said()}"
    )
    measure(round(100 * found.good, 1), "% of cases within 1.05 of the better method", ">= 90", note=note)
    assert found.passes, found


def test_similarity_does_not_change_when_an_image_is_turned():
    generator = torch.Generator().manual_seed(0)
    rings = torch.randn(5, 32, 6, generator=generator)
    turned = rings.roll(11, 1)
    first, second = (torch.fft.fft(part.to(torch.complex64), dim=1) for part in (rings, turned))
    expected = (rings * rings).sum((1, 2)) * 32  # Parseval over 32 angles
    torch.testing.assert_close(turned_similarity(first, second).diagonal(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(turned_similarity(first, first), turned_similarity(second, first), rtol=1e-4, atol=1e-2)


def test_k_means_finds_clouds_and_can_make_them_equal():
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1, 2], [60, 20, 10])
    features = np.array([[0, 0], [8, 0], [0, 8]])[label] + rng.standard_normal((90, 2))
    plain = k_means(features, 3, rng)
    assert (matched_labels(label, plain.cluster, 3) == label).mean() > 0.97
    assert plain.share.min() > 0 and plain.share.max() <= 1
    assert np.bincount(k_means(features, 3, rng, equal=True).cluster).tolist() == [30, 30, 30]


def test_labels_are_matched_by_what_they_share():
    first = np.array([0, 0, 1, 1, 2, 2])
    assert matched_labels(first, np.array([2, 2, 0, 0, 1, 1]), 3).tolist() == first.tolist()


def test_the_baseline_tells_views_apart():
    images, record, view, _, _ = particles(240, 3, snr=0.4, reach_px=0.5)
    (coarse,) = sources(images, record, 22.0 * PIXEL_SIZE, SMALL_BOX, (10,))
    found = cluster_images(coarse, 3, np.random.default_rng(0))
    assert (matched_labels(view, found.cluster, 3) == view).mean() > 0.9


def test_both_methods_sort_a_stack_and_write_what_they_say_together(tmp_path):
    images, record, view, _, _ = particles(200, 3, snr=0.5, reach_px=0.5)
    path = tmp_path / "stack.mrcs"
    write_mrc(path, images.astype(np.float32), PIXEL_SIZE)
    record = record.replace(image_path=np.full(len(view), str(path)))
    settings = {"classes": 3, "mask_diameter": 22.0 * PIXEL_SIZE, "iterations": 8, "operands": "float32"}
    done = run_stage("compare classes2d", {"particles": record}, settings, out=tmp_path / "compare", threads=1)
    found = read_particles(done["particles"])
    label = np.asarray(found.class_number) - 1
    assert (matched_labels(view, label, 3) == view).mean() > 0.9
    assert (done.folder / "comparison.json").exists()
    assert done.summary["n_disagree"] == int(found.extra["cryoloomMethodsDisagree"].sum())
