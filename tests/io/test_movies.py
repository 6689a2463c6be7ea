"""TIFF, MRC and EER movies behind one face; gain references in every orientation."""

import bz2
import gzip

import numpy as np
import pytest
import tifffile

from cryoloom.contract import InputError
from cryoloom.data import MovieSet, Optics
from cryoloom.importing.inspection import guess_kind
from cryoloom.io.gain import ORIENTATIONS, orient, read_defects, read_gain
from cryoloom.io.images import image_shape, read_images, read_micrograph
from cryoloom.io.movies import movie_stem, open_movie, open_movie_of
from cryoloom.io.mrc import write_mrc
from cryoloom.io.tiff import read_tiff, write_tiff
from cryoloom.pipeline.watch import _is_whole


def counts(n=5, h=12, w=17, dtype=np.uint8):
    return np.random.default_rng(0).poisson(3, (n, h, w)).astype(dtype)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_tiff_movies_of_any_kind_are_read(tmp_path, compression, dtype):
    truth = counts(dtype=dtype)
    write_tiff(tmp_path / "a.tif", truth, compression=compression)
    with open_movie(tmp_path / "a.tif") as movie:
        assert movie.n_frames == 5 and movie.shape == (12, 17) and movie.dtype == dtype and movie.n_dropped == 0
        assert np.array_equal(movie.frames(1, 4), truth[1:4]) and movie.frames(0, 1).dtype == dtype
        assert movie.frames(2, 2).shape == (0, 12, 17)
        with pytest.raises(ValueError, match="frames"):
            movie.frames(4, 6)


def test_the_same_movie_as_mrc_and_as_tiff_has_the_same_rows(tmp_path):
    """A TIFF is flipped along the slow axis on reading, whatever its orientation tag says."""
    truth = counts(dtype=np.int16)
    write_mrc(tmp_path / "a.mrcs", truth, 1.0)
    tifffile.imwrite(tmp_path / "a.tif", truth[:, ::-1], photometric="minisblack", metadata=None)
    tifffile.imwrite(
        tmp_path / "b.tif", truth[:, ::-1], photometric="minisblack", metadata=None, extratags=[(274, 3, 1, 4, True)]
    )
    for name in ("a.mrcs", "a.tif", "b.tif"):
        with open_movie(tmp_path / name) as movie:
            assert np.array_equal(movie.frames(0, 5), truth), name


@pytest.mark.parametrize("name, pack", [("a.mrc.gz", gzip.compress), ("a.x.mrcs.bz2", bz2.compress)])
def test_packed_movies_are_read_and_torn_ones_are_not_complete(tmp_path, name, pack):
    truth = counts(dtype=np.int16)
    write_mrc(tmp_path / "a.mrcs", truth, 1.0)
    packed = pack((tmp_path / "a.mrcs").read_bytes())
    (tmp_path / name).write_bytes(packed)
    with open_movie(tmp_path / name) as movie:
        assert movie.n_frames == 5 and movie.shape == (12, 17) and movie.pixel_size == 1.0
        assert np.array_equal(movie.frames(1, 4), truth[1:4])
    assert movie_stem(tmp_path / name) == name.rpartition(".mrc")[0] and movie_stem("b.1.tif") == "b.1"
    assert guess_kind(tmp_path / name) == "movies" and _is_whole(tmp_path / name)
    (tmp_path / name).write_bytes(packed[:-40])
    assert not _is_whole(tmp_path / name)
    with pytest.raises(InputError, match="cut short|damaged"), open_movie(tmp_path / name) as movie:
        movie.frames(0, 5)
    with pytest.raises(InputError, match="unknown movie format"):
        open_movie(tmp_path / "a.tif.gz")


def test_a_micrograph_of_the_same_rows_comes_from_both_formats(tmp_path):
    truth = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    write_mrc(tmp_path / "a.mrc", truth, 1.0)
    write_tiff(tmp_path / "a.tif", truth)
    for name in ("a.mrc", "a.tif"):
        assert np.array_equal(read_images(tmp_path / name), truth)
        assert np.array_equal(read_micrograph(tmp_path / name), truth) and image_shape(tmp_path / name) == (9, 7)


def test_the_manual_picks_of_the_real_micrograph_show_particles_in_this_row_order_only(real_data):
    from cryoloom.io.records import read_picks

    image = read_micrograph(real_data / "May08_03.05.02.tif")
    assert image.shape == (1200, 1240) and image.min() == 0 and image.max() == 65535
    picks = np.round(read_picks(real_data / "May08_03.05.02_manual.star").position_px).astype(int)
    inside = picks[((picks > 50) & (picks < np.array([1150, 1190]))).all(axis=1)]
    assert len(inside) > 100

    def relief(picture):
        """Spread of the average patch: high where the patches show the same thing."""
        return np.mean([picture[y - 50 : y + 50, x - 50 : x + 50] for y, x in inside], axis=0).std()

    image = image - image.mean()
    here, flipped, mirrored = relief(image), relief(image[::-1]), relief(image[:, ::-1])
    assert here > 1.5 * flipped and here > 1.5 * mirrored  # those are at the noise of the average


