"""Settings and declarations of the stages on particle sets."""

from typing import Literal

from cryoloom.contract import Input, Settings, setting, symmetry_setting, tool

_STAGE = "cryoloom.particle_tools.stage"
_SET = Input("particles", "particles", "The particle set.")
_COLUMN = "such as `rlnClassNumber` or `class_number`; values are in the units of the file"


class MergeSettings(Settings):
    """Several sets as one."""

    duplicates: Literal["drop", "keep", "refuse"] = setting(
        "drop", "Images that stand in several sets: the first row wins, all are kept, or the merge is refused."
    )
    without_halves: bool = setting(False, "Leave the half sets out where not all sets have them.")


class SplitSettings(Settings):
    """One set as several."""

    by: str | None = setting(None, f"One part for each value of this column, {_COLUMN}.")
    parts: int | None = setting(None, "Number of parts of equal size.", ge=2, le=10_000)
    order: Literal["random", "file"] = setting("random", "Which rows go into which of the equal parts.")
    together: str | None = setting(
        None, "Rows of equal value in this column go into the same part, such as `rlnMicrographName`."
    )

    def problem(self) -> str | None:
        """What is wrong with the settings together, or None."""
        return "Give either --by COLUMN or --parts N." if (self.by is None) == (self.parts is None) else None


class SubsetSettings(Settings):
    """Some rows of a set; all conditions given must hold."""

    column: str | None = setting(None, f"Column of the conditions, {_COLUMN}.")
    values: str | None = setting(None, "Rows whose column is one of these, separated by commas.")
    least: float | None = setting(None, "Rows whose column is at least this.")
    most: float | None = setting(None, "Rows whose column is at most this.")
    highest: int | None = setting(None, "The so many rows with the highest values of the column.", ge=1)
    lowest: int | None = setting(None, "The so many rows with the lowest values of the column.", ge=1)
    random: int | None = setting(None, "So many rows by chance.", ge=1)
    rows: str | None = setting(None, "Rows by number from 1, such as `1-1000` or `5,9,20-30`.")
    invert: bool = setting(False, "All other rows instead.")

    def problem(self) -> str | None:
        """What is wrong with the settings together, or None."""
        of_column = (self.values, self.least, self.most, self.highest, self.lowest)
        if self.column is None and any(value is not None for value in of_column):
            return "Conditions on values need --column."
        if self.column is not None and all(value is None for value in of_column):
            return "--column needs --values, --least, --most, --highest or --lowest."
        if self.column is None and self.random is None and self.rows is None:
            return "Say which rows: --column with a condition, --random or --rows."
        return None


class UniqueSettings(Settings):
    """Which rows are the same particle, and which of them stays."""

    distance: float | None = setting(
        None,
        "Particles of one micrograph nearer than this are the same; by default only rows of the same image are.",
        unit="Å",
        gt=0,
    )
    best: str | None = setting(
        None, f"Of the same particles the one with the highest value of this column stays, {_COLUMN}; else the first."
    )


class RecentreSettings(Settings):
    """Where the new centre lies, and whether coordinates move."""

    x: float = setting(0.0, "New centre in the map, from its centre.", unit="Å")
    y: float = setting(0.0, "New centre in the map, from its centre.", unit="Å")
    z: float = setting(0.0, "New centre in the map, from its centre.", unit="Å")
    move_coordinates: bool = setting(
        False, "Move the coordinates by whole pixels of the micrograph and keep the rest as shift; extract anew then."
    )
    adjust_defocus: bool = setting(False, "Also correct each defocus for the height of the new centre.")


class ExpandSettings(Settings):
    """Every particle in each of its equivalent poses."""

    symmetry: str = symmetry_setting("of the map that the poses belong to")


class ConsensusSettings(Settings):
    """Particles whose poses two independent runs agree on."""

    symmetry: str = symmetry_setting("of the map")
    largest_angle: float = setting(10.0, "Poses further apart than this never agree.", unit="°", gt=0, le=90)
    least_reliability: float = setting(0.5, "Particles below this in either run are left out.", ge=0, le=1)


MERGE = tool(
    "particles merge",
    MergeSettings,
    f"{_STAGE}:merge_particles",
    "Merge particle sets; optics groups are joined by name, rows keep their order and their halves.",
    {"particles": "all rows"},
    Input("files", "files", "The sets, STAR or .cs."),
)
SPLIT = tool(
    "particles split",
    SplitSettings,
    f"{_STAGE}:split_particles",
    "Split a particle set by a column or into equal parts; rows keep their halves.",
    {"part001": "first part; part002 and so on are the others"},
    _SET,
)
SUBSET = tool(
    "particles subset",
    SubsetSettings,
    f"{_STAGE}:select_particles",
    "Select rows of a particle set by any column, by number or by chance.",
    {"particles": "the selected rows, in their order"},
    _SET,
)
UNIQUE = tool(
    "particles unique",
    UniqueSettings,
    f"{_STAGE}:remove_duplicates",
    "Remove rows that are the same particle: equal images, or centres nearer than a distance.",
    {"particles": "one row of each particle", "removed": "the rows that were left out"},
    _SET,
)
RECENTRE = tool(
    "particles recentre",
    RecentreSettings,
    f"{_STAGE}:recentre_particles",
    "Centre particles on another point of the map, and move shifts into coordinates.",
    {"particles": "the rows with their new centres"},
    _SET,
)
EXPAND = tool(
    "particles expand",
    ExpandSettings,
    f"{_STAGE}:expand_particles",
    "Symmetry expansion: every particle once in each of its equivalent poses; copies keep their parent's half.",
    {"particles": "all copies, those of one particle next to each other"},
    _SET,
)
CONSENSUS = tool(
    "particles consensus",
    ConsensusSettings,
    f"{_STAGE}:agree_on_poses",
    "Compare the poses of two independent refinements and keep the particles on which they agree.",
    {"particles": "those that agree, with the poses of the first run", "removed": "all others"},
    Input("particles", "particles", "Particles of the first run."),
    Input("second", "particles", "The same particles, in the same order, of another run."),
)
