"""MRC files against the standard, against mrcfile, and against files that lie."""

import bz2
import gzip
import struct

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.mrc import map_mrc, read_mrc, read_mrc_header, write_mrc

TYPES = [np.int8, np.int16, np.uint16, np.float16, np.float32]


def numbers(shape, dtype, seed=0):
    values = np.random.default_rng(seed).normal(0, 30, shape)
    if np.dtype(dtype).kind == "u":
        values = np.abs(values)
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (2, 7, 6), (8, 8, 8)])
def test_what_is_written_is_read_again_and_mrcfile_agrees(tmp_path, dtype, shape):
    array = numbers(shape, dtype)
    path = tmp_path / "a.mrc"
    write_mrc(path, array, 1.25, kind="volume", origin=(1, 2, 3))
    again, header = read_mrc(path)
    assert again.dtype == dtype and np.array_equal(again, array)
    assert header.pixel_size == pytest.approx(1.25) and header.origin == (1, 2, 3) and header.problems == ()
    with mrcfile.open(path) as oracle:
        assert np.array_equal(oracle.data, array)
        assert oracle.header.ispg == 1 and oracle.voxel_size.x == pytest.approx(1.25)
        assert float(oracle.header.dmean) == pytest.approx(float(array.mean(dtype=np.float64)), rel=1e-5, abs=1e-5)
        assert float(oracle.header.rms) == pytest.approx(float(array.std(dtype=np.float64)), rel=1e-4, abs=1e-4)
    if dtype != np.float16:  # the oracle sums squares in float16, which overflows
        assert mrcfile.validate(path)


def test_a_stack_has_space_group_zero_and_one_section_per_volume(tmp_path):
    write_mrc(tmp_path / "a.mrcs", numbers((3, 4, 4), np.float32), 2.0)
    header = read_mrc_header(tmp_path / "a.mrcs")
    assert header.space_group == 0 and header.sections_per_volume == 1
    with mrcfile.open(tmp_path / "a.mrcs") as oracle:
        assert oracle.is_image_stack()
        assert oracle.voxel_size.z == pytest.approx(2.0)


@pytest.mark.parametrize("dtype", TYPES)
def test_big_endian_files_give_the_same_numbers(tmp_path, dtype):
    array = numbers((2, 3, 5), dtype)
    write_mrc(tmp_path / "little.mrc", array, 1.5, kind="volume")
    raw = bytearray((tmp_path / "little.mrc").read_bytes()[:1024])
    for start, end in ((0, 104), (108, 208), (216, 224)):
        words = np.frombuffer(bytes(raw[start:end]), "<u4")
        raw[start:end] = words.astype(">u4").tobytes()
    raw[212:214] = b"\x11\x11"
    (tmp_path / "big.mrc").write_bytes(bytes(raw) + array.astype(array.dtype.newbyteorder(">")).tobytes())
    again, header = read_mrc(tmp_path / "big.mrc")
    assert header.byte_order == ">" and np.array_equal(again, array) and again.dtype.isnative
    with mrcfile.open(tmp_path / "big.mrc") as oracle:
        assert np.array_equal(oracle.data, array)
    view, _ = map_mrc(tmp_path / "big.mrc")
    assert np.array_equal(view, array)


@pytest.mark.parametrize("nx, ny, nz", [(4, 3, 2), (5, 4, 2), (5, 3, 1), (1, 1, 3)])
def test_four_bit_pixels_take_the_low_half_byte_first(tmp_path, nx, ny, nz):
    array = np.random.default_rng(0).integers(0, 16, (nz, ny, nx), dtype=np.uint8)
    rows = np.concatenate([array, np.zeros((nz, ny, nx % 2), np.uint8)], axis=2)
    packed = rows[..., 0::2] | (rows[..., 1::2] << 4)
    write_mrc(tmp_path / "a.mrc", array.astype(np.int8), 1.0)
    raw = bytearray((tmp_path / "a.mrc").read_bytes()[:1024])
    struct.pack_into("<i", raw, 12, 101)
    (tmp_path / "a.mrc").write_bytes(bytes(raw) + packed.tobytes())
    assert np.array_equal(read_mrc(tmp_path / "a.mrc")[0], array)


def test_four_bit_sections_without_row_padding_are_known_by_their_size(tmp_path):
    array = np.random.default_rng(0).integers(0, 16, (2, 4, 5), dtype=np.uint8)
    flat = array.reshape(2, 20)
    write_mrc(tmp_path / "a.mrc", array.astype(np.int8), 1.0)
    raw = bytearray((tmp_path / "a.mrc").read_bytes()[:1024])
    struct.pack_into("<i", raw, 12, 101)
    (tmp_path / "a.mrc").write_bytes(bytes(raw) + (flat[:, 0::2] | (flat[:, 1::2] << 4)).tobytes())
    assert np.array_equal(read_mrc(tmp_path / "a.mrc")[0], array)


def test_the_extended_header_is_skipped_and_kept(tmp_path):
    array = numbers((2, 3, 4), np.float32)
    write_mrc(tmp_path / "a.mrc", array, 1.0, extended=b"x" * 160, extended_type="FEI1")
    again, header = read_mrc(tmp_path / "a.mrc")
    assert np.array_equal(again, array) and header.extended == b"x" * 160 and header.extended_type == "FEI1"


