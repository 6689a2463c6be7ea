"""Stage `import`: look at every file, settle the optics, and write one set."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError, Run, stage
from cryoloom.data import MicrographSet, MovieSet, Optics, ParticleSet
from cryoloom.importing.dose import judge_dose
from cryoloom.importing.inspection import guess_kind, inspect_micrograph, inspect_movie
from cryoloom.importing.optics import agreed_pixel_size, optics_of_images, reconcile
from cryoloom.importing.particles import check_stacks, drop_repeats, settle_halves
from cryoloom.importing.pictures import micrograph_pictures, movie_pictures, particle_pictures
from cryoloom.importing.settings import IMPORT, ImportSettings
from cryoloom.io.cs import is_cs, read_cs_exposures, read_cs_particles
from cryoloom.io.gain import read_gain
from cryoloom.io.movies import movie_stem
from cryoloom.io.records import read_micrographs, read_movies, read_particles
from cryoloom.io.table_kind import guess_table_kind


@stage(IMPORT)
def import_files(
    files: tuple[Path, ...], gain: Path | None, defects: Path | None, settings: ImportSettings, run: Run
) -> dict[str, Any]:
    """Import movies, micrographs or particles.

    Parameters
    ----------
    files
        Image files, or one STAR or `.cs` file.
    gain, defects
        Gain reference and defect map of movies.
    settings
        See `ImportSettings`.
    run
        The execution.

    Returns
    -------
    sets
        One of `movies`, `micrographs`, `particles`.
    """
    files = _without_repeats(files, run)
    tables = [file for file in files if file.suffix.lower() in (".star", ".cs")]
    if tables and len(files) > len(tables):
        raise InputError(f"{tables[0]}: a table and image files cannot be imported together; import them one by one.")
    if len(tables) > 1:
        raise InputError(f"{tables[1]}: {len(tables)} tables; import them one by one.")
    kind: str = settings.kind
    if kind == "auto":
        kind = guess_table_kind(tables[0]) if tables else _kind_of_images(files)
    if (gain or defects) and kind != "movies":
        raise InputError(f"A gain reference belongs to movies, the files are {kind}; leave it away.")
    if kind == "particles":
        if not tables:
            raise InputError(f"{files[0]}: particles are imported from a STAR or .cs file that describes them.")
        return {"particles": _import_particles(tables[0], settings, run)}
    if kind == "movies":
        return {"movies": _import_movies(files, tables, gain, defects, settings, run)}
    return {"micrographs": _import_micrographs(files, tables, settings, run)}


def _import_movies(
    files: tuple[Path, ...], tables: list[Path], gain: Path | None, defects: Path | None, settings: ImportSettings,
    run: Run,
) -> MovieSet:  # fmt: skip
    listed: MovieSet | None = None
    if tables:
        read = read_cs_exposures(tables[0]) if is_cs(tables[0]) else read_movies(tables[0])
        if not isinstance(read, MovieSet):
            raise InputError(f"{tables[0]}: micrographs, not movies; leave --kind away.")
        listed = read
    paths = [str(path) for path in (listed.path if listed is not None else files)]
    _check_stems(paths)
    grouping = settings.eer_grouping or _default_grouping(paths, settings)
    facts = run.each(
        paths,
        lambda path: inspect_movie(path, grouping, settings.eer_upsampling),
        key=lambda path: path,
        label="movies",
    )
    good = np.array([i for i, fact in enumerate(facts) if fact is not None], dtype=np.int64)
    kept = [facts[i] or {} for i in good]
    _report_shapes(kept, [paths[i] for i in good], run)
    if listed is not None:
        groups, origin = reconcile(listed.optics, settings, str(tables[0]))
        movies = listed.replace(optics=groups).select(good)
    else:
        header_size = agreed_pixel_size([fact["pixel_size"] for fact in kept])
        optics, origin = optics_of_images(settings, header_size, paths[0])
        _compare_header(optics, header_size, origin, run)
        movies = MovieSet(**_one_group([paths[i] for i in good], optics))
    dose = settings.dose_per_frame
    origin["dose_per_frame"] = "argument" if dose else "file" if movies.dose_per_frame is not None else "unknown"
    if dose is None and movies.dose_per_frame is None and all(fact.get("exposure") for fact in kept) and kept:
        per_frame = [fact["exposure"] * fact["grouping"] / fact["n_raw"] for fact in kept]
        movies = movies.replace(dose_per_frame=np.asarray(per_frame))
        origin["dose_per_frame"] = "header"
    if dose is not None:
        movies = movies.replace(dose_per_frame=np.full(len(movies), dose))
    if settings.pre_exposure is not None:
        movies = movies.replace(pre_exposure=np.full(len(movies), settings.pre_exposure))
    extra = dict(movies.extra)
    if any(path.lower().endswith(".eer") for path in paths):
        groups_of = [fact.get("grouping", 1) for fact in kept]
        extra["eer_grouping"] = np.asarray(groups_of, dtype=np.int64)
        extra["eer_upsampling"] = np.full(len(movies), settings.eer_upsampling, dtype=np.int64)
        dropped = sorted({fact["n_dropped"] for fact in kept})
        if dropped and dropped[-1]:
            run.warn(
                f"Up to {dropped[-1]} raw EER frames at the end of each movie do not fill a group and are left out."
            )
    movies = movies.replace(extra=extra, gain_path=gain or movies.gain_path, defect_path=defects or movies.defect_path)
    if movies.dose_per_frame is None:
        run.warn("The exposure per frame is not known; movies cannot be dose-weighted. Give --dose-per-frame (e-/Å2).")
    elif kept:
        _check_dose(movies, kept, run)
    if movies.gain_path is not None and kept:
        _check_gain(Path(movies.gain_path), kept[0], paths[int(good[0])], run)
    _report(run, "movies", len(paths), len(movies), movies.optics, origin)
    run.summarise(
        frames=_report_frames(kept, [paths[i] for i in good], run),
        dose_per_frame=None if movies.dose_per_frame is None else float(movies.dose_per_frame[0]),
    )
    if len(movies):
        run.show(movie_pictures(str(movies.path[0]), grouping, settings.eer_upsampling, movies.optics[0].pixel_size))
    return movies


def _import_micrographs(
    files: tuple[Path, ...], tables: list[Path], settings: ImportSettings, run: Run
) -> MicrographSet:
    listed: MicrographSet | None = None
    if tables:
        read = read_cs_exposures(tables[0]) if is_cs(tables[0]) else read_micrographs(tables[0])
        if not isinstance(read, MicrographSet):
            raise InputError(f"{tables[0]}: movies, not micrographs; leave --kind away.")
        listed = read
    paths = [str(path) for path in (listed.path if listed is not None else files)]
    _check_stems(paths)
    facts = run.each(paths, inspect_micrograph, key=lambda path: path, label="micrographs")
    good = np.array([i for i, fact in enumerate(facts) if fact is not None], dtype=np.int64)
    kept = [facts[i] or {} for i in good]
    _report_shapes(kept, [paths[i] for i in good], run)
    if listed is not None:
        groups, origin = reconcile(listed.optics, settings, str(tables[0]))
        micrographs = listed.replace(optics=groups).select(good)
    else:
        header_size = agreed_pixel_size([fact["pixel_size"] for fact in kept])
        optics, origin = optics_of_images(settings, header_size, paths[0])
        _compare_header(optics, header_size, origin, run)
        micrographs = MicrographSet(**_one_group([paths[i] for i in good], optics))
    _report(run, "micrographs", len(paths), len(micrographs), micrographs.optics, origin)
    if len(micrographs):
        run.show(micrograph_pictures([str(path) for path in micrographs.path]))
    return micrographs


def _import_particles(table: Path, settings: ImportSettings, run: Run) -> ParticleSet:
    particles = read_cs_particles(table) if is_cs(table) else read_particles(table)
    n_in = len(particles)
    if n_in == 0:
        raise InputError(f"{table}: no particles; the table has no rows.")
    groups, origin = reconcile(particles.optics, settings, str(table))
    particles = check_stacks(particles.replace(optics=groups), str(table))
    n_repeats = 0
    if not settings.keep_repeats:
        particles, n_repeats = drop_repeats(particles)
    if n_repeats:
        run.warn(f"{n_repeats} of {n_in} rows name an image that an earlier row names already; they are left out.")
    if n_repeats > 0.3 * n_in and particles.rotation is not None:
        run.warn("So many repeats look like a symmetry-expanded set; add --keep-repeats to keep the copies.")
    random = np.random.default_rng([run.seed, 7])
    particles, figures, warnings = settle_halves(particles, random, renew=settings.new_halves)
    for warning in warnings:
        run.warn(warning)
    _report(run, "particles", n_in, len(particles), particles.optics, origin)
    run.summarise(n_repeats=n_repeats, box=particles.optics[int(particles.optics_index[0])].box, **figures)
    run.show(particle_pictures(particles))
    return particles


def _without_repeats(files: tuple[Path, ...], run: Run) -> tuple[Path, ...]:
    unique = tuple(dict.fromkeys(Path(file) for file in files))
    if len(unique) < len(files):
        run.warn(f"{len(files) - len(unique)} files are named twice; each is imported once.")
    if not unique:
        raise InputError("No files to import.")
    return unique


def _check_stems(paths: list[str]) -> None:
    """Results are named by the stem of the file, so two files must not share one."""
    seen: dict[str, str] = {}
    for path in paths:
        stem = movie_stem(path)
        if seen.setdefault(stem, path) != path:
            raise InputError(f"{path}: {seen[stem]} has the same name; results would overwrite each other. Rename one.")


def _kind_of_images(files: tuple[Path, ...]) -> str:
    """The kind of the first file that can be read; damaged ones are named later, one by one."""
    first_error: InputError | None = None
    for file in files:
        try:
            return guess_kind(file)
        except InputError as error:
            first_error = first_error or error
    assert first_error is not None
    raise first_error


def _default_grouping(paths: list[str], settings: ImportSettings) -> int | None:
    """Raw EER frames of about 1 e-/Å2, where the header gives the exposure."""
    if not paths or not paths[0].lower().endswith(".eer"):
        return None
    from cryoloom.io.eer import EerMovie

    for path in paths[:5]:
        try:
            with EerMovie(path) as movie:
                header = movie.header
        except InputError:
            continue
        if header.exposure:
            return int(np.clip(round(header.n_raw / header.exposure), 1, header.n_raw))
        return max(1, round(header.n_raw / 40))
    return None


def _one_group(paths: list[str], optics: Optics) -> dict[str, Any]:
    return {
        "path": np.asarray(paths, dtype=object),
        "optics": (optics,),
        "optics_index": np.zeros(len(paths), dtype=np.int64),
    }


def _report_shapes(facts: list[dict[str, Any]], paths: list[str], run: Run) -> None:
    shapes: dict[tuple[int, ...], list[str]] = {}
    for fact, path in zip(facts, paths, strict=True):
        shapes.setdefault(tuple(fact["shape"]), []).append(path)
    if len(shapes) > 1:
        usual = max(shapes, key=lambda shape: len(shapes[shape]))
        others = [path for shape, members in shapes.items() if shape != usual for path in members]
        run.warn(f"{len(others)} of {len(paths)} files have another size than {usual[1]} x {usual[0]}: {others[0]} ...")
    usual_shape = max(shapes, key=lambda shape: len(shapes[shape]), default=None)
    run.summarise(image_shape=None if usual_shape is None else list(usual_shape))


def _report_frames(facts: list[dict[str, Any]], paths: list[str], run: Run) -> list[int]:
    """The numbers of frames that occur; movies that differ from most are named, those with fewer may lack some."""
    count = [int(fact["n_frames"]) for fact in facts]
    usual = max(dict.fromkeys(count), key=count.count, default=0)
    others = [(n, path) for n, path in zip(count, paths, strict=True) if n != usual]
    if others:
        fewest = min(others)
        what = f"; {fewest[1]} has {fewest[0]}: frames may be missing" if fewest[0] < usual else f": {others[0][1]} ..."
        run.warn(f"{len(others)} of {len(count)} movies have another number of frames than {usual}{what}")
    return sorted(set(count))


def _compare_header(optics: Optics, header_size: float | None, origin: dict[str, str], run: Run) -> None:
    if origin["pixel_size"] != "argument" or header_size is None or header_size == 1.0:
        return
    if abs(header_size - optics.pixel_size) > 0.005 * optics.pixel_size:
        run.warn(
            f"The headers say {header_size:g} Å per pixel, --pixel-size says {optics.pixel_size:g}; the latter is used."
        )


def _check_dose(movies: MovieSet, facts: list[dict[str, Any]], run: Run) -> None:
    """Say whether the dose is that of one frame, and by which evidence."""
    assert movies.dose_per_frame is not None
    findings = []
    for row in np.unique(np.linspace(0, len(facts) - 1, 5).astype(int)):
        fact, optics = facts[row], movies.optics[int(movies.optics_index[row])]
        electrons = math.nan if fact["electrons"] is None else fact["electrons"]
        given = float(movies.dose_per_frame[row])
        findings.append(judge_dose(given, fact["n_frames"], optics.pixel_size, electrons, fact.get("exposure")))
    meanings = [finding.meaning for finding in findings]
    usual = max(dict.fromkeys(meanings), key=meanings.count)
    finding = findings[meanings.index(usual)]
    run.summarise(dose={"meaning": finding.meaning, "evidence": finding.evidence, "per_frame": finding.per_frame})
    if finding.meaning in ("total", "divided twice"):
        words = "of the whole movie" if finding.meaning == "total" else "divided by the number of frames twice"
        run.warn(
            f"--dose-per-frame looks like the dose {words} ({finding.evidence}); if so give "
            f"--dose-per-frame {finding.per_frame:.3g}."
        )


def _check_gain(gain: Path, fact: dict[str, Any], movie: str, run: Run) -> None:
    """Refuse a gain reference that fits the frames in no orientation."""
    eer = movie.lower().endswith(".eer")
    shape = tuple(fact["shape"])
    try:
        factor = read_gain(gain, shape, eer=eer)
    except InputError:
        try:
            factor = read_gain(gain, shape[::-1], eer=eer)
        except InputError:
            read_gain(gain, shape, eer=eer)  # raises with the sizes
            raise
        run.warn(f"{gain.name} fits the frames only after a turn by 90 degrees; give the gain rotation to `motion`.")
    run.summarise(gain_defects=int((factor == 0).sum()))


def _report(run: Run, kind: str, n_in: int, n_out: int, groups: tuple[Optics, ...], origin: dict[str, str]) -> None:
    first = groups[0] if groups else None
    run.summarise(
        verdict="found" if n_out else "not found",
        reasons=[] if n_out else [f"none of {n_in} {kind} could be read"],
        n_in=n_in,
        n_out=n_out,
        kind=kind,
        optics_groups=len(groups),
        pixel_size=first.pixel_size if first else None,
        voltage_kv=first.voltage_kv if first else None,
        cs_mm=first.cs_mm if first else None,
        amplitude_contrast=first.amplitude_contrast if first else None,
        origin=origin,
    )
