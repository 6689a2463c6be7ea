"""Keeping up with a camera: one large movie from file to CTF."""

import os
import resource
import time

import numpy as np
import pytest
import scipy.fft

from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_micrographs
from cryoloom.optics import electron_wavelength
from cryoloom.project.runner import run_stage

SIZE, N_FRAMES, PIXEL_SIZE, DEFOCUS = 4096, 50, 1.0, 14_000.0


def drifting_frames(rng):
    """Counted electrons, 0.5 per pixel, of a drifting scene with the rings of a CTF, `(t, y, x)` uint8."""
    k2 = (
        np.fft.fftfreq(SIZE, PIXEL_SIZE)[:, None].astype(np.float32) ** 2
        + np.fft.rfftfreq(SIZE, PIXEL_SIZE)[None].astype(np.float32) ** 2
    )
    wavelength = electron_wavelength(300.0)
    chi = np.pi * wavelength * DEFOCUS * k2 - 0.5 * np.pi * 2.7e7 * wavelength**3 * k2**2 + np.arcsin(0.1)
    scene = scipy.fft.rfft2(rng.standard_normal((SIZE, SIZE), dtype=np.float32)) * np.sin(chi) * np.exp(-20 * k2)
    scene = scipy.fft.irfft2(scene.astype(np.complex64), s=(SIZE, SIZE))
    rate = np.clip(128 + 0.15 * 128 * scene / scene.std(), 1, 255).astype(np.uint8)
    frames = np.empty((N_FRAMES, SIZE, SIZE), np.uint8)
    for t in range(N_FRAMES):
        drift = (round(0.3 * t), -round(0.2 * t))
        noise = np.frombuffer(rng.bytes(SIZE * SIZE), np.uint8).reshape(SIZE, SIZE)
        np.less(noise, np.roll(rate, drift, (0, 1)), out=frames[t].view(bool))
    return frames


@pytest.mark.slow
@pytest.mark.capability("MOT-8")
def test_a_large_movie_takes_less_time_than_a_camera_needs(tmp_path, measure):
    """Motion and CTF, reading and writing included; what is compiled is compiled before."""
    frames = drifting_frames(np.random.default_rng(8))
    write_mrc(tmp_path / "small.mrcs", frames[:12, :1024, :1024].copy(), PIXEL_SIZE, kind="stack")
    write_mrc(tmp_path / "movie.mrcs", frames, PIXEL_SIZE, kind="stack")
    del frames
    settings = {"pixel_size": PIXEL_SIZE, "voltage_kv": 300.0, "dose_per_frame": 1.0}

    def both(name):
        out = tmp_path / name
        options = {"device": "cpu", "threads": 2}
        moved = run_stage("motion", {"movies": [tmp_path / f"{name}.mrcs"]}, settings, out=out / "motion", **options)
        return run_stage("ctf", {"micrographs": moved["micrographs"]}, {}, out=out / "ctf", **options)

    both("small")
    begun, spent = time.monotonic(), time.process_time()
    found = read_micrographs(both("movie")["micrographs"])
    seconds, cpu = time.monotonic() - begun, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    measure(
        round(seconds, 1),
        unit="s",
        threshold="<= 30",
        note=f"4096² x 50, motion + CTF, reading and writing too, on {len(os.sched_getaffinity(0))} cores; "
        f"{cpu:.0f} CPU s; peak {peak:.1f} GB, the movie as float32 has {4e-9 * N_FRAMES * SIZE**2:.1f} GB",
    )
    assert abs(found.defocus_u[0] - DEFOCUS) < 100
    assert seconds <= 30
    assert peak <= 3 * 4e-9 * N_FRAMES * SIZE**2
