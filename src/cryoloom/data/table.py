"""Tables of rows: frozen records of equally long columns that are selected and joined as one."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np


def row(*, default: Any = None, required: bool = False) -> Any:
    """A field that has one entry per row: an array whose first axis is the row, or None when unknown."""
    if required:
        return dataclasses.field(metadata={"row": True})
    return dataclasses.field(default=default, metadata={"row": True})


@dataclass(frozen=True, kw_only=True)
class RowTable:
    """Base of the sets. Subclasses mark their columns with `row`; a required one gives the length.

    Attributes
    ----------
    extra
        Columns of the source file that this project does not know, by label; they travel along untouched.
    """

    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self)
        for name, column in self.columns().items():
            if len(column) != n:
                raise ValueError(f"{type(self).__name__}.{name}: expected {n} rows, got {len(column)}")

    @classmethod
    def row_fields(cls) -> list[str]:
        """Names of the fields that have one entry per row."""
        return [f.name for f in dataclasses.fields(cls) if f.metadata.get("row")]

    @classmethod
    def _required_field(cls) -> str:
        return next(
            f.name for f in dataclasses.fields(cls) if f.metadata.get("row") and f.default is dataclasses.MISSING
        )

    def columns(self) -> dict[str, np.ndarray]:
        """All columns that are present, those of `extra` included."""
        known = {name: getattr(self, name) for name in self.row_fields() if getattr(self, name) is not None}
        return known | dict(self.extra)

    def __len__(self) -> int:
        return len(getattr(self, self._required_field()))

    def replace(self, **changes: Any) -> Self:
        """A copy with other values for some fields."""
        return dataclasses.replace(self, **changes)

    def select(self, rows: np.ndarray | Sequence[int] | slice) -> Self:
        """The rows given by indices, a boolean mask or a slice, in that order."""
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            if rows.size == 0:
                rows = rows.astype(np.int64)
        changes = {name: getattr(self, name)[rows] for name in self.row_fields() if getattr(self, name) is not None}
        changes["extra"] = {name: column[rows] for name, column in self.extra.items()}
        return dataclasses.replace(self, **changes)
