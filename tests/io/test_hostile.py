"""Mutated files: either they are read, or one sentence says why not; nothing else, and no memory to speak of."""

import os
import resource
import struct
import warnings

import mrcfile
import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.io.cs import read_cs_particles
from cryoloom.io.eer import EerMovie
from cryoloom.io.eer_writer import write_eer
from cryoloom.io.map_file import read_map
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.records import read_micrographs, read_movies, read_particles, read_picks
from cryoloom.io.tiff import read_tiff, write_tiff


def mutate(data, rng):
    """One of the ways in which files go wrong."""
    data = bytearray(data)
    kind = rng.integers(7)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data))) if data else 0
        near_start = int(rng.integers(min(len(data), 1100))) if data else 0
        if kind == 0 and data:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and data:
            data[near_start] = int(rng.integers(256))
        elif kind == 2:
            del data[at:]
        elif kind == 3 and data:
            word = int(rng.choice([-1, 0, 1, 2**31 - 1, -(2**31), 2**16, 2**24, int(rng.integers(-100, 100))]))
            start = near_start // 4 * 4
            data[start : start + 4] = struct.pack("<i", word)
        elif kind == 4 and data:
            end = min(len(data), at + int(rng.integers(1, 60)))
            data[at:at] = data[at:end]
        elif kind == 5 and data:
            end = min(len(data), at + int(rng.integers(1, 60)))
            del data[at:end]
        elif kind == 6 and data:
            data[at : at + 8] = rng.bytes(8)
    return bytes(data)


def attempts(path, content, read, n, seed=0):
    """Number of mutated files that are read; any exception but InputError fails the test."""
    rng = np.random.default_rng([seed, 77])
    n_read = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(n):
            path.write_bytes(mutate(content, rng))
            try:
                read(path)
                n_read += 1
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000, f"attempt {i}: {error}"
            except Exception as error:
                raise AssertionError(f"attempt {i} of seed {seed}: {type(error).__name__}: {error}") from error
    return n_read


STAR = b"""
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnMicrographPixelSize #7
_rlnMicrographOriginalPixelSize #8
_rlnImageSize #9
_rlnOddZernike #10
1 one 300 2.7 0.1 1.5 1.5 0.75 64 [0.1,0.2]
2 "the second" 200 2.7 0.1 1.5 1.5 0.75 64 [0,0]

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnMicrographMovieName #3
_rlnCoordinateX #4
_rlnCoordinateY #5
_rlnAngleRot #6
_rlnAngleTilt #7
_rlnAnglePsi #8
_rlnOriginXAngst #9
_rlnOriginYAngst #10
_rlnDefocusU #11
_rlnClassNumber #12
_rlnOpticsGroup #13
_rlnOther #14
000001@a.mrcs "m 1.mrc" m1.tif 10.5 20.5 10 20 30 1 -1 10000 1 1 x
000002@a.mrcs m1.mrc m1.tif 30.5 40.5 -10 120 3e1 1.5 -1.5 10000.5 1 2 007
000003@a.mrcs m1.mrc m1.tif 50.5 60.5 0 0 0 0 0 9000 2 2 y
"""


def star_reader(path):
    """All four table readers; each may refuse on its own."""
    refused = 0
    for read in (read_particles, read_micrographs, read_movies, read_picks):
        try:
            read(path)
        except InputError as error:
            refused += 1
            last = error
    if refused == 4:
        raise last