def test_multipage_tiffs_of_different_shapes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(np.zeros((4, 5), np.uint8), metadata=None, contiguous=False)
        tiff.write(np.zeros((5, 5), np.uint8), metadata=None, contiguous=False)
    with pytest.raises(InputError, match="frame 2"):
        open_movie(tmp_path / "a.tif")


def test_colour_tiffs_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match="grey images"):
        read_tiff(tmp_path / "a.tif")


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.9])
def test_truncated_tiffs_are_refused(tmp_path, keep):
    write_tiff(tmp_path / "a.tif", counts(20), compression=None)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(InputError, match=r"a\.tif"):
        read_tiff(tmp_path / "a.tif")


@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_movie_cut_between_two_frames_does_not_pass_as_a_shorter_one(tmp_path, bigtiff):
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=bigtiff) as tiff:
        for frame in counts(6):
            tiff.write(frame, metadata=None, contiguous=False)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        starts = [page.offset for page in tiff.pages]
        ends = [page.dataoffsets[0] + page.databytecounts[0] for page in tiff.pages]
    data = (tmp_path / "a.tif").read_bytes()
    for cut in (*starts[1:], *ends[:-1]):
        (tmp_path / "b.tif").write_bytes(data[:cut])
        with pytest.raises(InputError, match="cut short|directories"):
            open_movie(tmp_path / "b.tif")


def test_damaged_compressed_pixels_are_refused_with_the_frame(tmp_path):
    write_tiff(tmp_path / "a.tif", counts(3, 64, 64), compression="deflate")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset = tiff.pages[1].dataoffsets[0]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[offset : offset + 40] = bytes(40)
    (tmp_path / "a.tif").write_bytes(bytes(data))
    with pytest.raises(InputError, match="frame 2 of 3"):
        read_tiff(tmp_path / "a.tif")


def test_wrong_suffixes_and_contents_are_named(tmp_path):
    (tmp_path / "a.avi").write_bytes(b"x")
    with pytest.raises(InputError, match="unknown movie format"):
        open_movie(tmp_path / "a.avi")
    with pytest.raises(InputError, match="unknown image format"):
        read_images(tmp_path / "a.avi")
    write_tiff(tmp_path / "a.tif", counts())
    (tmp_path / "a.mrc").write_bytes((tmp_path / "a.tif").read_bytes())
    with pytest.raises(InputError, match="TIFF file, not MRC"):
        open_movie(tmp_path / "a.mrc")
    write_mrc(tmp_path / "b.tif", np.zeros((2, 3, 3), np.int16), 1.0)
    with pytest.raises(InputError, match="not a TIFF file"):
        open_movie(tmp_path / "b.tif")
    with pytest.raises(InputError, match="no such file"):
        open_movie(tmp_path / "none.tif")


def test_a_set_remembers_how_eer_files_are_rendered(tmp_path):
    from cryoloom.io.eer_writer import write_eer

    write_eer(tmp_path / "a.eer", [np.zeros((1, 2), int)] * 10, (8, 8))
    movies = MovieSet(
        path=np.array([str(tmp_path / "a.eer")]), optics=(Optics(),), optics_index=np.zeros(1, int),
        extra={"eer_grouping": np.array([4]), "eer_upsampling": np.array([2])},
    )  # fmt: skip
    with open_movie_of(movies, 0) as movie:
        assert movie.n_frames == 2 and movie.n_dropped == 2 and movie.shape == (16, 16)


def test_the_eight_orientations_differ_and_turn_as_relion_says():
    image = np.arange(6).reshape(2, 3)
    assert len({orient(image, r, f).tobytes() + bytes(orient(image, r, f).shape) for r, f in ORIENTATIONS}) == 8
    # 90 degrees clockwise with row 0 on top: the first column, read upwards, becomes the first row
    assert orient(image, 1).tolist() == [[3, 0], [4, 1], [5, 2]]
    assert orient(image, 0, 1).tolist() == [[3, 4, 5], [0, 1, 2]]
    assert orient(image, 0, 2).tolist() == [[2, 1, 0], [5, 4, 3]]


@pytest.mark.parametrize("rotation, flip", ORIENTATIONS)
def test_a_gain_reference_in_any_orientation_flattens_the_frame(tmp_path, rotation, flip):
    truth = np.random.default_rng(0).uniform(0.5, 1.5, (8, 8)).astype(np.float32)
    truth[2, 3] = 0
    stored = next(s for r, f in ORIENTATIONS if np.array_equal(orient(s := orient(truth, r, f), rotation, flip), truth))
    write_mrc(tmp_path / "g.mrc", np.ascontiguousarray(stored), 1.0)
    factor = read_gain(tmp_path / "g.mrc", (8, 8), rotation=rotation, flip=flip)
    assert factor.dtype == np.float32 and np.array_equal(factor, truth)


