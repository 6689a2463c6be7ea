"""The base of every settings model: frozen, and closed to unknown keys.

From one model come the Python call, the command line, the web form and the JSON schema, so a default,
a range, a unit and a help text are written once. Settings modules import neither torch nor NumPy.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


def setting(
    default: Any,
    help: str,
    *,
    unit: str | None = None,
    expert: bool = False,
    **limits: Any,
) -> Any:
    """One field of a settings model.

    Parameters
    ----------
    default
        Its value when the user says nothing; `None` means "found from the data".
    help
        One sentence, shown by `--help` and by the form.
    unit
        Unit of the value, for instance `"Å"`.
    expert
        True for settings that most users should leave alone; `--help` lists them last.
    **limits
        Limits as pydantic knows them: `gt`, `ge`, `lt`, `le`, `min_length`, ...
    """
    extra: dict[str, Any] = {}
    if unit is not None:
        extra["unit"] = unit
    if expert:
        extra["expert"] = True
    return Field(default, description=help, json_schema_extra=extra or None, **limits)


def symmetry_setting(of: str) -> Any:
    """A point group, C1 by default; `of` says what it belongs to, such as `imposed on the map`."""
    return setting("C1", f"Point group {of}: C1, Cn, Dn, T, O, I (I1 to I4).")


def diameter_setting(default: str) -> Any:
    """Diameter of the particle in Å, by default None; `default` says where it comes from then."""
    return setting(None, f"Diameter of the circle around the particle; {default}.", unit="Å", gt=0)


def noise_setting() -> Any:
    """Which particles share a noise spectrum."""
    return setting(
        "optics",
        "Which particles share a noise spectrum: those of one optics group, or of one micrograph.",
        pattern="^(optics|micrograph)$",
        expert=True,
    )