def test_one_section_of_many_can_be_read_alone(tmp_path):
    array = numbers((9, 4, 6), np.int16)
    write_mrc(tmp_path / "a.mrcs", array, 1.0)
    assert np.array_equal(read_mrc(tmp_path / "a.mrcs", sections=slice(3, 6))[0], array[3:6])


@pytest.mark.parametrize("opener, suffix", [(gzip.open, ".gz"), (bz2.open, ".bz2")])
def test_compressed_files_are_read(tmp_path, opener, suffix):
    array = numbers((3, 4, 5), np.float32)
    write_mrc(tmp_path / "a.mrc", array, 1.0)
    with opener(tmp_path / f"a.mrc{suffix}", "wb") as file:
        file.write((tmp_path / "a.mrc").read_bytes())
    assert np.array_equal(read_mrc(tmp_path / f"a.mrc{suffix}")[0], array)
    damaged = (tmp_path / f"a.mrc{suffix}").read_bytes()[:-20]
    (tmp_path / f"b.mrc{suffix}").write_bytes(damaged)
    with pytest.raises(InputError):
        read_mrc(tmp_path / f"b.mrc{suffix}")


def without_version(path):
    raw = bytearray(path.read_bytes())
    raw[108:112] = bytes(4)
    path.write_bytes(bytes(raw))


def test_unsigned_bytes_in_mode_0_are_found_by_their_histogram(tmp_path):
    counts = np.random.default_rng(0).poisson(130, (1, 64, 64)).astype(np.uint8)
    write_mrc(tmp_path / "a.mrc", counts.view(np.int8), 1.0)
    assert np.array_equal(read_mrc(tmp_path / "a.mrc")[0], counts.view(np.int8))  # the standard of 2014: signed
    without_version(tmp_path / "a.mrc")
    with pytest.warns(UserWarning, match="unsigned"):
        again, _ = read_mrc(tmp_path / "a.mrc")
    assert np.array_equal(again, counts)
    signed = np.random.default_rng(0).normal(0, 20, (1, 64, 64)).astype(np.int8)
    write_mrc(tmp_path / "b.mrc", signed, 1.0)
    without_version(tmp_path / "b.mrc")
    assert np.array_equal(read_mrc(tmp_path / "b.mrc")[0], signed)


@pytest.mark.parametrize("flag, dtype", [(0, np.uint8), (1, np.int8)])
def test_the_flag_of_imod_decides_the_sign_of_bytes(tmp_path, flag, dtype):
    values = np.arange(-60, 60, dtype=np.int8).reshape(1, 10, 12)
    write_mrc(tmp_path / "a.mrc", values, 1.0)
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    struct.pack_into("<2i", raw, 152, 1146047817, flag)
    (tmp_path / "a.mrc").write_bytes(bytes(raw))
    assert np.array_equal(read_mrc(tmp_path / "a.mrc")[0], values.view(dtype))


def changed(tmp_path, at, new, array=None):
    write_mrc(tmp_path / "a.mrc", numbers((3, 4, 5), np.float32) if array is None else array, 1.0, kind="volume")
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    raw[at : at + len(new)] = new
    (tmp_path / "a.mrc").write_bytes(bytes(raw))
    return tmp_path / "a.mrc"


@pytest.mark.parametrize(
    "at, new, words",
    [
        (212, b"\x37\x12\x00\x00", "unknown machine stamp 37 12"),
        (212, b"\x11\x11\x00\x00", "the other byte order"),
        (12, struct.pack("<i", 3), "complex"),
        (12, struct.pack("<i", 4), "complex"),
        (12, struct.pack("<i", 7), "unknown MRC mode 7"),
        (0, struct.pack("<i", -5), "impossible size"),
        (8, struct.pack("<i", 0), "impossible size"),
        (8, struct.pack("<i", 4), "cut short"),
        (92, struct.pack("<i", 10**6), "extended header"),
        (92, struct.pack("<i", -80), "extended header"),
        (64, struct.pack("<3i", 1, 1, 2), "permutation"),
    ],
)
def test_an_impossible_header_is_refused_in_one_sentence(tmp_path, at, new, words):
    path = changed(tmp_path, at, new)
    with pytest.raises(InputError, match=words) as caught:
        read_mrc(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_the_word_map_is_read_if_its_size_proves_it(tmp_path):
    path = changed(tmp_path, 208, bytes(8))
    array, header = read_mrc(path)
    assert array.shape == (3, 4, 5) and len(header.problems) == 2
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError):
        read_mrc(path)


@pytest.mark.parametrize("n", [0, 1, 500, 1023, 1024, 1100])
def test_a_truncated_file_is_refused(tmp_path, n):
    write_mrc(tmp_path / "a.mrc", numbers((3, 4, 5), np.float32), 1.0)
    (tmp_path / "b.mrc").write_bytes((tmp_path / "a.mrc").read_bytes()[:n])
    with pytest.raises(InputError, match="b.mrc"):
        read_mrc(tmp_path / "b.mrc")