def test_dividing_and_multiplying_references_agree_up_to_scale(tmp_path):
    truth = np.random.default_rng(0).uniform(0.5, 1.5, (8, 9)).astype(np.float32)
    truth[1, 2] = 0
    inverse = np.where(truth > 0, 1 / np.where(truth > 0, truth, 1), 0).astype(np.float32)
    write_mrc(tmp_path / "g.mrc", inverse, 1.0)
    factor = read_gain(tmp_path / "g.mrc", (8, 9), divide=True)
    assert factor[1, 2] == 0
    np.testing.assert_allclose(factor / factor.mean(), truth / truth.mean(), rtol=1e-5)


def test_the_rules_for_eer_references(tmp_path):
    """MRC references divide; `.gain` files multiply and, like EER frames, are not flipped (RELION's rules)."""
    truth = np.random.default_rng(0).uniform(0.5, 1.5, (8, 8)).astype(np.float32)
    write_mrc(tmp_path / "g.mrc", truth, 1.0)
    factor = read_gain(tmp_path / "g.mrc", (8, 8), eer=True)
    np.testing.assert_allclose(factor, truth.mean() / truth, rtol=1e-5)
    tifffile.imwrite(tmp_path / "g.gain", truth, photometric="minisblack")
    np.testing.assert_array_equal(read_gain(tmp_path / "g.gain", (8, 8), eer=True), truth)
    np.testing.assert_array_equal(read_gain(tmp_path / "g.gain", (8, 8)), truth[::-1])
    assert read_gain(tmp_path / "g.gain", (16, 16), eer=True)[2:4, 4:6].tolist() == [[truth[1, 2]] * 2] * 2
    half = read_gain(tmp_path / "g.gain", (4, 4), eer=True)
    np.testing.assert_allclose(half[1, 2], truth[2:4, 4:6].mean(), rtol=1e-6)


def test_a_reference_of_twice_or_half_the_size_is_brought_to_the_frames(tmp_path):
    """Frames of a detector in super-resolution, and its reference without, or the other way round."""
    truth = np.random.default_rng(0).uniform(0.5, 1.5, (8, 6)).astype(np.float32)
    truth[2, 3] = 0
    write_mrc(tmp_path / "g.mrc", truth, 1.0)
    np.testing.assert_array_equal(read_gain(tmp_path / "g.mrc", (16, 12))[::2, 1::2], truth)
    half = read_gain(tmp_path / "g.mrc", (4, 3))
    assert half[1, 1] == 0 and half[3, 2] == pytest.approx(truth[6:, 4:].mean())


def test_references_that_cannot_be_right_are_refused(tmp_path):
    def write(array):
        write_mrc(tmp_path / "g.mrc", np.asarray(array, np.float32), 1.0)
        return tmp_path / "g.mrc"

    with pytest.raises(InputError, match="zero everywhere"):
        read_gain(write(np.zeros((4, 4))), (4, 4))
    with pytest.raises(InputError, match="NaN"):
        read_gain(write(np.full((4, 4), np.nan)), (4, 4))
    with pytest.raises(InputError, match="negative"):
        read_gain(write(-np.ones((4, 4))), (4, 4))
    with pytest.raises(InputError, match="turn it by 90 degrees"):
        read_gain(write(np.ones((4, 6))), (6, 4))
    with pytest.raises(InputError, match="gain reference of 4 x 4 pixels, the frames have 6 x 5"):
        read_gain(write(np.ones((4, 4))), (5, 6))
    with pytest.raises(InputError, match="dm4"):
        read_gain(tmp_path / "g.dm4", (4, 4))


def test_defects_come_from_an_image_or_a_list(tmp_path):
    (tmp_path / "d.txt").write_text("# boxes\n2 1 3 2\n\n9 9 5 5\n")
    defects = read_defects(tmp_path / "d.txt", (10, 10))
    assert np.argwhere(defects).tolist() == [[1, 2], [1, 3], [1, 4], [2, 2], [2, 3], [2, 4], [9, 9]]
    write_mrc(tmp_path / "d.mrc", defects.astype(np.int8), 1.0)
    assert np.array_equal(read_defects(tmp_path / "d.mrc", (10, 10)), defects)
    with pytest.raises(InputError, match="shape"):
        read_defects(tmp_path / "d.mrc", (10, 12))
    (tmp_path / "d.txt").write_text("1 2 3\n")
    with pytest.raises(InputError, match="line 1"):
        read_defects(tmp_path / "d.txt", (10, 10))
