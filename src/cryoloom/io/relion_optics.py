"""Optics groups of RELION tables, of version 3.1 (a table of groups) and of 3.0 (columns in every row).

Old tables give the pixel size as `10000 * detector pixel (µm) / magnification` Å, and aberrations by
`rlnBeamTiltClass`; one group is made for each distinct set of values (`interfaces.md`, section 2.1).
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import Optics
from cryoloom.io.star import StarTable

PIXEL_SIZE_LABELS = {
    "particles": ("rlnImagePixelSize", "rlnPixelSize"),
    "micrographs": ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnPixelSize"),
    "movies": ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize", "rlnPixelSize"),
}
_KNOWN = {
    "rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
    "rlnImageSize", "rlnImageDimensionality", "rlnMtfFileName", "rlnBeamTiltX", "rlnBeamTiltY", "rlnOddZernike",
    "rlnEvenZernike", "rlnMagMat00", "rlnMagMat01", "rlnMagMat10", "rlnMagMat11", "rlnCtfDataAreCtfPremultiplied",
    "rlnCtfDataArePhaseFlipped", "rlnTomoHand",
}  # fmt: skip
_OLD_COLUMNS = (
    "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification", "rlnDetectorPixelSize",
    "rlnBeamTiltClass", "rlnBeamTiltX", "rlnBeamTiltY", "rlnPixelSize", "rlnImagePixelSize", "rlnMicrographPixelSize",
    "rlnMicrographOriginalPixelSize", "rlnImageSize", "rlnMtfFileName",
)  # fmt: skip


def read_optics_table(table: StarTable, kind: str) -> tuple[list[Optics], dict[int, int]]:
    """Optics groups of a `data_optics` table.

    Parameters
    ----------
    table
        The table.
    kind
        `"movies"`, `"micrographs"` or `"particles"`: whose pixel size is wanted.

    Returns
    -------
    groups
        In the order of the table.
    index
        Index into `groups` by `rlnOpticsGroup`.
    """
    if len(table) == 0:
        raise InputError(f"{table.where}: no optics group; at least one row is needed.")
    if "rlnOpticsGroup" in table:
        numbers = table.integers("rlnOpticsGroup").tolist()
    else:
        numbers = list(range(1, len(table) + 1))
    if len(set(numbers)) < len(numbers):
        raise InputError(f"{table.where}: an rlnOpticsGroup number stands twice; number the groups 1, 2, ...")
    columns = {label: table.best(label) for label in table.labels}
    groups = [_group_of({label: columns[label][i] for label in columns}, kind, table.where) for i in range(len(table))]
    return groups, {number: i for i, number in enumerate(numbers)}


def read_optics_columns(table: StarTable, kind: str) -> tuple[list[Optics], np.ndarray, set[str]]:
    """Optics groups of an old table without `data_optics`.

    Returns
    -------
    groups
        One for each distinct set of values, in the order of their first row.
    index
        Group of each row, `(n,)`.
    used
        Labels that are contained in the groups now.
    """
    used = [label for label in _OLD_COLUMNS if label in table]
    if "rlnVoltage" not in used:
        raise InputError(
            f"{table.where}: neither a block 'optics' nor the column _rlnVoltage; the optics are unknown. "
            "Add them, or import the images with voltage, Cs and pixel size given."
        )
    if len(table) == 0:
        return [], np.zeros(0, dtype=np.int64), set(used)
    frame = table.frame.select(used)
    distinct = frame.unique(maintain_order=True)
    row_key = frame.select(used).to_struct()
    known = {key: i for i, key in enumerate(tuple(row.values()) for row in distinct.to_struct().to_list())}
    if len(known) == 1:
        index = np.zeros(len(table), dtype=np.int64)
    else:
        index = np.array([known[tuple(row.values())] for row in row_key.to_list()], dtype=np.int64)
    if len(known) > max(1000, len(table) // 2):
        raise InputError(f"{table.where}: {len(known)} different sets of optics; voltage or pixel size vary by row.")
    rows = StarTable(distinct, table.where)
    columns = {label: rows.best(label) for label in used}
    groups = []
    for i in range(len(rows)):
        values = {label: columns[label][i] for label in used}
        values["rlnOpticsGroupName"] = f"opticsGroup{i + 1}"
        magnification, detector = values.pop("rlnMagnification", None), values.pop("rlnDetectorPixelSize", None)
        if (
            magnification is not None
            and detector is not None
            and not any(label in values for label in PIXEL_SIZE_LABELS[kind])
        ):
            if not float(magnification) > 0:
                raise InputError(f"{table.where}: rlnMagnification is {magnification}, expected a positive number.")
            values[PIXEL_SIZE_LABELS[kind][0]] = round(1e4 * float(detector) / float(magnification), 10)
        values.pop("rlnBeamTiltClass", None)
        groups.append(_group_of(values, kind, table.where))
    return groups, index, set(used)


def optics_columns(groups: Sequence[Optics], kind: str) -> dict[str, Any]:
    """Columns of a `data_optics` table, by label."""
    columns: dict[str, Any] = {
        "rlnOpticsGroupName": [group.name for group in groups],
        "rlnOpticsGroup": list(range(1, len(groups) + 1)),
        "rlnVoltage": [float(group.voltage_kv) for group in groups],
        "rlnSphericalAberration": [float(group.cs_mm) for group in groups],
        "rlnAmplitudeContrast": [float(group.amplitude_contrast) for group in groups],
    }
    if kind == "particles":
        columns["rlnImagePixelSize"] = [float(group.pixel_size) for group in groups]
        if all(group.box for group in groups):
            columns["rlnImageSize"] = [int(group.box or 0) for group in groups]
        columns["rlnImageDimensionality"] = [2 for _ in groups]
    else:
        label = "rlnMicrographPixelSize" if kind == "micrographs" else "rlnMicrographOriginalPixelSize"
        columns[label] = [float(group.pixel_size) for group in groups]
    if kind != "movies" and any(group.original_pixel_size for group in groups):
        original = [float(group.original_pixel_size or group.pixel_size) for group in groups]
        columns["rlnMicrographOriginalPixelSize"] = original
        if kind == "particles":
            columns["rlnMicrographPixelSize"] = original
            label = "rlnMicrographOriginalPixelSize"
            columns[label] = [float(g.extra.get(label, o)) for g, o in zip(groups, original, strict=True)]
    if any(group.mtf_path for group in groups):
        columns["rlnMtfFileName"] = [group.mtf_path or "" for group in groups]
    if any(any(group.beam_tilt_mrad) for group in groups):
        columns["rlnBeamTiltX"] = [float(group.beam_tilt_mrad[0]) for group in groups]
        columns["rlnBeamTiltY"] = [float(group.beam_tilt_mrad[1]) for group in groups]
    for label, name in (("rlnOddZernike", "odd_zernike"), ("rlnEvenZernike", "even_zernike")):
        length = max(len(getattr(group, name)) for group in groups)
        if length:
            padded = [(*getattr(group, name), *[0.0] * (length - len(getattr(group, name)))) for group in groups]
            columns[label] = ["[" + ",".join(repr(float(v)) for v in values) + "]" for values in padded]
    if any(group.magnification != ((1.0, 0.0), (0.0, 1.0)) for group in groups):
        for i in range(2):
            for j in range(2):
                columns[f"rlnMagMat{i}{j}"] = [float(group.magnification[i][j]) for group in groups]
    if kind == "particles" or any(group.ctf_premultiplied for group in groups):
        columns["rlnCtfDataAreCtfPremultiplied"] = [int(group.ctf_premultiplied) for group in groups]
    if any(group.phase_flipped for group in groups):
        columns["rlnCtfDataArePhaseFlipped"] = [int(group.phase_flipped) for group in groups]
    if any(group.hand != 1 for group in groups):
        columns["rlnTomoHand"] = [int(group.hand) for group in groups]
    for label in dict.fromkeys(label for group in groups for label in group.extra):
        if label not in columns:
            columns[label] = [group.extra.get(label, 0) for group in groups]
    return {label: _plain_column(values) for label, values in columns.items()}


def _group_of(values: dict[str, Any], kind: str, where: str) -> Optics:
    sizes = [label for label in PIXEL_SIZE_LABELS[kind] if label in values]
    if not sizes:
        expected = PIXEL_SIZE_LABELS[kind][0]
        raise InputError(
            f"{where}: no pixel size; add the column _{expected}"
            + (" or _rlnMagnification and _rlnDetectorPixelSize." if kind == "particles" else ".")
        )
    used = set(sizes[:1])
    original = None
    # coordinates of particles are pixels of the aligned micrograph, so its pixel size is the one to know
    order = {"particles": ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize")}
    for label in order.get(kind, ("rlnMicrographOriginalPixelSize",) if kind == "micrographs" else ()):
        if label in used or label not in values:
            continue
        if original is None:
            original = _number(values, label, where)
        if _number(values, label, where) == original:
            used |= {label}
    known = {"original_pixel_size": original} if original else {}
    box = int(_number(values, "rlnImageSize", where)) if "rlnImageSize" in values else None
    try:
        return Optics(
            name=str(values.get("rlnOpticsGroupName", f"opticsGroup{values.get('rlnOpticsGroup', 1)}")),
            pixel_size=_number(values, sizes[0], where),
            voltage_kv=_number(values, "rlnVoltage", where),
            cs_mm=_number(values, "rlnSphericalAberration", where),
            amplitude_contrast=_number(values, "rlnAmplitudeContrast", where, default=0.1),
            beam_tilt_mrad=(
                _number(values, "rlnBeamTiltX", where, default=0.0),
                _number(values, "rlnBeamTiltY", where, default=0.0),
            ),
            odd_zernike=_vector(values.get("rlnOddZernike"), "rlnOddZernike", where),
            even_zernike=_vector(values.get("rlnEvenZernike"), "rlnEvenZernike", where),
            magnification=(
                (
                    _number(values, "rlnMagMat00", where, default=1.0),
                    _number(values, "rlnMagMat01", where, default=0.0),
                ),
                (
                    _number(values, "rlnMagMat10", where, default=0.0),
                    _number(values, "rlnMagMat11", where, default=1.0),
                ),
            ),
            box=box if box and box > 0 else None,
            mtf_path=_text_or_none(values.get("rlnMtfFileName")),
            hand=-1 if _number(values, "rlnTomoHand", where, default=1.0) < 0 else 1,
            ctf_premultiplied=bool(_number(values, "rlnCtfDataAreCtfPremultiplied", where, default=0.0)),
            phase_flipped=bool(_number(values, "rlnCtfDataArePhaseFlipped", where, default=0.0)),
            extra={label: _plain(v) for label, v in values.items() if label not in _KNOWN | used},
            **known,
        )
    except InputError:
        raise
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: {error}.") from error


def _number(values: dict[str, Any], label: str, where: str, default: float | None = None) -> float:
    if label not in values:
        if default is None:
            raise InputError(f"{where}: the column _{label} is missing.")
        return default
    try:
        number = float(values[label])
    except ValueError as error:
        raise InputError(f"{where}: _{label} is {values[label]!r}, expected a number.") from error
    if not np.isfinite(number):
        raise InputError(f"{where}: _{label} is {number}, expected a number.")
    return number


def _vector(text: Any, label: str, where: str) -> tuple[float, ...]:
    """`[a,b,...]` as numbers."""
    if text is None:
        return ()
    try:
        return tuple(float(word) for word in re.split(r"[,\s]+", str(text).strip().strip("[]")) if word)
    except ValueError as error:
        raise InputError(f"{where}: _{label} is {text!r}, expected numbers like [0.1,0.2].") from error


def _text_or_none(text: Any) -> str | None:
    return str(text) if text is not None and str(text) not in ("", "None", "0") else None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _plain_column(values: list[Any]) -> np.ndarray:
    kinds = {type(value) for value in values}
    if kinds <= {int, bool}:
        return np.asarray(values, dtype=np.int64)
    if kinds <= {int, float}:
        return np.asarray(values, dtype=np.float64)
    return np.asarray([str(value) for value in values], dtype=object)
