"""Rows of the capability table that belong to refinement."""

import importlib.util
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hinge_bed import make_hinge_bed
from micelle_bed import make_micelle_bed

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.data import VolumeMap
from cryoloom.em import ImageSource, NoiseModel, PosePriors, refine_poses, single_candidates
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import pose_distance
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.particles import ParticleImages
from cryoloom.io.records import read_particles
from cryoloom.maps.filter import lowpass
from cryoloom.maps.fsc import fourier_shell_correlation, resolution_at
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.maps.superpose import superpose
from cryoloom.project.runner import run_stage
from cryoloom.scoring.maps import resample_like, score_map, true_resolution
from cryoloom.scoring.poses import score_rotations
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map


def _benchmark(name="against_oracle"):
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "refine"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.capability("REF-1")
def test_refinement_ends_within_three_per_cent_of_the_oracle_on_the_named_beds(shared_data, tmp_path, measure):
    benchmark = _benchmark()
    folder = Path(os.environ.get("CRYOLOOM_BEDS", tmp_path))
    worst, notes = -np.inf, []
    for bed in ("c1", "d2", "d7", "o"):
        found = benchmark.measure(benchmark.prepare(bed, folder, {}))
        worst = max(worst, found["over_oracle_percent"])
        notes.append(f"{bed} {found['true_resolution']:.2f}/{found['oracle']:.2f} Å, {found['cpu_seconds']:.0f} CPU s")
    measure(round(worst, 2), unit="% above oracle", threshold="<= 3", note="; ".join(notes))
    assert worst <= 3.0


@pytest.mark.slow
@pytest.mark.capability("REF-1")
def test_refinement_needs_a_fiftieth_of_the_processor_time_of_relion(shared_data, tmp_path, measure):
    """Beside what RELION 3.1.3 needed for the same particles (stored: it takes most of an hour)."""
    _benchmark()
    benchmark = _benchmark("against_relion")
    folder = Path(os.environ.get("CRYOLOOM_BEDS", tmp_path))
    stored = json.loads(benchmark.STORE.read_text(encoding="utf-8")) if benchmark.STORE.exists() else {}
    assert stored, "benchmarks/refine/against_relion.py --run-relion has not been run to its end"
    for name, theirs in sorted(stored.items()):
        ours = benchmark.refine_set(name, folder)
        ratio = theirs["cpu_seconds"] / ours["cpu_seconds"]
        measure(
            round(ratio, 1), "times less CPU time", ">= 50",
            note=f"set {name}: {ours['cpu_seconds']:.0f} CPU s, {ours['true_resolution']:.2f} Å, "
            f"{ours['pose_error_deg']:.2f}°; RELION {theirs['cpu_seconds']:.0f} CPU s, "
            f"{theirs['true_resolution']:.2f} Å, {theirs['pose_error_deg']:.2f}°",
        )  # fmt: skip
        assert ratio >= 50
        assert ours["true_resolution"] <= theirs["true_resolution"] + 0.005
        assert ours["pose_error_deg"] <= theirs["pose_error_deg"]


def _refined(benchmark, folder, seed):
    """Bed `c1` refined from a seed (each has other halves), once per folder of beds."""
    bed = benchmark.prepare("c1", folder, {})
    with (bed / "truth.pkl").open("rb") as file:
        truth, symmetry, _ = pickle.load(file)
    result = run_stage(
        "refine",
        inputs={"particles": bed / "particles.star", "reference": bed / "truth.mrc"},
        settings={"symmetry": symmetry, "initial_lowpass": 40.0},
        out=bed / f"refine_seed{seed}",
        seed=seed,
    )
    return truth, symmetry, result.outputs["particles"]


def _is_right(truth, particles, symmetry):
    """Real particles whose pose is within 5 degrees and whose shift is within 3 Å of the truth."""
    angle = pose_distance(torch.from_numpy(truth.rotation), torch.from_numpy(particles.rotation), symmetry).numpy()
    shift = np.linalg.norm(particles.shift - truth.shift, axis=1)
    return (truth.class_number > 0) & (np.rad2deg(angle) < 5.0) & (shift < 3.0)


