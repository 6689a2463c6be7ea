"""Stacks and particle images: any order, any type, one thread ahead, and plain refusals."""

import threading

import mrcfile
import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.data import Optics, ParticleSet
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.particles import ParticleImages
from cryoloom.io.stack import MrcStack, StackWriter


def images_of(n, h=6, w=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, h, w)).astype(np.float32)


def make_set(tmp_path, counts=(5, 3, 8), dtypes=(np.float32, np.float16, np.float32), box=6):
    truth, paths, index = [], [], []
    for k, (n, dtype) in enumerate(zip(counts, dtypes, strict=True)):
        stack = images_of(n, box, box, seed=k).astype(dtype)
        write_mrc(tmp_path / f"s{k}.mrcs", stack, 1.5)
        truth.append(stack.astype(np.float32))
        paths += [str(tmp_path / f"s{k}.mrcs")] * n
        index += list(range(n))
    n = sum(counts)
    particles = ParticleSet(
        image_path=np.array(paths, dtype=object), image_index=np.array(index),
        optics=(Optics(box=box, pixel_size=1.5),), optics_index=np.zeros(n, int),
    )  # fmt: skip
    return particles, np.concatenate(truth)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16, np.uint16, np.int8])
def test_a_stack_written_image_by_image_is_one_file(tmp_path, dtype):
    truth = (100 * np.abs(images_of(11, 4, 7)) % 100).astype(dtype)
    with StackWriter(tmp_path / "a.mrcs", (4, 7), 1.25, dtype=dtype) as writer:
        assert writer.append(truth[0]) == 0
        assert writer.append(truth[1:9]) == 1
        assert writer.append(truth[9:]) == 9
        assert not (tmp_path / "a.mrcs").exists()
    array, header = read_mrc(tmp_path / "a.mrcs")
    assert np.array_equal(array, truth) and header.space_group == 0 and header.pixel_size == 1.25
    with mrcfile.open(tmp_path / "a.mrcs") as oracle:
        assert np.array_equal(oracle.data, truth)
        assert float(oracle.header.dmean) == pytest.approx(truth.mean(dtype=np.float64), rel=1e-4)
        assert float(oracle.header.rms) == pytest.approx(truth.std(dtype=np.float64), rel=1e-4)


def test_a_stack_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError), StackWriter(tmp_path / "a.mrcs", (4, 4), 1.0) as writer:
        writer.append(np.zeros((4, 4)))
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match="no images"), StackWriter(tmp_path / "b.mrcs", (4, 4), 1.0):
        pass
    with pytest.raises(ValueError, match="expected"), StackWriter(tmp_path / "c.mrcs", (4, 4), 1.0) as writer:
        writer.append(np.zeros((5, 4)))
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_do_not_fit_the_type_are_refused_and_fractions_rounded(tmp_path):
    with StackWriter(tmp_path / "a.mrcs", (2, 2), 1.0, dtype=np.int16) as writer:
        writer.append(np.array([[-1.6, 0.4], [0.6, 32767.2]]))
        with pytest.raises(ValueError, match="do not fit into int16"):
            writer.append(np.full((2, 2), 40000.0))
        with pytest.raises(ValueError, match="do not fit into int16"):
            writer.append(np.full((2, 2), np.nan))
    assert read_mrc(tmp_path / "a.mrcs")[0].tolist() == [[[-2, 0], [1, 32767]]]
    with (
        pytest.raises(ValueError, match="too large for float16"),
        StackWriter(tmp_path / "b.mrcs", (2, 2), 1.0, dtype=np.float16) as writer,
    ):
        writer.append(np.full((2, 2), 1e6))


def test_sections_come_in_the_order_asked_with_repeats(tmp_path):
    truth = images_of(50)
    write_mrc(tmp_path / "a.mrcs", truth, 1.0)
    with MrcStack(tmp_path / "a.mrcs") as stack:
        for wanted in ([3], [49, 0, 7, 8, 9, 7], [], list(range(50)), [5, 5, 5]):
            assert np.array_equal(stack.read(np.array(wanted, int)), truth[wanted])
        out = np.empty((2, 6, 6), np.float32)
        assert stack.read(np.array([1, 0]), out) is out and np.array_equal(out, truth[[1, 0]])
        with pytest.raises(InputError, match="image 51 was asked for, the stack has 50"):
            stack.read(np.array([50]))