def contents(tmp_path):
    rng = np.random.default_rng(0)
    write_mrc(tmp_path / "a.mrc", rng.normal(size=(4, 5, 6)).astype(np.float32), 1.5, extended=b"e" * 40)
    write_tiff(tmp_path / "a.tif", rng.poisson(2, (3, 20, 20)).astype(np.uint8))
    write_tiff(tmp_path / "d.tif", rng.poisson(2, (3, 20, 20)).astype(np.uint16), compression="deflate")
    events = [np.stack([rng.integers(0, 64, 30), rng.integers(0, 64, 30)], -1) for _ in range(4)]
    write_eer(tmp_path / "a.eer", events, (16, 16), pixel_size=0.8, total_dose_per_pixel=3.0)
    table = np.zeros(3, [("uid", "<u8"), ("blob/path", "S20"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)),
                         ("blob/psize_A", "<f4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"),
                         ("alignments3D/pose", "<f4", (3,)), ("alignments3D/shift", "<f4", (2,)),
                         ("alignments3D/split", "<u4")])  # fmt: skip
    table["blob/path"], table["blob/psize_A"], table["ctf/accel_kv"], table["uid"] = b"a.mrcs", 1.5, 300, (1, 2, 3)
    with (tmp_path / "a.cs").open("wb") as file:
        np.save(file, table)
    (tmp_path / "a.star").write_bytes(STAR)
    return {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def render(path):
    with EerMovie(path, grouping=1) as movie:
        return movie.frames(0, movie.n_frames)


READERS = {
    "a.mrc": read_mrc,
    "a.tif": read_tiff,
    "d.tif": read_tiff,
    "a.eer": render,
    "a.cs": read_cs_particles,
    "a.star": star_reader,
}


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused_in_one_sentence(tmp_path, name):
    content = contents(tmp_path)[name]
    READERS[name](tmp_path / name)  # the file itself is sound
    n_read = attempts(tmp_path / ("x" + name), content, READERS[name], 400)
    assert 10 < n_read < 400


def test_mutated_maps_are_read_or_refused(tmp_path):
    attempts(tmp_path / "x.mrc", contents(tmp_path)["a.mrc"], read_map, 300, seed=3)


def test_a_header_that_claims_terabytes_costs_no_memory(tmp_path):
    write_mrc(tmp_path / "a.mrc", np.zeros((2, 3, 4), np.float32), 1.0)
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    struct.pack_into("<3i", raw, 0, 1 << 20, 1 << 20, 1 << 20)
    (tmp_path / "a.mrc").write_bytes(bytes(raw))
    import gzip

    with gzip.open(tmp_path / "b.mrc.gz", "wb") as file:
        file.write(bytes(raw))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("a.mrc", "b.mrc.gz"):
        with pytest.raises(InputError):
            read_mrc(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def oracle_reads(path):
    """Pixels as mrcfile gives them, or None where it refuses or warns, or does not look: axes that are no axes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with mrcfile.open(path) as mrc:
                axes = sorted(int(mrc.header[name]) for name in ("mapc", "mapr", "maps"))
                return None if mrc.data is None or axes not in ([1, 2, 3], [0, 0, 0]) else np.array(mrc.data)
    except Exception:
        return None


def ours_reads(path):
    """Pixels as we give them and whether the header is faultless, or None where we refuse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            array, header = read_mrc(path)
        return array, not header.problems
    except (InputError, UserWarning):
        return None


def agree(ours, oracle):
    """What mrcfile reads without a warning we read to the same pixels; what it refuses we refuse or call faulty."""
    if oracle is None:
        return ours is None or not ours[1]
    return (
        ours is not None
        and ours[0].size == oracle.size
        and np.array_equal(ours[0], oracle.reshape(ours[0].shape), equal_nan=True)
    )


def test_mrcfile_agrees_on_mutated_headers(tmp_path):
    content = contents(tmp_path)["a.mrc"]
    rng = np.random.default_rng(11)
    agreed, n = 0, 600
    for _ in range(n):
        (tmp_path / "y.mrc").write_bytes(mutate(content, rng))
        agreed += agree(ours_reads(tmp_path / "y.mrc"), oracle_reads(tmp_path / "y.mrc"))
    assert agreed >= 0.995 * n


@pytest.mark.slow
@pytest.mark.capability("PLT-14")
def test_a_million_mutated_files_neither_crash_nor_pass_with_impossible_headers(tmp_path, measure, evidence):
    """A sample per shard (CRYOLOOM_SHARD=i/n); agreement is judged on the modes that mrcfile reads."""
    i, n_shards = evidence.shard
    total = int(os.environ.get("CRYOLOOM_MUTATIONS", "30000"))
    everything = contents(tmp_path)
    per_format = total // (2 * len(READERS))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for k, (name, read) in enumerate(READERS.items()):
        attempts(tmp_path / ("x" + name), everything[name], read, per_format, seed=1000 * i + k)
    rng = np.random.default_rng([i, n_shards, 5])
    agreed = judged = impossible = 0
    for _ in range(total // 2):
        path = tmp_path / "y.mrc"
        path.write_bytes(mutate(everything["a.mrc"], rng))
        ours, oracle = ours_reads(path), oracle_reads(path)
        judged += 1
        if ours is not None and min(ours[0].shape) <= 0:
            impossible += 1
        agreed += agree(ours, oracle)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    evidence.append(files=per_format * len(READERS) + total // 2, agreed=agreed, judged=judged, memory_mb=round(memory))
    cases = evidence.cases()
    files = sum(case["files"] for case in cases)
    agreement = sum(case["agreed"] for case in cases) / sum(case["judged"] for case in cases)
    measure(agreement, unit="agreement with mrcfile", threshold=">= 0.999", note=f"{files} mutated files, no crash")
    assert impossible == 0 and memory < 500
    assert agreement >= 0.999
    assert files >= 1_000_000, f"{files} of 1,000,000 files so far; run more shards"
