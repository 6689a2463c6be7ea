"""How fast electrons of an EER file become frames, beside imagecodecs where it can be imported.

    python benchmarks/motion/eer_speed.py [FILE.eer] [--frames 200]

Both decode the same raw frames on one core into memory that is in use already, so that what the system does to hand out
memory is not counted; MB/s are bytes of the compressed file per CPU second of this thread, the best of three passes.
imagecodecs (`eer_decode`, C) is given the lists in memory, ours reads them from the file. Without FILE one is made:
4096², 0.01 electrons per pixel and raw frame.
"""

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from cryoloom.io.eer import EerMovie
from cryoloom.io.eer_writer import write_eer

SHAPE = (4096, 4096)


def make_file(path: Path, n_frames: int) -> None:
    """Raw frames of independent electrons; 20 different ones in turn."""
    rng = np.random.default_rng(9)
    lists = []
    for _ in range(20):
        pixel = rng.choice(SHAPE[0] * SHAPE[1], 167_000, replace=False)
        lists.append(4 * np.stack(np.divmod(pixel, SHAPE[1]), -1) + rng.integers(0, 4, (len(pixel), 2)))
    write_eer(path, (lists[i % 20] for i in range(n_frames)), SHAPE)


def best_seconds(work: Callable[[], int]) -> tuple[float, int]:
    """CPU seconds of the fastest of three passes, and the electrons it counted."""
    best, counted = np.inf, 0
    for _ in range(3):
        begun = time.thread_time()
        counted = work()
        best = min(best, time.thread_time() - begun)
    return best, counted


def ours(path: Path, n_raw: int, grouping: int, upsampling: int) -> tuple[float, int]:
    """Seconds for `n_raw` raw frames in groups, and their electrons."""
    with EerMovie(path, grouping=grouping, upsampling=upsampling) as movie:
        out = np.zeros((1, *movie.shape), movie.dtype)

        def work() -> int:
            for group in range(n_raw // grouping):
                movie.frames(group, group + 1, out)
            return int(out.sum(dtype=np.int64))

        return best_seconds(work)


def theirs(path: Path, n_raw: int, grouping: int, doubling: int) -> tuple[float, int] | None:
    """The same by imagecodecs, which adds each raw frame to the picture it is given."""
    try:
        decode = importlib.import_module("imagecodecs").eer_decode
    except ImportError:
        return None
    with tifffile.TiffFile(path) as tiff:
        pages = [page for page in tiff.pages if int(page.compression) in (65000, 65001)][:n_raw]
        bits = (8, 2, 2) if int(pages[0].compression) == 65000 else (7, 2, 2)
        lists = []
        for page in pages:
            tiff.filehandle.seek(page.dataoffsets[0])
            lists.append(tiff.filehandle.read(page.databytecounts[0]))
    shape = (SHAPE[0] << doubling, SHAPE[1] << doubling)
    out = np.zeros(shape, np.uint8)

    def work() -> int:
        for i, data in enumerate(lists):
            if i % grouping == 0:
                out[:] = 0
            decode(data, shape, *bits, superres=doubling, out=out)
        return int(out.sum(dtype=np.int64))

    return best_seconds(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "movie.eer"
        if options.file is None:
            make_file(path, options.frames)
        with EerMovie(path) as movie:
            n_raw = min(options.frames, movie.header.n_raw)
            size = path.stat().st_size / movie.header.n_raw / 1e6
        print("raw frames in one, upsampling: MB/s ours, imagecodecs; electrons of the last frame")
        for grouping, doubling in ((1, 0), (25, 0), (100, 0), (25, 1), (100, 1), (100, 2)):
            n = min(n_raw, 25) if grouping == 1 else n_raw - n_raw % grouping
            seconds, counted = ours(path, n, grouping, 1 << doubling)
            text = f"{grouping:4d}, {1 << doubling}: {n * size / seconds:6.0f}"
            other = theirs(path, n, grouping, doubling)
            if other is not None:
                text += f" {n * size / other[0]:6.0f}   {counted} {other[1]}"
            print(text)


if __name__ == "__main__":
    main()