def test_a_stack_that_shrinks_while_it_is_read_is_an_error_not_a_crash(tmp_path):
    write_mrc(tmp_path / "a.mrcs", images_of(20), 1.0)
    stack = MrcStack(tmp_path / "a.mrcs")
    with (tmp_path / "a.mrcs").open("rb+") as file:
        file.truncate(1500)
    with pytest.raises(InputError, match="changed while being read"):
        stack.read(np.arange(20))


def test_any_rows_of_a_set_are_read_as_float32(tmp_path):
    particles, truth = make_set(tmp_path)
    reader = ParticleImages(particles)
    assert reader.shape == (6, 6) and len(reader) == 16
    order = np.random.default_rng(1).permutation(16)
    for rows in (order, order[:3], np.arange(16), np.array([2, 2, 9]), np.array([], int), np.arange(16) % 3 == 0):
        images = reader.read(rows)
        assert images.dtype == np.float32 and np.array_equal(images, truth[rows])
    out = np.empty((16, 6, 6), np.float32)
    assert reader.read(order, out) is out and np.array_equal(out, truth[order])


@pytest.mark.parametrize("size", [1, 5, 16, 100])
def test_chunks_give_every_row_once_in_order(tmp_path, size):
    particles, truth = make_set(tmp_path)
    reader = ParticleImages(particles)
    order = np.random.default_rng(2).permutation(16)
    parts = list(reader.chunks(order, size))
    assert np.array_equal(np.concatenate([rows for rows, _ in parts]), order)
    assert np.array_equal(np.concatenate([images for _, images in parts]), truth[order])
    assert max(len(rows) for rows, _ in parts) <= size
    assert list(reader.chunks(np.array([], int), 4)) == []
    assert np.array_equal(next(reader.chunks(None, 16))[1], truth)


def test_leaving_chunks_early_ends_the_reading_thread(tmp_path):
    particles, _ = make_set(tmp_path)
    chunks = ParticleImages(particles).chunks(None, 2)
    next(chunks)
    chunks.close()
    assert not any("particle-reader" in thread.name for thread in threading.enumerate())


def test_many_threads_may_read_from_one_reader(tmp_path):
    particles, truth = make_set(tmp_path)
    reader = ParticleImages(particles)
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            rows = rng.integers(0, 16, 7)
            if not np.array_equal(reader.read(rows), truth[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_more_stacks_than_may_be_open_are_read(tmp_path):
    n = 150
    for i in range(n):
        write_mrc(tmp_path / f"{i}.mrcs", np.full((1, 4, 4), i, np.float32), 1.0)
    particles = ParticleSet(
        image_path=np.array([str(tmp_path / f"{i}.mrcs") for i in range(n)], dtype=object),
        image_index=np.zeros(n, int), optics=(Optics(box=4),), optics_index=np.zeros(n, int),
    )  # fmt: skip
    reader = ParticleImages(particles)
    assert reader.read(np.arange(n))[:, 0, 0].tolist() == list(range(n))
    assert len(reader._stacks) <= 64
    reader.close()
    assert reader.read(np.array([7]))[0, 0, 0] == 7


def test_sets_that_do_not_fit_their_stacks_are_refused(tmp_path):
    particles, _ = make_set(tmp_path)
    with pytest.raises(InputError, match="optics table says 8"):
        ParticleImages(particles.replace(optics=(Optics(box=8),)))
    with pytest.raises(InputError, match="empty"):
        ParticleImages(particles.select([]))
    beyond = particles.replace(image_index=particles.image_index + 6)
    with pytest.raises(InputError, match="was asked for"):
        ParticleImages(beyond).read(np.arange(16))
    missing = particles.replace(image_path=np.full(16, str(tmp_path / "none.mrcs"), dtype=object))
    with pytest.raises(InputError, match=r"none\.mrcs: there is no such file"):
        ParticleImages(missing)
    write_mrc(tmp_path / "s1.mrcs", images_of(3, 8, 8), 1.0)
    with pytest.raises(InputError, match="the other stacks have"):
        ParticleImages(particles).read(np.arange(16))
