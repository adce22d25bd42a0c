"""Answers as tables for people, drawn from the declared shapes of results; JSON for programs is left to `client`."""

import json
import types
from typing import Annotated, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, UnsetType
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from vdsm.api.declare import Ovirt, Verb
from vdsm.api.vm_types import DisplayInfo
from vdsm.cli.units import format_figure, format_label, format_printable
from vdsm.cli.views import COLUMNS, SUMMARIES

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

_NOTHING: tuple[Json, ...] = (None, "", [], {})
_STYLES = {"Up": "green", "Active": "green", "success": "green", "SPM": "green", "Down": "red", "failure": "red"}
_STYLES |= {"Paused": "yellow", "Unknown": "yellow", "cleanFailure": "red", "down": "red", "up": "green"}


class Field(Struct, frozen=True):
    """One field of a shape: our name, the name in the answer, what it holds."""

    name: str
    wire: str
    hint: object


def print_answer(console: Console, verb: Verb, answer: Json) -> None:
    """Draw a verb's answer; what does not fit its declaration is drawn as it came."""
    hint = _bare(verb.returns)
    if hint is type(None) or answer is True:
        console.print("Done")
        return
    drawn = _draw(hint, answer, "")
    for index, part in enumerate(drawn or [Text("nothing", style="dim")]):
        if index:
            console.print()
        console.print(part)
    if isinstance(answer, dict) and hint in SUMMARIES:
        console.print(Text("This is a summary: --json prints everything.", style="dim"))


def list_fields(struct: type[Struct]) -> dict[str, Field]:
    """The fields of a shape by our names, in the order of their declaration."""
    hints = get_type_hints(struct, include_extras=True)
    fields = {}
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        extras = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        wire = next((extra.name for extra in extras if isinstance(extra, Ovirt)), field.name)
        fields[field.name] = Field(field.name, wire, _bare(hint))
    return fields


def _bare(hint: object) -> object:
    """A declared type without its notes and without "may be absent"."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        return _bare(next(arg for arg in get_args(hint) if arg not in (UnsetType, type(None))))
    return hint


def _struct(hint: object) -> type[Struct] | None:
    return hint if isinstance(hint, type) and issubclass(hint, Struct) else None


def _item(hint: object) -> type[Struct] | None:
    """The shape of a list's or a map's members, when they have one."""
    return _struct(_bare(get_args(hint)[-1])) if get_origin(hint) in (list, dict) else None


def _draw(hint: object, value: Json, title: str) -> list[RenderableType]:
    shape = _struct(hint)
    item = _item(hint) or shape
    if value in _NOTHING:
        return []
    if isinstance(value, list) and item is not None and all(isinstance(row, dict) for row in value):
        if len(value) == 1 and shape is not None and isinstance(value[0], dict):
            return _draw_details(shape, value[0], title)
        return [_draw_rows(item, [("", row) for row in value if isinstance(row, dict)], title)]
    if isinstance(value, dict):
        if shape is not None:
            return _draw_details(shape, value, title)
        rows = [(key, row) for key, row in value.items() if isinstance(row, dict)]
        if item is not None and len(rows) == len(value):
            return [_draw_rows(item, sorted(rows, key=lambda pair: pair[0]), title)]
    return [_draw_plain(value, title)]


def _draw_rows(shape: type[Struct], rows: list[tuple[str, dict[str, Json]]], title: str) -> Table:
    fields = list_fields(shape)
    chosen = [fields[name] for name in COLUMNS.get(shape, tuple(fields)) if _is_cell(fields[name].hint)]
    chosen = [field for field in chosen if any(row.get(field.wire) not in _NOTHING for _, row in rows)]
    keyed = any(key and key not in [row.get(field.wire) for field in chosen] for key, row in rows)
    table = _table(title)
    table.box = box.SIMPLE_HEAD
    for heading in (["name"] if keyed else []) + [format_label(field.name) for field in chosen]:
        table.add_column(heading, overflow="fold")
    for key, row in rows:
        cells = [_draw_cell(field, row.get(field.wire)) for field in chosen]
        table.add_row(*([_text(key)] if keyed else []), *cells)
    return table


def _draw_details(shape: type[Struct], value: dict[str, Json], title: str) -> list[RenderableType]:
    fields = list_fields(shape)
    chosen = [fields[name] for name in SUMMARIES.get(shape, tuple(fields))]
    table = _grid(title)
    sections: list[RenderableType] = []
    for field in chosen:
        inner = value.get(field.wire)
        if inner in _NOTHING:
            continue
        if _is_cell(field.hint):
            table.add_row(format_label(field.name), _draw_cell(field, inner))
        else:
            sections += _draw(field.hint, inner, format_label(field.name))
    return ([table] if table.row_count else []) + sections


def _draw_plain(value: Json, title: str) -> RenderableType:
    if isinstance(value, dict):
        table = _grid(title)
        for key, inner in value.items():
            table.add_row(format_printable(key), _text(_format_plain(inner)))
        return table
    lines = value if isinstance(value, list) else [value]
    return _text("\n".join(_format_plain(line) for line in lines))


def _table(title: str) -> Table:
    """A table without a frame."""
    return Table(
        title=title or None, title_justify="left", title_style="bold", box=None, show_edge=False, pad_edge=False
    )


def _grid(title: str) -> Table:
    table = _table(title)
    table.show_header = False
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _is_cell(hint: object) -> bool:
    """Whether a value of this type is short enough to stand in one cell."""
    if hint is DisplayInfo or _item(hint) is DisplayInfo:
        return True
    if get_origin(hint) in (list, dict):
        return all(_struct(_bare(arg)) is None and get_origin(_bare(arg)) not in (list, dict) for arg in get_args(hint))
    return _struct(hint) is None


def _draw_cell(field: Field, value: Json) -> Text:
    if _item(field.hint) is DisplayInfo and isinstance(value, list):
        return _text(", ".join(_format_display(display) for display in value if isinstance(display, dict)))
    if isinstance(value, list):
        return _text(", ".join(_format_figure(field.name, inner) for inner in value))
    if isinstance(value, dict):
        return _text(", ".join(f"{key}={_format_figure(field.name, inner)}" for key, inner in value.items()))
    if field.hint is bool:
        return _text({"true": "yes", "false": "no"}.get(str(value).lower(), str(value)))
    return _text(_format_figure(field.name, value))


def _format_figure(name: str, value: Json) -> str:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return format_figure(name, value)
    return _format_plain(value)


def _format_plain(value: Json) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, (int, float, str)) else json.dumps(value, sort_keys=True)


def _format_display(display: dict[str, Json]) -> str:
    ports = [str(display.get(name)) for name in ("port", "tlsPort") if display.get(name) not in (None, "", "-1")]
    return f"{display.get('type', '')} {display.get('ipAddress', '')}{':' if ports else ''}{'/'.join(ports)}"


def _text(text: str) -> Text:
    return Text(format_printable(text), style=_STYLES.get(text, ""))
