"""What a person wants to see after an import: a few of the images, made small."""

import numpy as np

from cryoloom.contract import Figure
from cryoloom.data import ParticleSet
from cryoloom.io.images import read_micrograph
from cryoloom.io.movies import open_movie
from cryoloom.io.particles import ParticleImages


def micrograph_pictures(paths: list[str], n: int = 4) -> Figure:
    """A gallery of `n` micrographs spread over the set."""
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, n).astype(int))]
    images = [shrink(read_micrograph(path), 512) for path in chosen]
    h, w = (min(image.shape[i] for image in images) for i in (0, 1))
    return Figure(
        name="micrographs",
        kind="gallery",
        title="Some of the micrographs",
        caption="Particles should be dark on a brighter ground.",
        data={
            "images": np.stack([image[:h, :w] for image in images]),
            "labels": [p.rsplit("/", 1)[-1] for p in chosen],
        },
    )


def movie_pictures(path: str, grouping: int | None, upsampling: int, pixel_size: float) -> Figure:
    """The sum of the first frames of a movie, neither aligned nor gain-corrected."""
    with open_movie(path, eer_grouping=grouping, eer_upsampling=upsampling) as movie:
        total = np.zeros(movie.shape, np.float32)
        for i in range(min(movie.n_frames, 16)):
            total += movie.frames(i, i + 1)[0]
    image = shrink(total, 768)
    return Figure(
        name="movie",
        kind="image",
        title="Sum of the first frames of one movie",
        caption="As it came from the camera: not aligned, not gain-corrected.",
        data={"image": image, "pixel_size": pixel_size * total.shape[0] / image.shape[0]},
    )


def particle_pictures(particles: ParticleSet, n: int = 36) -> Figure:
    """A gallery of `n` particles spread over the set."""
    rows = np.unique(np.linspace(0, len(particles) - 1, n).astype(int))
    reader = ParticleImages(particles)
    images = np.stack([shrink(image, 96) for image in reader.read(rows)])
    reader.close()
    return Figure(
        name="particles",
        kind="gallery",
        title="Some of the particles",
        caption="Particles should be bright on a darker ground, and centred.",
        data={"images": images, "labels": [str(row + 1) for row in rows]},
    )


def shrink(image: np.ndarray, longest: int) -> np.ndarray:
    """Average whole blocks of pixels until the longer edge is at most `longest`, `(y, x)` float32."""
    times = max(1, -(-max(image.shape) // longest))
    h, w = (n // times * times for n in image.shape)
    blocks = image[:h, :w].reshape(h // times, times, w // times, times)
    return blocks.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
