"""Numbers of the agreement of pickers: junk is told from particles, and it beats each picker."""

import numpy as np
import picking_bed
import pytest
from scipy import ndimage
from test_templates import write_views

from cryoloom.data import MicrographSet, Optics, PickSet
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_picks
from cryoloom.project.runner import run_stage

ALL = {"threshold": -1e3}  # every candidate with its score
SIZE = 1536
SHAPES = {"rod, 150 kDa": (150, (1, 1, 2), 130), "plate, 465 kDa": (465, (0.8, 1.2, 1.7), 70)}


def dirty_set(folder, shape, seed):
    """Four micrographs with carbon along an edge, crystals of ice and aggregates; their truth, carbon and crystals."""
    mass, axes, n = SHAPES[shape]
    beads = picking_bed.bead_cloud(mass, axes, seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    truth, kinds, paths = [], [], []
    for i in range(4):
        rng = np.random.default_rng(100 * seed + i)
        away = SIZE * (1.25 + 0.05 * i)
        carbon = np.hypot(y - rng.uniform(0.2, 0.8) * SIZE, x - away) < away - 0.88 * SIZE
        crystals = np.zeros_like(carbon)
        for _ in range(5):
            cy, cx = rng.uniform(0, SIZE, 2)
            crystals |= np.hypot(y - cy, x - cx) < rng.uniform(40, 90)
        texture = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), 4.0)
        options = {
            "extra": (carbon, crystals, texture / texture.std()),
            "n_aggregates": 2,
            "gradient": 0.5,
            "of_particles": True,
        }
        truth.append(
            picking_bed.simulate(
                beads,
                shape=(SIZE, SIZE),
                n_particles=n,
                snr=0.05,
                defocus=9_000 + 6_000 * i,
                seed=10 * seed + i,
                **options,
            )
        )
        kinds.append({"carbon": carbon & ~crystals, "ice": crystals})
        paths.append(str(folder / f"m{i}.mrc"))
        write_mrc(paths[-1], truth[-1].image, 1.5)
    defocus = np.asarray([one.defocus for one in truth])
    micrographs = MicrographSet(
        path=np.asarray(paths),
        optics=(Optics(pixel_size=1.5),),
        optics_index=np.zeros(4, int),
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=np.zeros(4),
    )
    return micrographs, truth, kinds


def odds_of_kinds(consensus, anything, micrographs, truth, kinds):
    """Log odds that the consensus gives to picks of each kind.

    Particles and noise are candidates of the consensus itself, within 0.35 and beyond 1 diameter of a particle. Ice and
    carbon are picks of a picker that excludes nothing; where the consensus masks or sees nothing, it says no.
    """
    names, other_names = (np.asarray([str(m) for m in picks.micrograph]) for picks in (consensus, anything))
    odds = {name: [] for name in ("particle", "noise", "ice", "carbon")}
    for path, one, regions in zip(micrographs.path, truth, kinds, strict=True):
        own = names == str(path)
        place, score = consensus.position_px[own], consensus.score[own]
        away = np.linalg.norm(place[:, None] - one.position_px[None], axis=-1).min(1) * 1.5 / one.diameter
        y, x = np.clip(np.rint(place).astype(int), 0, SIZE - 1).T
        odds["particle"].append(score[away < 0.35])
        odds["noise"].append(score[(away > 1) & ~one.junk[y, x]])
        here = anything.position_px[other_names == str(path)]
        distance = np.linalg.norm(here[:, None] - place[None], axis=-1)
        near = np.where(distance.min(1) < 0.3 * one.diameter / 1.5, score[distance.argmin(1)], -1e3)
        y, x = np.clip(np.rint(here).astype(int), 0, SIZE - 1).T
        for name, region in regions.items():
            odds[name].append(near[region[y, x]])
    return {name: np.concatenate(values) for name, values in odds.items()}


@pytest.mark.slow
@pytest.mark.capability("PIK-6")
@pytest.mark.parametrize("shape", SHAPES)
def test_consensus_knows_junk_and_beats_each_picker(tmp_path, measure, shape):
    micrographs, truth, kinds = dirty_set(tmp_path, shape, seed=41)
    mass, axes, _ = SHAPES[shape]
    write_views(tmp_path / "views.mrcs", picking_bed.bead_cloud(mass, axes, 41), 8, seed=5)
    given = {"micrographs": micrographs}
    templates = {**given, "references": tmp_path / "views.mrcs"}

    def pick(name, inputs, **settings):
        job = run_stage("pick", inputs, ALL | settings, out=tmp_path / name, threads=1)
        return read_picks(job["picks"])

    consensus = pick("consensus", templates, method="consensus")
    single = {"reference-free": pick("free", given), "templates": pick("templates", templates)}
    parts = []
    for half in (0, 1):  # each network looks at what it was not trained on
        unseen = {"micrographs": micrographs.select(np.arange(1 - half, len(truth), 2))}
        model = tmp_path / "consensus" / f"picker_{half + 1}.npz"
        parts.append(pick(f"network{half}", {**unseen, "model": model}))
    single["network"] = PickSet(
        position_px=np.concatenate([part.position_px for part in parts]),
        micrograph=np.concatenate([part.micrograph for part in parts]),
        score=np.concatenate([part.score for part in parts]),
    )
    likely = consensus.select(consensus.probability >= 0.5)
    recall, _ = picking_bed.pooled_score(likely, micrographs, truth)
    levels = (recall, 0.7, 0.8)
    curve = picking_bed.precision_at(consensus, micrographs, truth, levels)
    others = {name: picking_bed.precision_at(picks, micrographs, truth, levels) for name, picks in single.items()}
    anything = pick("anything", given, exclude=False, diameter=truth[0].diameter)
    odds = odds_of_kinds(consensus, anything, micrographs, truth, kinds)
    areas = {name: picking_bed.auc(odds["particle"], odds[name]) for name in ("ice", "carbon", "noise")}
    counts = {name: len(values) for name, values in odds.items()}
    text = "; ".join(
        f"{name} {np.round(values, 3).tolist()}" for name, values in {"consensus": curve, **others}.items()
    )
    measure(
        round(min(areas.values()), 3), "least AUC", ">= 0.95",
        note=f"{shape}: { {name: round(float(a), 3) for name, a in areas.items()} }, places {counts}",
    )  # fmt: skip
    gain = float(curve[0] - max(values[0] for values in others.values()))
    measure(
        round(gain, 3), "gain of precision over the best single picker", "> 0",
        note=f"{shape}, at recall {np.round(levels, 3).tolist()}, the first that of picks more likely than not: {text}",
    )  # fmt: skip
    assert min(areas.values()) >= 0.95
    assert gain > 0
