"""The validation report as data: a fixed list of questions, each answered or said not to apply, with a verdict."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

CATALOGUE = {
    "resolution": "Resolution of the half maps, corrected for the mask",
    "mask_width": "The resolution does not depend on the width of the mask",
    "mask_density": "The mask cuts no density",
    "mask_correlation": "The mask brings in no correlation",
    "shared_noise": "The half maps share no noise",
    "curve": "The FSC falls smoothly to zero",
    "local": "Local resolution",
    "local_methods": "Two methods of local resolution agree",
    "directions": "Resolution along different directions",
    "sampling": "Directions are seen evenly",
    "wilson": "The spectrum is that of a protein",
    "contrast": "The particle stands out from a flat solvent",
    "hand": "The hand of the map",
    "single_map": "The mean map alone confirms the resolution",
    "half_sets": "No particle, copy or neighbour is in both halves",
    "held_out": "Particles that a half map was not made of confirm its detail",
    "explained": "The map explains the signal that is in the images",
    "random_phases": "Detail goes when it is taken out of the images",
    "decoys": "The particles know the map from decoys",
    "alignability": "The poses are found again",
    "reslog": "More particles give more detail, with exchanged poses none",
    "symmetry": "The imposed symmetry is in the particles",
    "tilt_pairs": "Tilt pairs agree on the tilt",
    "model_fsc": "The model agrees with the map",
    "model_q": "Atoms are where the map shows them",
    "model_residues": "Residues that do not fit",
}
"""Every item of the report, in its order."""

STATUSES = ("passed", "doubtful", "failed", "not applicable")

GRAVE = ("resolution", "decoys")
"""Items whose failure means that there is no structure."""


@dataclass(frozen=True)
class Item:
    """One answer.

    Attributes
    ----------
    key
        Of `CATALOGUE`.
    status
        One of `STATUSES`.
    said
        One sentence in plain words; of an item that does not apply, why.
    value, unit, interval, limit
        The number behind it, its unit, its 95 % interval, and what was asked of it; None where there is none.
    detail
        Further numbers.
    """

    key: str
    status: str
    said: str
    value: float | None = None
    unit: str = ""
    interval: tuple[float, float] | None = None
    limit: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.key not in CATALOGUE:
            raise ValueError(f"key: {self.key!r} is no item of the report")
        if self.status not in STATUSES:
            raise ValueError(f"status: expected one of {STATUSES}, got {self.status!r}")


class Report:
    """Items as they come in; at the end every item of the catalogue must be there once."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}

    def add(self, key: str, status: str, said: str, **more: Any) -> None:
        """Answer one item.

        Raises
        ------
        ValueError
            If it was answered before.
        """
        if key in self._items:
            raise ValueError(f"key: {key!r} was answered before")
        self._items[key] = Item(key, status, said, **more)

    def skip(self, keys: tuple[str, ...], why: str) -> None:
        """Say of items that they do not apply, where they are not answered yet."""
        for key in keys:
            if key not in self._items:
                self.add(key, "not applicable", why)

    def items(self) -> list[Item]:
        """All items in the order of the catalogue.

        Raises
        ------
        ValueError
            If one is missing.
        """
        missing = [key for key in CATALOGUE if key not in self._items]
        if missing:
            raise ValueError(f"report: items without an answer: {', '.join(missing)}")
        return [self._items[key] for key in CATALOGUE]

    def verdict(self) -> tuple[str, list[str]]:
        """`found`, `doubtful` or `not found`, and the sentences that decide, the gravest first."""
        items = self.items()
        failed = [item for item in items if item.status == "failed"]
        doubtful = [item for item in items if item.status == "doubtful"]
        first = [item.said for item in items if item.key == "resolution"]
        if any(item.key in GRAVE for item in failed):
            grave = [item.said for item in failed if item.key in GRAVE]
            return "not found", [*grave, *(item.said for item in failed if item.key not in GRAVE)]
        if failed or len(doubtful) > 2:
            return "doubtful", [*(item.said for item in failed + doubtful), *first]
        passed = sum(item.status == "passed" for item in items)
        rest = len(items) - passed - len(doubtful)
        said = f"{passed} checks passed" + (f"; {rest} lacked their input, as the table says." if rest else ".")
        if not self.asked_particles():
            said += " Half maps alone cannot tell a wrong reference or symmetry: give the particles too."
        return "found", [*first, said, *(item.said for item in doubtful)]

    def asked_particles(self) -> bool:
        """Whether the particles could say what the map explains of their signal."""
        return self._items["explained"].status != "not applicable"

    def to_json(self, **about: Any) -> str:
        """The report as JSON: `format`, `verdict`, `reasons`, `items`, and what is said `about` the inputs."""
        verdict, reasons = self.verdict()
        items = [{"title": CATALOGUE[item.key], **asdict(item)} for item in self.items()]
        content = {"format": "cryoloom validation 1", "verdict": verdict, "reasons": reasons, **about, "items": items}
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def number(value: float, digits: int = 3) -> float | None:
    """Rounded for the report; None where it is not finite."""
    return round(float(value), digits) if math.isfinite(value) else None
