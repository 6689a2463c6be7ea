"""Particle images of a `ParticleSet`: any rows, in any order, as float32, while one thread reads ahead.

Rows are grouped by stack and read in the order of the disk. Only a few stacks are open at a time, and two chunks
are in memory, so memory does not grow with the number of particles.
"""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet
from cryoloom.io.denoised import refuse_denoised
from cryoloom.io.stack import MrcStack

_OPEN_STACKS = 64


class ParticleImages:
    """Reads the images of particles.

    Parameters
    ----------
    particles
        The set; its stacks may differ in pixel type, not in size.

    Attributes
    ----------
    shape
        Rows and columns of the images.

    Raises
    ------
    InputError
        If the set is empty, a stack is missing or denoised, or its images have another size than the first or than the
        optics say.
    """

    def __init__(self, particles: ParticleSet) -> None:
        if len(particles) == 0:
            raise InputError("The particle set is empty: there are no images to read.")
        self.particles = particles
        names, codes = np.unique(np.asarray(particles.image_path, dtype=object), return_inverse=True)
        self._names = [str(name) for name in names]
        self._codes = codes.astype(np.int32)
        self._index = np.asarray(particles.image_index, dtype=np.int64)
        self._stacks: OrderedDict[int, MrcStack] = OrderedDict()
        self._lock = Lock()
        self.shape = self._stack(int(self._codes[0])).shape
        box = particles.optics[int(particles.optics_index[0])].box if particles.optics else None
        if box and box != self.shape[1]:
            raise InputError(
                f"{self._names[self._codes[0]]}: images of {self.shape[1]} x {self.shape[0]} pixels, the optics table "
                f"says {box}; the STAR file belongs to another stack."
            )

    def __len__(self) -> int:
        return len(self._index)

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Images of some rows.

        Parameters
        ----------
        rows
            Row numbers `(n,)`, any order, repeats allowed.
        out
            Filled if given, `(n, h, w)` float32.

        Returns
        -------
        images
            `(n, h, w)` float32.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if out is None:
            out = np.empty((len(rows), *self.shape), np.float32)
        codes = self._codes[rows]
        for code in np.unique(codes):
            members = np.flatnonzero(codes == code)
            with self._lock:
                stack = self._stack(int(code))
                if len(members) == len(rows):
                    stack.read(self._index[rows], out)
                elif members[-1] - members[0] + 1 == len(members):
                    stack.read(self._index[rows[members]], out[members[0] : members[-1] + 1])
                else:
                    out[members] = stack.read(self._index[rows[members]])
        return out

    def chunks(self, rows: np.ndarray | None, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows and their images, `size` at a time, in the order given; the next chunk is read meanwhile.

        Each pair of images is a new array, which the caller may keep.
        """
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        if size < 1:
            raise ValueError(f"size: expected at least 1, got {size}")
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        if not parts:
            return
        with ThreadPoolExecutor(1, thread_name_prefix="particle-reader") as reader:
            ahead: Future[np.ndarray] = reader.submit(self.read, parts[0])
            for i, part in enumerate(parts):
                images = ahead.result()
                if i + 1 < len(parts):
                    ahead = reader.submit(self.read, parts[i + 1])
                yield part, images

    def close(self) -> None:
        """Close all stacks; they are opened again when needed."""
        with self._lock:
            for stack in self._stacks.values():
                stack.close()
            self._stacks.clear()

    def _stack(self, code: int) -> MrcStack:
        if code in self._stacks:
            self._stacks.move_to_end(code)
            return self._stacks[code]
        stack = MrcStack(self._names[code])
        refuse_denoised(self._names[code], stack.header.labels)
        shape = getattr(self, "shape", stack.shape)
        if stack.shape != shape:
            stack.close()
            raise InputError(
                f"{self._names[code]}: images of {stack.shape[1]} x {stack.shape[0]} pixels, the other stacks have "
                f"{shape[1]} x {shape[0]}; extract all particles with one box."
            )
        self._stacks[code] = stack
        while len(self._stacks) > _OPEN_STACKS:
            self._stacks.popitem(last=False)[1].close()
        return stack
