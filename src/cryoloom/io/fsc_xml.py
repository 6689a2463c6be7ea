"""FSC curves as the XML file that EMDB takes."""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np


def write_fsc_xml(
    path: str | Path, frequency: np.ndarray, fsc: np.ndarray, *, title: str = "cryoloom mask-corrected FSC"
) -> None:
    """Write one curve; frequency in 1/Å, both `(n,)`. The file appears when it is complete."""
    frequency, fsc = np.asarray(frequency, dtype=np.float64), np.asarray(fsc, dtype=np.float64)
    if frequency.shape != fsc.shape or frequency.ndim != 1:
        raise ValueError(f"fsc: expected one value per frequency, got {fsc.shape} for {frequency.shape}")
    root = ElementTree.Element("fsc", {"title": title, "xaxis": "Resolution (A-1)", "yaxis": "Correlation Coefficient"})
    for x, y in zip(frequency, fsc, strict=True):
        coordinate = ElementTree.SubElement(root, "coordinate")
        ElementTree.SubElement(coordinate, "x").text = f"{x:.6f}"
        ElementTree.SubElement(coordinate, "y").text = f"{y:.6f}"
    ElementTree.indent(root)
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    ElementTree.ElementTree(root).write(beside, encoding="utf-8", xml_declaration=True)
    beside.replace(path)


def read_fsc_xml(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in 1/Å and values of a curve, each `(n,)`.

    Raises
    ------
    ValueError
        If the file is not such a curve.
    """
    try:
        root = ElementTree.parse(path).getroot()
        points = [(float(c.findtext("x", "")), float(c.findtext("y", ""))) for c in root.iter("coordinate")]
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path}: expected an FSC curve as XML ({error})") from error
    if root.tag != "fsc" or not points:
        raise ValueError(f"{path}: expected an FSC curve as XML, got <{root.tag}> with {len(points)} points")
    table = np.array(points)
    return table[:, 0], table[:, 1]
