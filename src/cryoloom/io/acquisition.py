"""What the microscope wrote beside a movie: EPU's XML files and SerialEM's `.mdoc` files.

Both become `AcquisitionFacts` in the units of this project. EPU gives metres, volts and e-/m2; SerialEM gives Å, kV and
e-/Å2. Whether a beam shift is calibrated is not known: its unit stays as it is, which grouping does not mind.
"""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, fields
from pathlib import Path

from cryoloom.contract import InputError


@dataclass(frozen=True)
class AcquisitionFacts:
    """One exposure as the microscope recorded it; None where it did not.

    Attributes
    ----------
    name
        Stem of the movie.
    beam_shift
        x, y in the unit of the source.
    pixel_size
        Å.
    voltage_kv
        kV.
    dose
        Total dose, e-/Å2.
    defocus
        Nominal underfocus in Å, positive.
    time
        As written.
    """

    name: str
    beam_shift: tuple[float, float] | None = None
    pixel_size: float | None = None
    voltage_kv: float | None = None
    dose: float | None = None
    defocus: float | None = None
    time: str | None = None

    @property
    def missing(self) -> list[str]:
        """Names of the items that the source does not give."""
        return [field.name for field in fields(self) if getattr(self, field.name) is None]


def read_acquisition(path: Path | str) -> list[AcquisitionFacts]:
    """Read one file: EPU gives one exposure, a `.mdoc` one or many.

    Raises
    ------
    InputError
        If it is neither.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    if data.lstrip()[:1] == b"<" or data[:3] == b"\xef\xbb\xbf":
        return [_read_epu(data, path)]
    text = data.decode("utf-8", "replace")
    if "=" in text and (path.suffix.lower() == ".mdoc" or "[FrameSet" in text or "[ZValue" in text):
        return _read_mdoc(text, path)
    raise InputError(f"{path}: neither an XML file of EPU nor an mdoc file of SerialEM.")


def _read_epu(data: bytes, path: Path) -> AcquisitionFacts:
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: damaged XML ({error}); copy it again.") from error
    if _local(root.tag) != "MicroscopeImage":
        raise InputError(f"{path}: XML, but no MicroscopeImage of EPU (found {_local(root.tag)}).")
    shift = _descend(root, "microscopeData", "optics", "BeamShift")
    x, y = (_number(_child(shift, axis)) for axis in ("_x", "_y")) if shift is not None else (None, None)
    pixel = _number(_descend(root, "SpatialScale", "pixelSize", "x", "numericValue"))
    voltage = _number(_descend(root, "microscopeData", "gun", "AccelerationVoltage"))
    custom = _key_values(root)
    defocus = _as_float(custom.get("AppliedDefocus"))
    if defocus is None:
        defocus = _number(_descend(root, "microscopeData", "optics", "Defocus"))
    dose = _as_float(custom.get("Dose"))
    time = _descend(root, "microscopeData", "acquisition", "acquisitionDateTime")
    return AcquisitionFacts(
        name=path.stem,
        beam_shift=None if x is None or y is None else (x, y),
        pixel_size=None if pixel is None else 1e10 * pixel,
        voltage_kv=None if voltage is None else 1e-3 * voltage,
        dose=None if dose is None else 1e-20 * dose,
        defocus=None if defocus is None else -1e10 * defocus,
        time=None if time is None else time.text,
    )


def _read_mdoc(text: str, path: Path) -> list[AcquisitionFacts]:
    """Sections `[FrameSet = n]` or `[ZValue = n]`; what stands before the first one holds for all."""
    common: dict[str, str] = {}
    sections: list[dict[str, str]] = []
    for line in text.splitlines():
        head = re.match(r"\s*\[\s*(\w+)\s*=\s*(.*?)\s*\]", line)
        if head:
            if head[1] in ("FrameSet", "ZValue"):
                sections.append({})
            continue
        key, equals, value = line.partition("=")
        if equals:
            (sections[-1] if sections else common)[key.strip()] = value.strip()
    if not sections:
        raise InputError(f"{path}: no section [FrameSet = ...] or [ZValue = ...]; this is no mdoc of exposures.")
    return [_of_section(common | section, path, len(sections) == 1) for section in sections]


def _of_section(values: dict[str, str], path: Path, alone: bool) -> AcquisitionFacts:
    movie = values.get("SubFramePath") or values.get("ImageFile")
    name = re.split(r"[\\/]", movie)[-1] if movie else path.name.removesuffix(".mdoc")
    if alone and not movie:
        name = path.name.removesuffix(".mdoc")
    shift = _pair(values.get("BeamShift")) or _pair(values.get("ImageShift"))
    defocus = _as_float(values.get("TargetDefocus") or values.get("Defocus"))  # µm, negative for underfocus
    return AcquisitionFacts(
        name=_stem(name),
        beam_shift=shift,
        pixel_size=_as_float(values.get("PixelSpacing")),
        voltage_kv=_as_float(values.get("Voltage")),
        dose=_as_float(values.get("ExposureDose")),
        defocus=None if defocus is None else -1e4 * defocus,
        time=values.get("DateTime"),
    )


def _stem(name: str) -> str:
    for ending in (".mrc", ".mrcs", ".tif", ".tiff", ".eer", ".xml"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _key_values(root: ElementTree.Element) -> dict[str, str]:
    """EPU's custom data: pairs of Key and Value."""
    found = {}
    for pair in root.iter():
        if _local(pair.tag).startswith("KeyValue"):
            key, value = _child(pair, "Key"), _child(pair, "Value")
            if key is not None and key.text and value is not None and value.text:
                found[key.text.strip()] = value.text.strip()
    return found


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element | None:
    return next((child for child in element if _local(child.tag) == name), None)


def _descend(root: ElementTree.Element, *names: str) -> ElementTree.Element | None:
    element: ElementTree.Element | None = root
    for name in names:
        if element is None:
            return None
        element = _child(element, name)
    return element


def _number(element: ElementTree.Element | None) -> float | None:
    return None if element is None else _as_float(element.text)


def _as_float(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < 1e300 else None


def _pair(text: str | None) -> tuple[float, float] | None:
    words = (text or "").split()
    first, second = (_as_float(words[0]), _as_float(words[1])) if len(words) >= 2 else (None, None)
    return None if first is None or second is None else (first, second)