@pytest.mark.slow
@pytest.mark.capability("UNC-7")
def test_particles_flagged_reliable_have_right_poses(shared_data, tmp_path, measure):
    truth, symmetry, refined = _refined(_benchmark(), Path(os.environ.get("CRYOLOOM_BEDS", tmp_path)), 1)
    particles = read_particles(refined)
    right, flagged = _is_right(truth, particles, symmetry), particles.reliability > 0.5
    precision, recall = float(right[flagged].mean()), float(flagged[right].mean())
    note = f"recall {100 * recall:.1f} % (asked >= 70); bed c1, 10 % junk, {100 * right.mean():.1f} % right"
    measure(round(100 * precision, 2), unit="% precision", threshold=">= 95", note=note)
    assert precision >= 0.95
    assert recall >= 0.7


@pytest.mark.slow
@pytest.mark.capability("REF-7")
def test_poses_on_which_two_runs_agree_are_right(shared_data, tmp_path, measure):
    folder = Path(os.environ.get("CRYOLOOM_BEDS", tmp_path))
    truth, symmetry, first = _refined(_benchmark(), folder, 1)
    _, _, second = _refined(_benchmark(), folder, 2)
    result = run_stage(
        "particles consensus",
        inputs={"particles": first, "second": second},
        settings={"symmetry": symmetry},
        out=tmp_path / "consensus",
    )
    particles = read_particles(first)
    right = dict(zip(_names(particles), _is_right(truth, particles, symmetry), strict=True))
    kept = read_particles(result.outputs["particles"])
    correct = float(np.mean([right[name] for name in _names(kept)]))
    share = result.summary["agreeing_fraction"]
    measure(
        round(100 * correct, 2), unit="% correct", threshold=">= 95",
        note=f"bed c1, 10 % junk: {100 * share:.1f} % of the particles agree",
    )  # fmt: skip
    assert correct >= 0.95
    assert share > 0.5


@pytest.mark.slow
@pytest.mark.capability("REF-5")
def test_a_noisy_micelle_does_not_steer_the_alignment(tmp_path, measure):
    """True resolution of the protein, its detergent belt different in every image; and no map better than the truth."""
    bed = make_micelle_bed(tmp_path / "bed", n=3000, snr=0.04, seed=1)
    write_map(bed.mean, tmp_path / "mean.mrc")
    box, pixel_size = bed.protein.data.shape[0], bed.protein.pixel_size
    protein, mean = (torch.from_numpy(np.ascontiguousarray(m.data)) for m in (bed.protein, bed.mean))
    mask = soft_mask_from_map(protein, pixel_size)
    resolution, excess = {}, {}
    for kind in ("uniform", "local"):
        job = run_stage(
            "refine",
            inputs={"particles": bed.particles, "reference": tmp_path / "mean.mrc"},
            settings={"regularisation": kind, "initial_lowpass": 30.0},
            out=tmp_path / kind,
        )
        found, one, two = (torch.from_numpy(read_map(job[name]).data) * mask for name in ("map", "half1", "half2"))
        resolution[kind] = resolution_at(fourier_shell_correlation(found, protein * mask), 0.5, box, pixel_size)
        halves = fourier_shell_correlation(one, two).clamp(0.0, 1.0)
        claimed = (2 * halves / (1 + halves)).sqrt() - fourier_shell_correlation(found, mean * mask)
        last = int(box * pixel_size / job.summary["resolution"])
        excess[kind] = float(claimed[1 : last + 1].max())
    gain = resolution["uniform"] - resolution["local"]
    measure(
        round(gain, 3), "Å better than uniform", ">= 0.2",
        note=f"{resolution['local']:.2f} Å for {resolution['uniform']:.2f} Å",
    )  # fmt: skip
    measure(
        round(excess["local"], 4), "claimed FSC above true FSC", "<= 0.02",
        note=f"worst shell up to the reported resolution; uniform {excess['uniform']:.3f}",
    )  # fmt: skip
    assert gain >= 0.2
    assert excess["local"] <= 0.02


