"""Words for people: names, units and order of the figures in summaries, and what each stage does."""

from collections.abc import Mapping, Sequence
from typing import Any

from cryoloom.report.plots import format_value

STAGE_WORDS = {
    "import": ("Input", "What came in, and its optics."),
    "motion": ("Motion", "Frames laid on each other."),
    "ctf": ("Defocus", "The contrast transfer of each micrograph, read from its rings."),
    "pick": ("Picking", "Particles found on the micrographs."),
    "extract": ("Extraction", "Particles cut out, normalised, contrast turned to bright."),
    "class2d": ("Classes", "Particles averaged with their like; junk falls out."),
    "particles unique": ("Distinct particles", "Each particle once, where several picks sat on it."),
    "abinitio": ("First map", "A start from nothing."),
    "refine": ("Refinement", "Poses and map improved in turns, in two independent halves."),
    "reconstruct": ("Reconstruction", "A map from given poses."),
    "postprocess": ("Resolution and sharpening", "How far the half maps agree, and the map sharpened to that."),
    "resolution": ("Local and directional resolution", "Where and along which directions the map is good."),
    "validate": ("Validation", "Every known way to be fooled, tried."),
    "restore": ("Local sharpening", "The map filtered and sharpened place by place."),
    "segment": ("Regions", "The map taken apart by watershed."),
    "fit": ("Model in the map", "An atomic model laid into the map as a rigid body."),
    "optics-groups": ("Optics groups", "Exposures grouped by their beam shifts."),
    "deposit": ("Deposition", "A folder that the archives take as it is."),
    "check-deposit": ("Deposition checked", "Every item of the folder opened anew."),
    "rerun": ("Made again", "Results rebuilt from their records and compared."),
    "compare resolution": ("Local resolution by two methods", "Where both agree, and where they do not."),
    "compare sharpening": ("Sharpening by two methods", "One B-factor for the map, one for each place, both together."),
    "score": ("Score against the truth", "Known truth compared with what was found."),
    "simulate particles": ("Simulated particles", "Data with known truth."),
    "simulate movies": ("Simulated movies", "Data with known truth."),
}

KEY_FIGURES: dict[str, tuple[str, str]] = {
    "resolution": ("Resolution", "Å"),
    "symmetry": ("Symmetry", ""),
    "n_particles": ("Particles", ""),
    "n_micrographs": ("Micrographs", ""),
    "bfactor": ("B-factor", "Å²"),
    "pixel_size": ("Pixel", "Å"),
    "box": ("Box", "px"),
    "diameter": ("Diameter", "Å"),
    "n_classes": ("Classes", ""),
    "n_picks": ("Picks", ""),
    "defocus_median": ("Defocus, median", "Å"),
    "ctf_resolution_median": ("Rings to, median", "Å"),
    "motion_median": ("Motion, median", "Å"),
    "orientation_efficiency": ("Orientation efficiency", ""),
    "molecular_mass_estimate_kda": ("Mass, estimate", "kDa"),
    "truth_resolution": ("Resolution against the truth", "Å"),
    "oracle_resolution": ("Best possible (true poses)", "Å"),
}

_INTERVALS = {"resolution": "resolution_interval", "bfactor": "bfactor_interval"}

_HIDDEN = {"verdict", "reasons", "warnings", "left_out", "stage", "n_in", "n_out", "seconds", "cpu_seconds", "device"}

_TELLING = ("validate", "postprocess", "resolution", "refine", "reconstruct", "abinitio")

_GRAVE = (
    "not found",
    "cuts density",
    "share noise:",
    "the half maps share noise",
    "leak",
    "wrong",
    "false",
    "not trust",
    "doubt",
    "failed",
)


def stage_title(stage: str) -> tuple[str, str]:
    """Heading and one sentence of a stage."""
    return STAGE_WORDS.get(stage, (stage.capitalize(), ""))


def with_title(text: str) -> str:
    """A message that begins with the name of a command begins with the heading of its step instead."""
    stage, colon, said = text.partition(": ")
    return f"{STAGE_WORDS[stage][0]}: {said}" if colon and stage in STAGE_WORDS else text


def key_figures(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Label, value, unit and a small note (the 95 % interval) of the figures that matter, in order."""
    cards = []
    for key, (label, unit) in KEY_FIGURES.items():
        value = summary.get(key)
        if value is None or isinstance(value, Mapping):
            continue
        interval = summary.get(_INTERVALS.get(key, ""))
        note = f"95 %: {format_value(interval[0])} to {format_value(interval[1])}" if interval else ""
        if interval and not interval[0] <= value <= interval[1]:
            note = f"given; found {format_value(interval[0])} to {format_value(interval[1])}"
        cards.append((label, format_value(value), unit, note))
    n_in, n_out = summary.get("n_in"), summary.get("n_out")
    if n_in is not None and n_out is not None and n_in > 2:
        cards.append(("Kept", format_value(n_out), "", f"of {format_value(n_in)}"))
    if summary.get("seconds") is not None:
        cards.append(("Time", *duration(float(summary["seconds"])), ""))
    return cards


def other_figures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Everything else a summary holds that fits on a line."""
    rows = []
    for key, value in summary.items():
        if key in KEY_FIGURES or key in _HIDDEN or isinstance(value, Mapping):
            continue
        if isinstance(value, list) and (len(value) > 8 or any(isinstance(v, Mapping | list) for v in value)):
            continue
        rows.append((key.replace("_", " "), format_value(value)))
    return rows


def duration(seconds: float) -> tuple[str, str]:
    """A time span as value and unit."""
    if seconds < 99.5:
        return f"{seconds:.0f}", "s"
    if seconds < 5940:
        return f"{seconds / 60:.0f}", "min"
    return f"{seconds / 3600:.1f}", "h"


def rank_warnings(warnings: Sequence[str]) -> list[tuple[bool, str]]:
    """Warnings without repetitions, the grave ones first, each with whether it is grave."""
    unique = list(dict.fromkeys(str(w) for w in warnings))
    marked = [(any(word in text.lower() for word in _GRAVE), text) for text in unique]
    return sorted(marked, key=lambda item: not item[0])


def rank_reasons(reasons: Sequence[str]) -> list[str]:
    """Reasons of a run, those of the steps that measure the map first; steps before the map come last.

    Each begins with the name of its step, as `pipeline` writes them.
    """

    def place(reason: str) -> int:
        stage = reason.partition(": ")[0]
        return _TELLING.index(stage) if stage in _TELLING else len(_TELLING)

    return sorted(reasons, key=place)


def verdict_words(verdict: str, *, is_map: bool) -> tuple[str, str]:
    """Heading for a verdict and its colour class."""
    if is_map:
        return {
            "found": ("The map can be trusted", "good"),
            "doubtful": ("Look before you trust this map", "care"),
            "not found": ("No structure was found", "bad"),
        }.get(verdict, (verdict, "care"))
    return {
        "found": ("Done", "good"),
        "doubtful": ("Done, with doubts", "care"),
        "not found": ("Nothing found", "bad"),
    }.get(verdict, (verdict, "care"))
