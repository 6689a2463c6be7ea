"""Where the optics come from: arguments, files, or defaults; and what happens if two of them disagree."""

import dataclasses
from typing import Any

from cryoloom.contract import InputError
from cryoloom.data import Optics
from cryoloom.importing.settings import ImportSettings

DEFAULTS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
_NAMES = {
    "pixel_size": ("pixel size", "Å"),
    "voltage_kv": ("voltage", "kV"),
    "cs_mm": ("Cs", "mm"),
    "amplitude_contrast": ("amplitude contrast", ""),
}


def optics_of_images(
    settings: ImportSettings, header_pixel_size: float | None, example: str
) -> tuple[Optics, dict[str, str]]:
    """Optics of bare image files, and the origin of each value (`argument`, `header`, `default`).

    Parameters
    ----------
    settings
        What the user gave.
    header_pixel_size
        Å per pixel that the headers agree on, or None.
    example
        A file name for messages.

    Raises
    ------
    InputError
        If no pixel size is known.
    """
    origin: dict[str, str] = {}
    values: dict[str, Any] = {}
    if settings.pixel_size is not None:
        values["pixel_size"], origin["pixel_size"] = settings.pixel_size, "argument"
    elif header_pixel_size is not None and header_pixel_size != 1.0:
        values["pixel_size"], origin["pixel_size"] = header_pixel_size, "header"
    else:
        why = "the header says 1.0 Å, which often means unknown" if header_pixel_size else "the header does not say"
        raise InputError(f"{example}: the pixel size is not known ({why}); give it by --pixel-size (Å per pixel).")
    for name, default in DEFAULTS.items():
        given = getattr(settings, name)
        values[name], origin[name] = (default, "default") if given is None else (given, "argument")
    return Optics(name=settings.optics_group, **values), origin


def reconcile(
    groups: tuple[Optics, ...], settings: ImportSettings, source: str
) -> tuple[tuple[Optics, ...], dict[str, str]]:
    """Optics of a table after comparison with what the user gave.

    Raises
    ------
    InputError
        If both say different things and `override_optics` is off.
    """
    origin = dict.fromkeys(_NAMES, "file")
    out = []
    for group in groups:
        changes: dict[str, Any] = {}
        for name, (word, unit) in _NAMES.items():
            given = getattr(settings, name)
            if given is None:
                continue
            found = getattr(group, name)
            if abs(given - found) <= 1e-4 * max(abs(given), abs(found)):
                continue
            if not settings.override_optics:
                option = "--" + name.replace("_", "-")
                raise InputError(
                    f"{source}: the {word} of optics group {group.name} is {found:g} {unit}".rstrip()
                    + f", {option} says {given:g}; leave {option} away, or add --override-optics to change it."
                )
            changes[name] = given
            origin[name] = "argument"
        out.append(dataclasses.replace(group, **changes) if changes else group)
    return tuple(out), origin


def agreed_pixel_size(sizes: list[float | None]) -> float | None:
    """The pixel size that all headers give, to 0.1 %, or None."""
    known = [size for size in sizes if size]
    if not known or len(known) < len(sizes) or max(known) - min(known) > 1e-3 * max(known):
        return None
    return float(f"{sorted(known)[len(known) // 2]:.6g}")