@pytest.mark.slow
@pytest.mark.capability("REF-10")
def test_a_domain_on_a_hinge_is_refined_as_if_it_were_alone(tmp_path, measure):
    """Consensus, subtraction of the body, local refinement of the domain about the poses that were given."""
    bed = make_hinge_bed(tmp_path, n=3000, snr=0.05, seed=3)
    write_map(bed.mean, tmp_path / "mean.mrc")
    write_map(bed.mask, tmp_path / "mask.mrc")
    whole = run_stage(
        "refine", {"particles": bed.particles, "reference": tmp_path / "mean.mrc"}, {"initial_lowpass": 30.0},
        out=tmp_path / "whole",
    )  # fmt: skip
    cut = run_stage(
        "subtract",
        {"particles": whole["particles"], "half1": whole["half1"], "half2": whole["half2"]}
        | {"mask": tmp_path / "mask.mrc"},
        {},
        out=tmp_path / "cut",
    )
    local = run_stage(
        "refine",
        {"particles": cut["particles"], "reference": cut["map"]},
        {"local": True, "local_angle_deg": 10.0, "local_shift": 5.0, "initial_lowpass": 20.0},
        out=tmp_path / "local",
    )
    alone = run_stage("reconstruct", {"particles": bed.domain_alone}, {}, out=tmp_path / "alone")
    oracle = score_map(read_map(alone["map"]), bed.domain, superposed=True).resolution
    before = true_resolution(read_map(whole["map"]), bed.domain)
    reached = score_map(read_map(local["map"]), bed.domain)
    # the bound of these images: the poses that they tell when they meet the true map of the domain
    write_map(_laid_on(read_map(local["map"]), bed.domain), tmp_path / "domain.mrc")
    told = run_stage(
        "refine",
        {"particles": cut["particles"], "reference": tmp_path / "domain.mrc"},
        {"local": True, "local_angle_deg": 10.0, "local_shift": 5.0, "initial_lowpass": 4.2, "max_iterations": 1},
        out=tmp_path / "told",
    )
    bound = score_map(read_map(told["map"]), bed.domain).resolution / oracle - 1
    above = reached.resolution / oracle - 1
    allowed = 0.1 if bound <= 0.1 else 1.3 * bound
    # what was subtracted must not look better than the consensus knew it
    given = read_map(cut["mask"])
    claimed = read_map(local["mask"])
    outside = float(((given.data < 0.01) * claimed.data).sum() / claimed.data.sum())
    note = (
        f"{reached.resolution:.2f} Å, oracle {oracle:.2f} Å, consensus {before:.2f} Å; "
        f"reported {local.summary['resolution']:.2f} Å; poses of the domain good to "
        f"{local.summary['pose_error_deg']:.1f}° by their own error bars; bound: the same images aligned to the truth"
    )
    if bound > 0.1:
        note += "; 10 % is beyond the bound, so 1.3 times the bound is asked (rule 5)"
    measure(
        round(100 * above, 1), "% above the domain's own oracle", f"<= {100 * allowed:.1f}",
        bound=round(100 * bound, 1), note=note,
    )  # fmt: skip
    measure(round(100 * outside, 2), "% of the mask behind which the resolution is claimed outside the given", "<= 1")
    assert above <= allowed
    assert outside <= 0.01


def _laid_on(found, truth):
    """The truth in the frame and box of a map that was found, in the grey scale in which the simulator has it."""
    fixed, moving = (torch.from_numpy(np.ascontiguousarray(m.data)) for m in (resample_like(found, truth), truth))
    laid = superpose(fixed, moving, truth.pixel_size, resolution=5.0, either_hand=False)
    return resample_like(VolumeMap(laid.apply(moving).numpy(), truth.pixel_size), found)


# shape, symmetry, SNR at 2.6 Å per pixel; bed c1, cropped to such pixels, would have 0.15 and twice the images
BEDS_OF_POSES = (
    ("globule", "C1", 0.1),
    ("rod", "D2", 0.05),
    ("fork", "C1", 0.1),
    ("tripod", "C3", 0.1),
)


def poses_covered(folder, seed):
    """Simulate and refine one small set; which of its poses and shifts lie within the radii that are claimed.

    What the map as a whole is turned and shifted by is no particle's error: it is taken out, as `score` does.
    """
    shape, symmetry, snr = BEDS_OF_POSES[seed % len(BEDS_OF_POSES)]
    atoms = phantom(shape, symmetry, mass_kda=350.0, seed=seed)
    reach = float(np.linalg.norm(atoms.position, axis=1).max())
    box = max(96, 8 * int(np.ceil(2.2 * reach / 2.6 / 8)))
    specimen = Specimen(((potential_map(atoms, box, 2.6),),), symmetry=symmetry, diameter=atoms.diameter)
    truth = simulate_particles(specimen, folder / "data", ParticleRecipe(n=800, snr=snr), seed=seed)
    write_map(specimen.truth(0), folder / "truth.mrc")
    result = run_stage(
        "refine",
        inputs={"particles": observed(truth), "reference": folder / "truth.mrc"},
        settings={"symmetry": symmetry, "initial_lowpass": 40.0},
        out=folder / "job",
        seed=seed,
    )
    particles = read_particles(result.outputs["particles"])
    flagged = (truth.class_number > 0) & (particles.reliability > 0.5)
    score = score_rotations(
        particles.rotation[flagged], truth.rotation[flagged], symmetry,
        shifts=(particles.shift[flagged], truth.shift[flagged]),
    )  # fmt: skip
    angle, shift = score.angle, np.linalg.norm(score.shift, axis=1)
    return {
        "shape": shape,
        "n": int(flagged.sum()),
        "poses": int((angle < particles.pose_radius[flagged]).sum()),
        "shifts": int((shift < particles.shift_radius[flagged]).sum()),
        "median_deg": round(float(np.rad2deg(np.median(particles.pose_radius[flagged]))), 3),
    }


