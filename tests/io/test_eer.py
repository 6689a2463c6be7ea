"""EER: every electron is counted once, at its place, and lists that end wrongly are found."""

import shutil
import subprocess
import time

import imagecodecs
import numpy as np
import pytest
import tifffile

from cryoloom.contract import InputError
from cryoloom.io import eer_writer
from cryoloom.io.eer import EerMovie, _render
from cryoloom.io.eer_writer import encode_frame, write_eer
from cryoloom.io.tiff import read_tiff

SHAPE = (24, 40)


def electrons(n, seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    pixel = rng.choice(shape[0] * shape[1], n, replace=False)
    return np.stack(
        [4 * (pixel // shape[1]) + rng.integers(0, 4, n), 4 * (pixel % shape[1]) + rng.integers(0, 4, n)], -1
    )


FRAMES = [electrons(n, seed) for seed, n in enumerate((30, 0, 500, 960, 1, 7, 100))]


@pytest.mark.parametrize("compression", [65000, 65001])
@pytest.mark.parametrize("upsampling", [1, 2, 4])
def test_each_electron_is_counted_at_its_place(tmp_path, compression, upsampling):
    n = write_eer(tmp_path / "a.eer", FRAMES, SHAPE, compression=compression)
    assert n == sum(len(f) for f in FRAMES)
    with EerMovie(tmp_path / "a.eer", grouping=1, upsampling=upsampling) as movie:
        rendered = movie.frames(0, 7)
        assert movie.n_unclosed == 0 and movie.n_frames == 7 and rendered.dtype == np.uint8
    for frame, image in zip(FRAMES, rendered, strict=True):
        expected = np.zeros((SHAPE[0] * upsampling, SHAPE[1] * upsampling), int)
        np.add.at(expected, tuple((frame * upsampling // 4).T), 1)
        assert np.array_equal(image, expected)


@pytest.mark.parametrize("grouping, groups, dropped", [(1, 7, 0), (2, 3, 1), (3, 2, 1), (5, 1, 2), (7, 1, 0)])
def test_groups_conserve_the_count_and_report_the_rest(tmp_path, grouping, groups, dropped):
    write_eer(tmp_path / "a.eer", FRAMES, SHAPE)
    with EerMovie(tmp_path / "a.eer", grouping=grouping) as movie:
        assert (movie.n_frames, movie.n_dropped) == (groups, dropped)
        assert movie.frames(0, groups).sum() == sum(len(f) for f in FRAMES[: groups * grouping])
        singles = EerMovie(tmp_path / "a.eer", grouping=1).frames(0, 7)
        for i in range(groups):
            assert np.array_equal(movie.frames(i, i + 1)[0], singles[i * grouping : (i + 1) * grouping].sum(0))


@pytest.mark.parametrize("compression, run_bits", [(65000, 8), (65001, 7)])
@pytest.mark.parametrize("upsampling", [1, 2, 4])
def test_imagecodecs_and_eerfile_agree(tmp_path, compression, run_bits, upsampling):
    import eerfile

    write_eer(tmp_path / "a.eer", FRAMES[2:4], SHAPE, compression=compression)
    rendered = EerMovie(tmp_path / "a.eer", grouping=1, upsampling=upsampling).frames(0, 2)
    for frame, image in zip(FRAMES[2:4], rendered, strict=True):
        data, _ = encode_frame(frame, SHAPE, run_bits)
        oracle = np.zeros_like(image)
        imagecodecs.eer_decode(
            data + bytes(len(data) % 2), oracle.shape, run_bits, 2, 2, superres=upsampling // 2, out=oracle
        )
        assert np.array_equal(image, oracle)
    if upsampling == 1:
        with pytest.MonkeyPatch.context() as patch:
            decode = imagecodecs.eer_decode
            patch.setattr(imagecodecs, "eer_decode", lambda d, *a, **k: decode(bytes(d) + bytes(len(d) % 2), *a, **k))
            oracle = eerfile.read(tmp_path / "a.eer")
        assert np.array_equal(oracle.astype(int), rendered)


@pytest.mark.parametrize("wasteful", [False, True])
def test_runs_of_8_bits_are_read_in_either_way_of_going_on(tmp_path, monkeypatch, wasteful):
    """Prototype cameras wrote a place behind a run that goes on, the format's description has none."""
    encode = eer_writer._encode
    if not wasteful:
        monkeypatch.setattr(eer_writer, "_encode", lambda *a: encode(*a[:4], a[3], a[5]))
    frames = [electrons(n, seed, (60, 90)) for seed, n in enumerate((3, 40, 0, 9, 200, 1))]
    write_eer(tmp_path / "a.eer", frames, (60, 90), compression=65000)
    with EerMovie(tmp_path / "a.eer", grouping=1) as movie:
        images = movie.frames(0, 6)
        assert movie.n_unclosed == 0
    for frame, image in zip(frames, images, strict=True):
        expected = np.zeros((60, 90), int)
        np.add.at(expected, tuple((frame // 4).T), 1)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.slow
@pytest.mark.parametrize("compression, upsampling", [(65001, 1), (65000, 2)])
def test_relion_renders_the_same_frames(tmp_path, compression, upsampling):
    """RELION reads detectors of 4096² only. It writes TIFFs upside down, which reading them turns back."""
    program = shutil.which("relion_convert_to_tiff")
    if program is None:
        pytest.skip("RELION is not installed")
    frames = [electrons(20_000, seed, (4096, 4096)) for seed in range(5)]
    write_eer(tmp_path / "a.eer", frames, (4096, 4096), compression=compression)
    subprocess.run(
        [program, "--i", str(tmp_path / "a.eer"), "--o", "out/", "--eer_grouping", "2", "--eer_upsampling",
         str(upsampling)],
        check=True, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    theirs = read_tiff(next((tmp_path / "out").rglob("a.tif")))
    ours = EerMovie(tmp_path / "a.eer", grouping=2, upsampling=upsampling).frames(0, 2)
    assert ours.sum() == 80_000
    np.testing.assert_array_equal(ours, theirs[:2])


def test_metadata_give_exposure_and_pixel_size(tmp_path):
    write_eer(tmp_path / "a.eer", FRAMES, SHAPE, pixel_size=0.8, total_dose_per_pixel=19.2)
    header = EerMovie(tmp_path / "a.eer").header
    assert header.pixel_size == pytest.approx(0.8) and header.exposure == pytest.approx(30.0)
    assert EerMovie(tmp_path / "a.eer", upsampling=2).pixel_size == pytest.approx(0.4)


def rewrite(path, change):
    """Rewrite the list of the last raw frame, which is stored last before the directories."""
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[-1].dataoffsets[0], tiff.pages[-1].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = change(bytes(data[offset : offset + count])).ljust(count, b"\0")[:count]
    path.write_bytes(bytes(data))


def bits_of(data):
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def test_a_list_without_its_closing_run_keeps_its_electrons(tmp_path):
    """The last event is neither lost nor joined by one made of padding; the frame is counted as unclosed."""
    shape = (8, 8)
    frame = np.array([[4 * y + 1, 4 * x + 3] for y, x in ((0, 5), (3, 2), (6, 7))])
    write_eer(tmp_path / "a.eer", [frame], shape)
    closed, _ = encode_frame(frame, shape)

    def drop_closing_run(data):
        bits = bits_of(closed)[: 3 * 11]
        return np.packbits(bits, bitorder="little").tobytes()

    rewrite(tmp_path / "a.eer", drop_closing_run)
    movie = EerMovie(tmp_path / "a.eer", grouping=1)
    image = movie.frames(0, 1)[0]
    assert np.argwhere(image).tolist() == [[0, 5], [3, 2], [6, 7]] and image.sum() == 3 and movie.n_unclosed == 1


def test_lists_that_run_over_the_last_pixel_are_refused(tmp_path):
    write_eer(tmp_path / "a.eer", [electrons(100)], SHAPE)
    rewrite(tmp_path / "a.eer", lambda data: b"\xff" * 3 + b"\x7e" * (len(data) - 3))
    with pytest.raises(InputError, match="raw frame 1 of 1: electrons beyond the last pixel"):
        EerMovie(tmp_path / "a.eer", grouping=1).frames(0, 1)


def test_truncated_and_foreign_files_are_refused(tmp_path):
    write_eer(tmp_path / "a.eer", FRAMES, SHAPE)
    data = (tmp_path / "a.eer").read_bytes()
    for keep in (0, 10, len(data) // 3, len(data) - 30):
        (tmp_path / "b.eer").write_bytes(data[:keep])
        with pytest.raises(InputError, match=r"b\.eer"):
            EerMovie(tmp_path / "b.eer").frames(0, 1)
    tifffile.imwrite(tmp_path / "c.eer", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="no EER movie"):
        EerMovie(tmp_path / "c.eer")
    with pytest.raises(InputError, match="fewer than one group"):
        EerMovie(tmp_path / "a.eer", grouping=8)


@pytest.mark.parametrize("bits", [(5, 2, 2), (7, 2, 2), (8, 4, 4), (12, 4, 4), (8, 0, 0)])
@pytest.mark.parametrize("upsampling", [1, 2, 4])
@pytest.mark.parametrize("wasteful", [False, True])
def test_codes_of_all_widths_are_read(bits, upsampling, wasteful):
    """65002 lets a file choose the bits of runs and places; lists are packed here bit by bit, low bits first."""
    run_bits, x_bits, y_bits = bits
    more = sum(bits) if wasteful else run_bits
    rng = np.random.default_rng(3)
    shape = (40, 300)
    longest = (1 << run_bits) - 1
    expected = np.zeros((shape[0] * upsampling, shape[1] * upsampling), int)
    lists = []
    for n in (0, 1, 40, 3_000, 12_000):
        stream, length, at = 0, 0, 0
        for pixel in np.sort(rng.choice(12_000, n, replace=False)).tolist():
            gap = pixel - at
            while gap >= longest:
                stream, length, gap = stream | longest << length, length + more, gap - longest
            x, y = int(rng.integers(1 << x_bits)), int(rng.integers(1 << y_bits))
            code = gap | (x ^ (1 << x_bits) >> 1) << run_bits | (y ^ (1 << y_bits) >> 1) << (run_bits + x_bits)
            stream, length, at = stream | code << length, length + run_bits + x_bits + y_bits, pixel + 1
            row, column = pixel // 300 * upsampling, pixel % 300 * upsampling
            expected[row + (y * upsampling >> y_bits), column + (x * upsampling >> x_bits)] += 1
        gap = 12_000 - at
        while gap >= longest:
            stream, length, gap = stream | longest << length, length + more, gap - longest
        stream, length = stream | gap << length, length + run_bits
        lists.append(stream.to_bytes(-(-length // 8), "little"))
    sizes = np.array([len(part) for part in lists])
    room = -(-sizes // 8) + 2
    start = np.cumsum(room) - room
    words = np.zeros(room.sum(), "<u8")
    for part, first in zip(lists, start, strict=True):
        words.view(np.uint8)[8 * first : 8 * first + len(part)] = np.frombuffer(part, np.uint8)
    image = np.full(expected.shape, 7, np.uint8)
    events, state = _render(words, start, sizes, *bits, more, *shape, upsampling, image)
    assert events.tolist() == [0, 1, 40, 3_000, 12_000] and not state.any()
    np.testing.assert_array_equal(image, expected)


@pytest.mark.slow
@pytest.mark.capability("MOT-9")
def test_a_thousand_4k_frames_are_counted_exactly_and_fast(tmp_path, measure, monkeypatch):
    """One core: time of this thread only. 0.01 electrons per pixel and raw frame; 20 lists, each 50 times."""
    shape, rng = (4096, 4096), np.random.default_rng(9)
    lists = []
    for _ in range(20):
        pixel = rng.choice(shape[0] * shape[1], 167_000, replace=False)
        place = rng.integers(0, 4, (len(pixel), 2))
        lists.append(4 * np.stack([pixel // shape[1], pixel % shape[1]], -1) + place)
    encoded = {id(events): encode_frame(events, shape) for events in lists}
    monkeypatch.setattr("cryoloom.io.eer_writer.encode_frame", lambda events, *_: encoded[id(events)])
    n = write_eer(tmp_path / "a.eer", [lists[i % 20] for i in range(1000)], shape)
    size = (tmp_path / "a.eer").stat().st_size
    for grouping in (500, 25):  # reads the file once, and compiles for frames of 2 bytes and of 1
        EerMovie(tmp_path / "a.eer", grouping=grouping).frames(0, 1)
    speeds, with_sums = {}, {}
    for grouping, upsampling in ((25, 1), (8, 1), (100, 1), (25, 2), (100, 2), (100, 4)):
        counted, spent, summing = 0, 0.0, 0.0
        n_frames = 1000 // grouping if upsampling < 4 else 3
        at_once = max(1, (1 << 28) // (4096 * upsampling) ** 2)  # frames in 256 MB of fresh memory
        with EerMovie(tmp_path / "a.eer", grouping=grouping, upsampling=upsampling) as movie:
            for first in range(0, n_frames, at_once):
                begun = time.thread_time()
                images = movie.frames(first, min(first + at_once, n_frames))
                spent += time.thread_time() - begun
                counted += sum(int(image.sum(dtype=np.int64)) for image in images)
                summing += time.thread_time() - begun
                del images
            assert movie.n_dropped == 0 and movie.n_unclosed == 0
        share = n_frames * grouping / 1000
        assert counted == share * n == share * 1000 * 167_000
        speeds[grouping, upsampling] = share * size / spent / 1e6
        with_sums[grouping, upsampling] = share * size / summing / 1e6
    slowest = min(speeds, key=speeds.__getitem__)
    listed = ", ".join(f"{g} at {u}x: {speeds[g, u]:.0f} ({with_sums[g, u]:.0f})" for g, u in speeds)
    measure(
        speeds[slowest],
        unit="MB/s per core",
        threshold=">= 200",
        note=f"the slowest of {len(speeds)} settings; bytes of the compressed file ({size / 1e6:.0f} MB, 4096² x 1000 "
        f"raw frames, {n} electrons, all counted), frames in fresh memory; grouping at upsampling: MB/s (with NumPy's "
        f"sum of every frame): {listed}",
    )
    assert speeds[slowest] >= 200