def test_tolerance_keeps_the_whole_sections_of_a_truncated_file(tmp_path):
    array = numbers((3, 4, 5), np.float32)
    write_mrc(tmp_path / "a.mrcs", array, 1.0)
    (tmp_path / "a.mrcs").write_bytes((tmp_path / "a.mrcs").read_bytes()[:-3])
    again, header = read_mrc(tmp_path / "a.mrcs", tolerant=True)
    assert np.array_equal(again, array[:2]) and header.shape[0] == 2 and header.problems


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "none.mrc", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            read_mrc(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_mrc(tmp_path / "a.mrc", numbers((2, 3, 4), np.float32), 1.0)
    before = (tmp_path / "a.mrc").read_bytes()
    with pytest.raises(ValueError):
        write_mrc(tmp_path / "a.mrc", np.zeros((2, 3, 4), np.complex64), 1.0)
    assert (tmp_path / "a.mrc").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.mrc"]


@pytest.mark.parametrize("axes", [(1, 2, 3), (2, 1, 3), (3, 2, 1), (2, 3, 1), (3, 1, 2), (1, 3, 2)])
def test_a_map_comes_in_the_order_zyx_whatever_the_axes_of_the_file(tmp_path, axes):
    truth = numbers((4, 5, 6), np.float32)  # z, y, x
    # sections, rows, columns of the file run along axes[2], axes[1], axes[0] (1 x, 2 y, 3 z)
    stored = truth.transpose([3 - axes[2], 3 - axes[1], 3 - axes[0]])
    write_mrc(tmp_path / "a.mrc", stored, 1.5, kind="volume")
    raw = bytearray((tmp_path / "a.mrc").read_bytes())
    struct.pack_into("<3i", raw, 28, 6, 5, 4)
    struct.pack_into("<3f", raw, 40, 9.0, 7.5, 6.0)
    struct.pack_into("<3i", raw, 64, *axes)
    (tmp_path / "a.mrc").write_bytes(bytes(raw))
    volume = read_map(tmp_path / "a.mrc")
    assert np.array_equal(volume.data, truth) and volume.pixel_size == 1.5


def test_a_map_keeps_pixel_size_and_origin(tmp_path):
    volume = VolumeMap(numbers((4, 5, 6), np.float32), 1.06, origin=(-3.5, 2.0, 7.25))
    write_map(volume, tmp_path / "a.mrc")
    again = read_map(tmp_path / "a.mrc")
    assert np.array_equal(again.data, volume.data) and again.pixel_size == 1.06 and again.origin == volume.origin


def test_the_grid_start_is_the_origin_where_none_is_given(real_data):
    volume = read_map(real_data / "EMD-3197.map")
    assert volume.data.shape == (20, 20, 20) and volume.pixel_size == pytest.approx(11.4)
    assert volume.origin == pytest.approx((-22.8, 0, 0))
    with mrcfile.open(real_data / "EMD-3197.map") as oracle:
        assert np.array_equal(oracle.data, volume.data)


def test_maps_that_are_no_maps_are_refused(tmp_path):
    write_mrc(tmp_path / "image.mrc", np.ones((4, 4), np.float32), 1.0)
    with pytest.raises(InputError, match="one image"):
        read_map(tmp_path / "image.mrc")
    data = np.ones((4, 4, 4), np.float32)
    write_mrc(tmp_path / "box.mrc", data, (1.0, 1.0, 2.0), kind="volume")
    with pytest.raises(InputError, match="cubes"):
        read_map(tmp_path / "box.mrc")
    write_mrc(tmp_path / "zero.mrc", data, 0.0, kind="volume")
    with pytest.raises(InputError, match="no voxel size"):
        read_map(tmp_path / "zero.mrc")
    assert read_map(tmp_path / "zero.mrc", pixel_size=2.0).pixel_size == 2.0
    data[1, 1, 1] = np.nan
    write_mrc(tmp_path / "nan.mrc", data, 1.0, kind="volume")
    with pytest.raises(InputError, match="NaN"):
        read_map(tmp_path / "nan.mrc")


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7)),
    st.sampled_from(TYPES),
    st.floats(0.1, 50),
    st.binary(max_size=64),
)
def test_any_array_survives_a_round_trip(tmp_path_factory, shape, dtype, pixel_size, extended):
    path = tmp_path_factory.mktemp("mrc") / "a.mrc"
    array = numbers(shape, dtype, seed=len(extended))
    write_mrc(path, array, pixel_size, extended=extended, extended_type="TEST")
    again, header = read_mrc(path)
    assert np.array_equal(again, array) and header.extended == extended
    assert header.voxel_size[1] == pytest.approx(pixel_size, rel=1e-6)


def test_every_public_file_gives_the_pixels_that_mrcfile_gives(shared_data):
    files = [p for p in sorted(shared_data.rglob("*.m[ra][cp]*")) if p.is_file()]
    assert len(files) > 20
    for path in files:
        array, _ = read_mrc(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *a, **k: None)
            with mrcfile.open(path, permissive=True) as oracle:
                assert np.array_equal(np.asarray(oracle.data).reshape(array.shape), array), path.name