@pytest.mark.slow
@pytest.mark.capability("UNC-3")
def test_poses_lie_within_their_radii_as_often_as_claimed(tmp_path, measure, evidence):
    """Four sets per run (a shard); the row asks for forty. Particles called reliable count, junk does not."""
    done = {case["seed"] for case in evidence.cases()}
    for seed in [s for s in range(100, 10_000) if s not in done][:4]:
        evidence.append(seed=seed, **poses_covered(tmp_path / str(seed), seed))
    cases = evidence.cases()
    n = sum(case["n"] for case in cases)
    poses, shifts = (100 * sum(case[key] for case in cases) / n for key in ("poses", "shifts"))
    measure(round(poses, 2), "%", "93 to 97", note=f"poses: {n} of {len(cases)} sets of four shapes")
    measure(round(shifts, 2), "%", "93 to 97", note="shifts of the same")
    assert len(cases) >= 40 and n >= 2000
    assert 93.0 <= poses <= 97.0
    assert 93.0 <= shifts <= 97.0


def _names(particles):
    return [
        f"{index}@{Path(path).name}" for path, index in zip(particles.image_path, particles.image_index, strict=True)
    ]


class _Rescaled:
    """Every image times a factor and plus an offset of its own."""

    def __init__(self, images: np.ndarray, factor: np.ndarray, offset: np.ndarray) -> None:
        self.images, self.factor, self.offset = images, factor, offset

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows] * self.factor[rows, None, None] + self.offset[rows, None, None]


@pytest.mark.capability("REF-3")
def test_the_grey_scale_of_each_particle_is_found_whatever_the_input_scale(small_set, measure):
    data = small_set(symmetry="D2", n=200, scale_spread=0.25, snr=0.5)
    n, pixel_size = len(data.particles), data.volume.pixel_size
    images = ParticleImages(data.particles).read(np.arange(n))
    rng = np.random.default_rng(3)
    reference = prepare_volume(lowpass(torch.from_numpy(data.volume.data), pixel_size, 10.0))
    start = single_candidates(np.arange(n), data.truth.rotation, data.truth.shift / pixel_size)
    found = []
    for factor, offset in ((np.ones(n), np.zeros(n)), (rng.uniform(0.2, 5.0, n), rng.normal(size=n) * 10)):
        source = ImageSource(_Rescaled(images, factor, offset), data.particles, 1.1 * data.diameter)
        power = np.full((1, source.points.radius + 1), float(source.box) ** 2)
        # grey scale of the map in units of the normalised images
        scored = refine_poses(
            source, [reference], np.ones(n, np.int64), start, NoiseModel(power), ThreadExecutor(2),
            radius=source.points.radius, n_steps=6, priors=PosePriors(scale_sd=0.0),
        )  # fmt: skip
        gain = 0.5 + scored.log_likelihood.sum() / scored.information[:, 5, 5].sum()
        reference_scaled = prepare_volume(
            lowpass(torch.from_numpy(data.volume.data), pixel_size, 10.0) * float(np.clip(gain, 1e-3, 1e6))
        )
        fitted = refine_poses(
            source, [reference_scaled], np.ones(n, np.int64), start, NoiseModel(power), ThreadExecutor(2),
            radius=source.points.radius, n_steps=8, priors=PosePriors(scale_sd=0.5),
        )  # fmt: skip
        found.append(fitted.scale)
    correlation = float(np.corrcoef(found[0], data.truth.scale)[0, 1])
    between = float(np.corrcoef(found[0], found[1])[0, 1])
    note = f"with inputs rescaled at random: the same to r = {between:.4f}"
    measure(round(correlation, 4), threshold="> 0.9", note=note)
    assert correlation > 0.9
    assert between > 0.999
    np.testing.assert_allclose(found[1], found[0], rtol=0.02, atol=0.02)
