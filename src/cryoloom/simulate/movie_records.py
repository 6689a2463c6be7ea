"""Records of simulated movies: the movies as a pipeline gets them, and the truth of micrographs and particles."""

from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.data import MicrographSet, MovieSet, Optics, ParticleSet
from cryoloom.simulate.movies import MovieRecipe


def movie_records(
    records: list[dict[str, Any]], recipe: MovieRecipe, optics: Optics, gain_path: Path | None
) -> tuple[MovieSet, MicrographSet, ParticleSet]:
    """Movies, true micrographs and true particles of what `simulate_movie` returned.

    Micrographs are named `micrographs/<stem>.mrc` as the stage `motion` names them; no such file is written here.
    """
    n = len(records)
    names = [f"micrographs/{r['name']}.mrc" for r in records]
    index = np.zeros(n, np.int64)
    movies = MovieSet(
        path=np.asarray([r["movie"] for r in records]),
        optics=(optics,),
        optics_index=index,
        dose_per_frame=np.full(n, recipe.dose_per_frame),
        pre_exposure=np.zeros(n),
        gain_path=gain_path,
    )
    tracks = [np.asarray(r["trajectory"]) for r in records]
    lengths = np.asarray([np.linalg.norm(np.diff(t, axis=0), axis=1).sum() for t in tracks])
    micrographs = MicrographSet(
        path=np.asarray(names),
        movie_path=movies.path,
        optics=(optics,),
        optics_index=index,
        motion_total=lengths,
        dose=np.full(n, recipe.n_frames * recipe.dose_per_frame),
        defocus_u=np.asarray([r["defocus_u"] for r in records]),
        defocus_v=np.asarray([r["defocus_v"] for r in records]),
        defocus_angle=np.asarray([r["defocus_angle"] for r in records]),
        phase_shift=np.full(n, recipe.phase_shift),
        extra={"cryoloomSpoilt": np.asarray([int(r["bad"]) for r in records])},
    )
    defocus = {name: np.asarray([r[name] for r in records]) for name in ("defocus_u", "defocus_v", "defocus_angle")}
    counts = [len(r["height"]) for r in records]
    owner = np.repeat(np.arange(n), counts)
    height = np.concatenate([np.asarray(r["height"], np.float64).reshape(-1) for r in records])
    total = len(owner)
    particles = ParticleSet(
        image_path=np.asarray([f"particles/{r['name']}.mrcs" for r in records])[owner],
        image_index=np.concatenate([np.arange(c) for c in counts]),
        micrograph=np.asarray(names)[owner],
        position_px=np.concatenate([np.asarray(r["position_px"], np.float64).reshape(-1, 2) for r in records]),
        optics=(optics,),
        optics_index=np.zeros(total, np.int64),
        defocus_u=defocus["defocus_u"][owner] + recipe.hand * height,
        defocus_v=defocus["defocus_v"][owner] + recipe.hand * height,
        defocus_angle=defocus["defocus_angle"][owner],
        phase_shift=np.full(total, recipe.phase_shift),
        rotation=np.concatenate([np.asarray(r["rotation"], np.float64).reshape(-1, 3, 3) for r in records]),
        shift=np.zeros((total, 2)),
        class_number=np.ones(total, np.int64),
    )
    return movies, micrographs, particles
