"""Numbers of the learned picker: from twenty labels, on micrographs and particles it has not seen, and its speed."""

import time

import numpy as np
import picking_bed
import pytest
import torch
from test_capabilities import SHAPES

from cryoloom.data import PickSet
from cryoloom.io.records import read_picks
from cryoloom.picking.learned.model import load_picker
from cryoloom.picking.matched import default_transfer
from cryoloom.picking.search import search_micrograph
from cryoloom.project.runner import run_stage

N_LABELS, TRAINED_ON = 20, 2
ALL = {"threshold": -1e3}  # every candidate with its score


def twenty_labels(micrographs, truth, seed):
    """Particles marked on the first micrographs, as by hand: a few per cent of a diameter off, with a circle."""
    rng = np.random.default_rng(seed)
    every = [(row, place) for row in range(TRAINED_ON) for place in truth[row].position_px]
    chosen = [every[i] for i in rng.choice(len(every), N_LABELS, replace=False)]
    off = 0.03 * truth[0].diameter / 1.5 * rng.standard_normal((N_LABELS, 2))
    return PickSet(
        position_px=np.stack([place for _, place in chosen]) + off,
        micrograph=np.asarray([str(micrographs.path[row]) for row, _ in chosen]),
        diameter=float(10 * round(truth[0].diameter / 10)),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Micrographs with carbon, ice crystals and aggregates, and a network for each shape, when asked for."""
    made = {}

    def make(shape):
        if shape not in made:
            folder = tmp_path_factory.mktemp("learned")
            mass, axes, n = SHAPES[shape]
            options = {"seed": 31, "n_micrographs": TRAINED_ON + 2, "junk": True, "of_particles": True}
            micrographs, truth = picking_bed.simulated_set(folder, mass, axes, n, 0.05, **options)
            labels = twenty_labels(micrographs, truth, seed=1)
            start = time.process_time()
            inputs = {"micrographs": micrographs, "labels": labels}
            job = run_stage("train-picker", inputs, {}, out=folder / "train", threads=1)
            held_out = micrographs.select(np.arange(TRAINED_ON, len(truth)))
            seconds = time.process_time() - start
            made[shape] = (job.folder / "picker.npz", held_out, truth[TRAINED_ON:], seconds)
        return made[shape]

    return make


@pytest.mark.slow
@pytest.mark.capability("PIK-1")
@pytest.mark.parametrize("shape", SHAPES)
def test_twenty_labels_are_enough(tmp_path, trained, measure, shape):
    model, micrographs, truth, seconds = trained(shape)
    job = run_stage("pick", {"micrographs": micrographs, "model": model}, ALL, out=tmp_path / "job", threads=1)
    value = picking_bed.average_precision(read_picks(job["picks"]), micrographs, truth)
    note = f"{shape}, SNR 0.05, carbon, ice and aggregates; 2 held-out micrographs; training {seconds:.0f} CPU s"
    measure(round(value, 3), "average precision", ">= 0.8", note=note)
    assert value >= 0.8
    assert seconds < 600


@pytest.mark.slow
@pytest.mark.capability("PIK-1")
def test_networks_on_other_particles(tmp_path, trained, measure):
    """A table, not a threshold: each network looks for all particles, told their size only."""
    table = {}
    for seen in SHAPES:
        for other in SHAPES:
            model = trained(seen)[0]
            _, micrographs, truth, _ = trained(other)
            micrographs, truth = micrographs.select(np.arange(1)), truth[:1]
            job = run_stage(
                "pick",
                {"micrographs": micrographs, "model": model},
                ALL | {"diameter": truth[0].diameter},
                out=tmp_path / f"{seen}-{other}".replace(" ", ""),
                threads=1,
            )
            table[seen, other] = picking_bed.average_precision(read_picks(job["picks"]), micrographs, truth)
    text = "; ".join(f"{seen} on {other}: {value:.2f}" for (seen, other), value in table.items())
    measure(round(min(table.values()), 3), "least average precision", note=f"cross-particle table: {text}")
    assert all(table[shape, shape] >= max(table[shape, other] for other in SHAPES) - 0.3 for shape in SHAPES)


@pytest.mark.slow
@pytest.mark.capability("PIK-1")
def test_speed_on_a_large_micrograph(trained, measure):
    """4096 x 4096 pixels, the smallest particle at 1 Å per pixel, on two threads; CPU seconds: clocks are shared."""
    picker = load_picker(trained("globular, 70 kDa")[0])
    image = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    optics = default_transfer(300.0, 2.7, 0.1)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        search_micrograph(
            image, 1.0, optics, picker.core, dark=True, distance=0.5 * picker.extent, margin=0.0, exclude=True,
            beside=0.0, find=picker.find,
        )  # fmt: skip
        seconds.append(time.process_time() - start)
    rate = 2 / min(seconds[1:])
    measure(round(rate, 3), "4k micrographs/s", ">= 0.25", note=f"2 cores at {min(seconds[1:]):.1f} CPU s each")
    assert rate >= 0.25
