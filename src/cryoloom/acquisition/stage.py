"""Stage `optics-groups`: metadata of the microscope matched to exposures, their beam shifts made optics groups."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.acquisition.groups import group_shifts
from cryoloom.acquisition.settings import OPTICS_GROUPS, OpticsGroupsSettings
from cryoloom.contract import CryoloomError, Failure, Figure, InputError, Run, stage
from cryoloom.data import MicrographSet, MovieSet, Optics, ParticleSet
from cryoloom.io.acquisition import AcquisitionFacts, read_acquisition
from cryoloom.io.records import read_micrographs, read_movies, read_particles
from cryoloom.io.table_kind import guess_table_kind

_READERS = {"movies": read_movies, "micrographs": read_micrographs, "particles": read_particles}
_ENDINGS = ("_fractions", "_Fractions", "_EER", "_DW", "_aligned", "_movie")


@stage(OPTICS_GROUPS)
def assign_optics_groups(
    table: Path, metadata: tuple[Path, ...], settings: OpticsGroupsSettings, run: Run
) -> dict[str, Any]:
    """Give every exposure an optics group; exposures without metadata are named and keep a group of their own."""
    kind = guess_table_kind(table)
    record = _READERS[kind](table)
    facts = _read_all(metadata, run)
    names = _exposures(record)
    of_row = [_find(name, facts) for name in names]
    without = sorted({name for name, found in zip(names, of_row, strict=True) if found is None})
    lacking = sorted({f.name for f in of_row if f is not None and f.beam_shift is None})
    known = np.array([f is not None and f.beam_shift is not None for f in of_row])
    if not known.any():
        raise InputError(
            f"{metadata[0]}: no beam shift for any of the {len(set(names))} exposures; metadata files must have the "
            f"names of the movies (such as {names[0]}.xml or {names[0]}.mrc.mdoc)."
        )
    for name in without:
        run.fail(Failure(name, "there is no metadata file for this exposure"))
    for name in lacking:
        run.fail(Failure(name, "its metadata give no beam shift"))
    exposures = {f.name: f.beam_shift for f in of_row if f is not None and f.beam_shift is not None}
    shifts = np.array(list(exposures.values()))
    group, gap = group_shifts(shifts, settings.groups, settings.smallest)
    place = dict(zip(exposures, group.tolist(), strict=True))
    numbers = np.array([place.get(f.name, -1) if f is not None else -1 for f in of_row])
    grouped = _regrouped(record, numbers)
    n_groups = len(set(group.tolist()))
    _compare(record, [f for f in of_row if f is not None], run)
    missing = Counter(item for f in {f.name: f for f in of_row if f is not None}.values() for item in f.missing)
    if without or lacking:
        run.warn(f"{len(without)} exposures without metadata, {len(lacking)} without a beam shift; see the summary.")
    if settings.groups is None and n_groups == 1 and len(shifts) > 3:
        run.warn("Beam shifts show no groups: all exposures share one optics group.")
    run.summarise(
        verdict="found" if not (without or lacking) else "doubtful",
        reasons=[f"{n_groups} groups of beam shifts; steps of the pattern are {gap:.0f} times the scatter within."],
        n_in=len(record),
        n_out=int(known.sum()),
        n_groups=n_groups,
        group_sizes=np.bincount(group).tolist(),
        n_without_metadata=len(without),
        without_metadata=without[:200],
        without_beam_shift=lacking[:200],
        missing_items=dict(missing),
    )
    run.show(
        Figure(
            name="beam_shifts",
            kind="scatter",
            title="Beam shifts and their groups",
            caption="Each exposure at its beam shift, coloured by its optics group. Groups should be tight and apart.",
            x_label="beam shift x",
            y_label="beam shift y",
            data={"x": shifts[:, 0], "y": shifts[:, 1], "values": group},
        )
    )
    return {kind: grouped}


def _read_all(metadata: tuple[Path, ...], run: Run) -> dict[str, AcquisitionFacts]:
    """Facts by the stem of the exposure; files that cannot be read are named."""
    found: dict[str, AcquisitionFacts] = {}
    for path in metadata:
        try:
            found |= {facts.name: facts for facts in read_acquisition(path)}
        except CryoloomError as error:
            run.fail(Failure(path.name, str(error)))
    if not found:
        raise InputError(f"{metadata[0]}: none of {len(metadata)} metadata files could be read.")
    return found


def _exposures(record: Any) -> list[str]:
    """Stem of the movie or micrograph of each row."""
    if isinstance(record, ParticleSet):
        if record.micrograph is None:
            raise InputError("The particles do not name their micrographs, so no metadata can be found for them.")
        return [Path(str(name)).stem for name in record.micrograph]
    paths = record.path
    if isinstance(record, MicrographSet) and record.movie_path is not None:
        paths = record.movie_path
    return [Path(str(name)).stem for name in paths]


def _find(name: str, facts: dict[str, AcquisitionFacts]) -> AcquisitionFacts | None:
    """Metadata of an exposure: of its name, or of its name without what programs add to it."""
    if name in facts:
        return facts[name]
    for ending in _ENDINGS:
        if name.endswith(ending) and name.removesuffix(ending) in facts:
            return facts[name.removesuffix(ending)]
    return None


def _regrouped(record: Any, numbers: np.ndarray) -> Any:
    """A set whose optics groups are split by group number; -1 stays in a group of its own."""
    keys = list(zip(np.asarray(record.optics_index).tolist(), numbers.tolist(), strict=True))
    groups: list[Optics] = []
    known: dict[tuple[int, int], int] = {}
    for key in sorted(set(keys), key=lambda k: (k[0], k[1] < 0, k[1])):
        known[key] = len(groups)
        optics = record.optics[key[0]]
        words = f"shift{key[1] + 1:03d}" if key[1] >= 0 else "shiftUnknown"
        name = words if len(record.optics) == 1 else f"{optics.name}_{words}"
        groups.append(replace(optics, name=name))
    index = np.array([known[key] for key in keys], np.int64)
    return record.replace(optics=tuple(groups), optics_index=index)


def _compare(record: Any, facts: list[AcquisitionFacts], run: Run) -> None:
    """Warn where the table and the microscope disagree."""
    voltages = {round(f.voltage_kv) for f in facts if f.voltage_kv}
    used = {round(group.voltage_kv) for group in record.optics}
    if voltages and not used <= voltages:
        run.warn(f"The table says {sorted(used)} kV, the microscope {sorted(voltages)} kV; correct the table.")
    if isinstance(record, MovieSet):
        sizes = [f.pixel_size for f in facts if f.pixel_size]
        if sizes and abs(record.optics[0].pixel_size / float(np.median(sizes)) - 1) > 0.05:
            run.warn(
                f"The table says {record.optics[0].pixel_size:g} Å per pixel, the microscope {np.median(sizes):.4g} Å "
                "(super-resolution movies have half of it)."
            )
