"""Denoised micrographs: what the halves tell, and that no reconstruction gets to see them."""

import denoise_bed
import numpy as np
import picking_bed
import pytest
import torch

from cryoloom.contract import CryoloomError, InputError
from cryoloom.data import MicrographSet, Optics, ParticleSet, PickSet
from cryoloom.io.denoised import DENOISED_LABEL, refuse_denoised
from cryoloom.io.mrc import read_mrc, read_mrc_header, write_mrc
from cryoloom.io.particles import ParticleImages
from cryoloom.io.records import read_micrographs, write_particles
from cryoloom.picking.denoise.halves import half_pair
from cryoloom.picking.denoise.model import Denoiser, load_denoiser, save_denoiser
from cryoloom.picking.denoise.network import DenoiserNetwork, denoise_half
from cryoloom.project.runner import run_stage


def halves_of(signal, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [signal + torch.randn(signal.shape, generator=generator) for _ in range(2)]


def test_the_filter_of_two_halves_is_wieners():
    """A picture of power P in noise of power 1 per pixel: the filter is P / (P + 1) in each shell."""
    generator = torch.Generator().manual_seed(1)
    signal = 2.0 * torch.randn(256, 256, generator=generator)
    pair = half_pair(*halves_of(signal), 1.0, 1.0)
    np.testing.assert_allclose(pair.wiener[10:120].mean(), 4 / 5, atol=0.01)
    assert abs(pair.scale - 1) < 0.02
    noise = half_pair(*halves_of(torch.zeros(256, 256)), 1.0, 1.0)
    assert noise.wiener[10:120].mean() < 0.02


def test_an_untrained_network_is_the_linear_filter():
    pair = half_pair(*halves_of(torch.zeros(120, 104)), 1.0, 1.0)
    network = DenoiserNetwork()
    network.initialise(torch.Generator().manual_seed(0))
    torch.testing.assert_close(denoise_half(network, pair.halves[0], pair.filtered[0]), pair.filtered[0])


def test_moving_the_micrograph_moves_what_is_denoised():
    generator = torch.Generator().manual_seed(3)
    network = DenoiserNetwork()
    network.initialise(generator)
    network.last.weight.data.fill_(0.1)
    half, filtered = torch.randn(2, 160, 160, generator=generator)
    answer = denoise_half(network, half, filtered)
    moved = denoise_half(network, half.roll((16, 8), (0, 1)), filtered.roll((16, 8), (0, 1)))
    inner = (slice(64, -64), slice(64, -64))
    torch.testing.assert_close(answer.roll((16, 8), (0, 1))[inner], moved[inner], atol=1e-5, rtol=1e-5)


def test_halves_that_tell_nothing_are_refused(tmp_path):
    image = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="same image"):
        half_pair(image, image, 1.0, 1.0)
    write_mrc(tmp_path / "m.mrc", image.numpy(), 1.0, kind="image")
    alone = MicrographSet(
        path=np.asarray([str(tmp_path / "m.mrc")]), optics=(Optics(pixel_size=1.0),), optics_index=np.zeros(1, int)
    )
    with pytest.raises(InputError, match="even-odd"):
        run_stage("denoise", {"micrographs": alone}, {}, out=tmp_path / "job")


def test_a_denoiser_is_stored_whole(tmp_path):
    network = DenoiserNetwork()
    network.initialise(torch.Generator().manual_seed(0))
    save_denoiser(Denoiser(network, 2.5), tmp_path / "d.npz")
    known = load_denoiser(tmp_path / "d.npz")
    assert known.working == 2.5
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), known.network.parameters(), strict=True))
    save_denoiser(Denoiser(None, 2.5), tmp_path / "linear.npz")
    assert load_denoiser(tmp_path / "linear.npz").network is None
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="no network"):
        load_denoiser(tmp_path / "other.npz")


def test_no_reconstruction_reads_what_was_denoised(tmp_path):
    """From the stage on: its files are refused by `extract`, by `import`, and wherever particle images are read."""
    beads = picking_bed.bead_cloud(300, (1, 1, 1), 1)
    truth, _, pair = denoise_bed.halves(beads, 5, shape=(384, 384), n_particles=4)
    micrographs = denoise_bed.write_set(tmp_path, [truth], [pair])
    job = run_stage("denoise", {"micrographs": micrographs}, {"steps": 10}, out=tmp_path / "job", threads=1)
    denoised = read_micrographs(job["micrographs"])
    assert denoised.path_even is None and denoised.path_odd is None
    path = str(denoised.path[0])
    image = read_mrc(path)[0][0]
    assert image.shape == (384, 384) and DENOISED_LABEL in read_mrc_header(path).labels
    refuse_denoised(str(micrographs.path[0]))
    picks = PickSet(position_px=truth.position_px, micrograph=np.full(len(truth.position_px), path), diameter=80.0)
    with pytest.raises(InputError, match="denoised"):
        run_stage("extract", {"micrographs": denoised, "picks": picks}, {}, out=tmp_path / "extract")
    with pytest.raises(CryoloomError):
        run_stage("import", {"files": (path,)}, {"pixel_size": 1.5}, out=tmp_path / "import")
    # picks made on denoised micrographs are cut from the micrographs themselves
    settings = {"box": 64, "axes": "as-given", "contrast": "dark"}
    cut = run_stage("extract", {"micrographs": micrographs, "picks": picks}, settings, out=tmp_path / "cut")
    assert cut.summary["n_out"] > 0
    # a stack that carries the mark, wherever it comes from
    stack = tmp_path / "stack.mrcs"
    write_mrc(stack, np.stack([image[:64, :64]] * 3), 1.5, kind="image", labels=(DENOISED_LABEL,))
    particles = ParticleSet(
        image_path=np.full(3, str(stack)), image_index=np.arange(3), optics=(Optics(pixel_size=1.5, box=64),),
        optics_index=np.zeros(3, int),
    )  # fmt: skip
    with pytest.raises(InputError, match="denoised"):
        ParticleImages(particles)
    write_particles(particles, tmp_path / "particles.star")
    with pytest.raises(InputError, match="denoised"):
        run_stage("import", {"files": (tmp_path / "particles.star",)}, {}, out=tmp_path / "import2")
