"""Command-line options from a settings model: names, defaults, ranges, units and help are written once, there."""

import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import click
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cryoloom.contract import Settings, StageDeclaration

if TYPE_CHECKING:
    from cryoloom.pipeline.watch import Watch


def input_options(declaration: StageDeclaration) -> list[click.Option]:
    """One option per input."""
    options = []
    for declared in declaration.inputs:
        several = declared.kind in ("files", "maps", "movies", "micrographs")
        required = " [required]" if declared.required else ""
        options.append(
            click.Option(
                [f"--{declared.name.replace('_', '-')}", f"input_{declared.name}"],
                multiple=several,
                type=str,
                metavar="FILE|GLOB" if several else "FILE",
                help=declared.help + required,
            )
        )
    return options


def setting_options(model: type[Settings]) -> list[click.Option]:
    """One option per setting; those for experts come last."""
    fields = sorted(model.model_fields.items(), key=lambda item: bool(_extra(item[1]).get("expert")))
    return [_setting_option(name, field) for name, field in fields]


def describe_settings(model: type[Settings]) -> list[tuple[str, str, str]]:
    """Option, default and help with unit and limits of each setting, for pages of documentation."""
    rows = []
    for name, field in model.model_fields.items():
        default = _default(field).removeprefix("default: ")
        details = ", ".join(part for part in (_unit(field), _limits(field)) if part)
        text = (field.description or "").replace("|", "or")
        rows.append((_flags(name)[-1], default, f"{text} ({details})" if details else text))
    return rows


def _flags(name: str) -> list[str]:
    """Spellings of an option: `voltage_kv` is `--voltage-kv` and, shorter, `--voltage`."""
    flags = [f"--{name.replace('_', '-')}"]
    for unit in ("_kv", "_mm"):
        if name.endswith(unit):
            flags.append(f"--{name.removesuffix(unit).replace('_', '-')}")
    return flags


def given_settings(model: type[Settings], values: dict[str, Any]) -> dict[str, Any]:
    """The settings that the user gave, out of all parsed options."""
    found = {}
    for name, field in model.model_fields.items():
        value = values.get(f"setting_{name}")
        if value is None or value == ():
            continue
        found[name] = _convert(value, field)
    return found


def watch_options() -> list[click.Option]:
    """Options of the commands that can watch a folder."""
    return [
        click.Option(
            ["--watch"],
            type=click.Path(file_okay=False),
            metavar="DIR",
            help="Take what arrives in this folder (or what another watching job writes) as it arrives",
        ),
        click.Option(
            ["--watch-pattern"], metavar="TEXT", help="Names of the files that count, such as '*.tif' [default: images]"
        ),
        click.Option(
            ["--watch-idle"],
            type=click.FloatRange(0),
            metavar="SECONDS",
            help="Stop watching when nothing new came for so long [default: never]",
        ),
    ]


def given_watch(values: dict[str, Any]) -> "Watch | None":
    """What the user wants watched, if anything."""
    if not values.get("watch"):
        return None
    from cryoloom.pipeline.watch import Watch

    return Watch(Path(values["watch"]).expanduser(), values["watch_pattern"], values["watch_idle"])


def _setting_option(name: str, field: FieldInfo) -> click.Option:
    flags = _flags(name)
    kind, several = _kind(field.annotation)
    help_text = field.description or ""
    details = [part for part in (_unit(field), _limits(field), _default(field)) if part]
    if details:
        help_text += f" [{'; '.join(details)}]"
    if kind is bool:
        return click.Option(
            [f"{flags[0]}/--no-{name.replace('_', '-')}", f"setting_{name}"], default=None, help=help_text
        )
    if typing.get_origin(kind) is Literal:
        choice = click.Choice([str(value) for value in typing.get_args(kind)])
        return click.Option([*flags, f"setting_{name}"], type=choice, default=None, help=help_text)
    metavar = {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
    if several:
        metavar = f"{metavar},{metavar},..."
    return click.Option([*flags, f"setting_{name}"], type=str, default=None, help=help_text, metavar=metavar)


def _convert(value: Any, field: FieldInfo) -> Any:
    """Text to something that pydantic validates; lists are separated by commas."""
    _, several = _kind(field.annotation)
    if several and isinstance(value, str):
        return tuple(part for part in value.replace(",", " ").split() if part)
    if isinstance(value, str) and value.lower() in ("none", "auto") and _is_optional(field.annotation):
        return None
    return value


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The plain type behind an annotation, and whether several values are taken."""
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _kind(inner[0])
    if origin in (tuple, list):
        return _kind(typing.get_args(annotation)[0])[0], True
    if origin is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    return annotation, False


def _is_optional(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType) and type(None) in typing.get_args(annotation)


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _unit(field: FieldInfo) -> str:
    unit = _extra(field).get("unit")
    return f"in {unit}" if unit else ""


def _limits(field: FieldInfo) -> str:
    words = []
    for limit in field.metadata:
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            bound = getattr(limit, name, None)
            if bound is not None:
                words.append(f"{sign} {bound:g}")
    return ", ".join(words)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "default: found from the data"
    value = field.default
    if isinstance(value, float):
        return f"default: {value:g}"
    if isinstance(value, tuple):
        return f"default: {','.join(str(v) for v in value) or 'none'}"
    return f"default: {value}"
