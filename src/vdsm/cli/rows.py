"""Rows of plain values: a table for people, JSON for programs. Units are told by the ends of the columns' names."""

import json
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vdsm.cli.units import format_figure, format_label, format_printable

Row = Mapping[str, None | bool | int | str]


def print_rows(rows: Sequence[Row], *, as_json: bool) -> None:
    """Rows of the same columns; what storage made up is shown, and never obeyed by the terminal."""
    if as_json:
        print(json.dumps(list(rows), indent=2))
        return
    if not rows:
        print("Nothing.")
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0]:
        table.add_column(format_label(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_format(name, value)) for name, value in row.items()))
    Console().print(table)


def print_row(row: Row, *, as_json: bool) -> None:
    """One row, with a line for each of its columns that is not empty."""
    if as_json:
        print(json.dumps(row, indent=2))
        return
    named = [(format_label(name), _format(name, value)) for name, value in row.items()]
    print_rows([{"name": name, "value": text} for name, text in named if text], as_json=False)


def _format(name: str, value: None | bool | int | str) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    return format_printable(format_figure(name, value) if isinstance(value, int) else value)
