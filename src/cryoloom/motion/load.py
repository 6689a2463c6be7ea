"""From files to frames in memory: the movie, its gain reference, its known and its found defects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import MovieSet
from cryoloom.io.eer import EerMovie
from cryoloom.io.gain import read_defects, read_gain, resample_gain
from cryoloom.io.images import image_shape
from cryoloom.io.movies import Movie, open_movie, open_movie_of
from cryoloom.io.mrc import write_mrc
from cryoloom.motion.defects import find_defects, sum_raw
from cryoloom.motion.frames import Frames, make_frames
from cryoloom.motion.gain_orientation import GainChoice, find_gain_orientation
from cryoloom.motion.settings import MotionSettings


@dataclass(frozen=True)
class GainRecipe:
    """How the gain reference is read for every movie of a set.

    Attributes
    ----------
    path
        The file.
    rotation, flip, divide
        As `cryoloom.io.gain.read_gain` takes them; `divide` None is the rule of the format.
    """

    path: Path
    rotation: int = 0
    flip: int = 0
    divide: bool | None = None


@dataclass(frozen=True)
class FileFacts:
    """What other programs want to know of a movie that was read.

    Attributes
    ----------
    n_frames
        Frames in the file, used or not.
    eer
        Grouping and upsampling of an EER file; None for other formats.
    """

    n_frames: int
    eer: tuple[int, int] | None


def open_row(movies: MovieSet, row: int, settings: MotionSettings) -> Movie:
    """Open one movie, with the EER grouping of the settings or of the set."""
    if settings.eer_grouping is None and settings.eer_upsampling is None:
        return open_movie_of(movies, row)
    return open_movie(
        str(movies.path[row]), eer_grouping=settings.eer_grouping, eer_upsampling=settings.eer_upsampling or 1
    )


def doubtful_pixel_size(movies: MovieSet, settings: MotionSettings) -> str | None:
    """A sentence if the header of the first movie says another pixel size than the set; 1 Å is taken for a filler."""
    try:
        with open_row(movies, 0, settings) as movie:
            header = movie.pixel_size
    except InputError:
        return None  # said where the movie is read
    size = movies.optics[int(movies.optics_index[0])].pixel_size
    if header is None or header == 1.0 or abs(header - size) <= 0.005 * size:
        return None
    return f"the header of {movies.path[0]} says {header:g} Å per pixel, {size:g} is used"


def read_raw(movie: Movie, settings: MotionSettings) -> np.ndarray:
    """The chosen frames, `(t, h, w)`, in the type of the file.

    Raises
    ------
    InputError
        If the chosen frames do not exist, or hold NaN or infinite values.
    """
    first, last = settings.first_frame - 1, settings.last_frame or movie.n_frames
    last = min(last, movie.n_frames)
    if first >= last:
        raise InputError(
            f"{movie.path}: frames {settings.first_frame} to {settings.last_frame or 'the last'} were asked for, "
            f"the movie has {movie.n_frames}."
        )
    raw = movie.frames(first, last)
    if raw.dtype.kind == "f" and not all(np.isfinite(frame.sum(dtype=np.float64)) for frame in raw):
        raise InputError(f"{movie.path}: some pixels are NaN or infinite; the movie is damaged.")
    return raw


def check_counts(raw: np.ndarray, path: Path) -> list[str]:
    """What is odd about the mean counts of the frames: empty ones, and ones far from the others.

    Raises
    ------
    InputError
        If all frames are empty, or flat.
    """
    means = np.array([frame[::3, ::3].mean(dtype=np.float64) for frame in raw])
    if not np.any(means):
        raise InputError(f"{path}: all frames are zero; the movie is empty.")
    if all(frame.min() == frame.max() for frame in raw):
        raise InputError(f"{path}: every frame is the same everywhere; the movie holds no picture.")
    typical = float(np.median(means))
    sample = raw[len(raw) // 2, ::3, ::3]
    chance = 8 * float(sample.std(dtype=np.float64)) / np.sqrt(sample.size)  # of frames whose mean was taken out
    odd = np.flatnonzero(np.abs(means - typical) > max(0.5 * abs(typical), chance))
    if len(odd) == 0:
        return []
    listed = ", ".join(str(t + 1) for t in odd[:10])
    return [f"mean counts of frame(s) {listed} differ by more than half from the median of {typical:.3g}"]


def choose_gain(movies: MovieSet, path: Path, settings: MotionSettings) -> tuple[GainRecipe | None, GainChoice | None]:
    """Decide once for all movies how the gain reference goes: as given, or as the first movies show.

    Several movies are looked at until the answer is certain. If it never is, the reference is taken as it is; one that
    the frames surely do not carry is not used.

    Returns
    -------
    recipe, choice
        `recipe` is None if the reference is not to be used, `choice` if nothing was searched.
    """
    is_eer = str(movies.path[0]).lower().endswith(".eer")
    given = (settings.gain_rotation, settings.gain_flip)
    plain = GainRecipe(path, given[0] or 0, given[1] or 0, settings.gain_divide)
    if settings.gain_orientation == "as-is" or given != (None, None) or is_eer:
        return plain, None
    reference = read_gain(path, divide=False)
    total: np.ndarray | None = None
    choice: GainChoice | None = None
    for row in range(min(len(movies), 8)):
        try:
            with open_row(movies, row, settings) as movie:
                one = sum_raw(read_raw(movie, settings))
        except InputError:
            continue
        if total is not None and one.shape != total.shape:
            continue
        total = one if total is None else total + one
        try:
            choice = find_gain_orientation(total, _at_sampling_of(total, reference))
        except ValueError:
            read_gain(path, total.shape)  # says what does not fit
            raise
        if choice.is_absent or choice.is_certain:
            break
    if choice is not None and choice.is_absent:
        return None, choice
    if choice is None or not choice.is_certain:
        return plain, choice
    divide = choice.divide if settings.gain_divide is None else settings.gain_divide
    return GainRecipe(path, choice.rotation, choice.flip, divide), choice


def gain_file_for_others(recipe: GainRecipe, shape: tuple[int, int], folder: Path, *, eer: bool) -> Path:
    """The reference as other programs have to read it for frames of `shape`: the file itself, or one written for them.

    They multiply by what lies in the file, of the size of the frames and unturned; for EER movies they divide by an MRC
    file, multiply by a `.gain` file, and resample.
    """
    divides = eer and recipe.path.suffix.lower() != ".gain"
    as_they_do = recipe.divide is None or recipe.divide == divides
    if as_they_do and not recipe.rotation and not recipe.flip and (eer or image_shape(recipe.path) == shape):
        return recipe.path
    path = folder / f"gain_{shape[1]}x{shape[0]}.mrc"
    if not path.exists():
        factor = read_gain(
            recipe.path, shape, rotation=recipe.rotation, flip=recipe.flip, divide=recipe.divide, eer=eer
        )
        if eer:
            factor = np.divide(1, factor, out=np.zeros_like(factor), where=factor > 0)
        folder.mkdir(parents=True, exist_ok=True)
        write_mrc(path, factor, 1.0, kind="image")
    return path


def _at_sampling_of(total: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A reference of half or twice the size of the frames, in any orientation, at their sampling; others as it is."""
    h, w = total.shape
    for shape in ((h, w), (w, h)):
        resampled = resample_gain(reference, shape, 2)
        if resampled is not None:
            return resampled
    return reference


def load_frames(
    movies: MovieSet, row: int, settings: MotionSettings, gain: GainRecipe | None, defects: Path | None
) -> tuple[Frames, list[str], FileFacts]:
    """One movie in memory, its bad pixels listed for repair; what is odd about it; what the file holds."""
    with open_row(movies, row, settings) as movie:
        raw = read_raw(movie, settings)
        path = movie.path
        eer = (movie.grouping, movie.upsampling) if isinstance(movie, EerMovie) else None
        facts = FileFacts(movie.n_frames, eer)
    remarks = check_counts(raw, path)
    shape = (int(raw.shape[1]), int(raw.shape[2]))
    factor = None
    if gain is not None:
        factor = read_gain(
            gain.path, shape, rotation=gain.rotation, flip=gain.flip, divide=gain.divide,
            eer=path.suffix.lower() == ".eer",
        )  # fmt: skip
    known = np.zeros(shape, bool) if factor is None else factor == 0
    if defects is not None:
        known |= read_defects(defects, shape)
    frames = make_frames(raw, factor)
    bad = known | find_defects(frames) if settings.find_defects else known
    return frames.with_bad_pixels(bad, np.random.default_rng(0)), remarks, facts
