"""What is printed: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from warren.cli.parse import age_text
from warren.cli.screen import printable

if TYPE_CHECKING:
    from warren.cli.common import Settings

__all__ = [
    "age",
    "bytes_text",
    "cells_text",
    "cpus_text",
    "show",
    "show_line",
    "show_list",
    "show_records",
]

T = TypeVar("T", bound=msgspec.Struct)

STALE_LINE: Final = "stale: as one manager has it, which may be old"

_GAP: Final = "   "
_ID_DIGITS: Final = 12
_STYLES: Final = {
    "running": "green",
    "ready": "green",
    "pending": "yellow",
    "failed": "red",
    "rejected": "red",
    "lost": "red",
    "down": "red",
}


def short(identifier: str | None) -> str:
    """The beginning of an id, as people read it; `-` where there is none."""
    return identifier[:_ID_DIGITS] if identifier else "-"


def age(moment: str | None, now_s: float | None = None) -> str:
    """How long ago an RFC 3339 time was. `now_s`: seconds since the epoch; default: the clock's."""
    from datetime import datetime

    if moment is None:
        return "-"
    now_s = time.time() if now_s is None else now_s
    return age_text(int((now_s - datetime.fromisoformat(moment).timestamp()) * 1000))


def bytes_text(size_bytes: int) -> str:
    """A size in binary units, as in `64 MiB`."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def cpus_text(cpu_milli: int) -> str:
    """A number of CPUs, as in `0.5`."""
    return f"{cpu_milli / 1000:g}"


def show_list(
    settings: Settings,
    items: Sequence[T],
    header: tuple[str, ...],
    row: Callable[[T], tuple[str, ...]],
) -> None:
    """Print a list: a table with one row an item, or all of every item as JSON or YAML."""
    if settings.format != "table":
        _show_data(settings, [_marked(settings, item) for item in items])
        return
    rows = [tuple(printable(cell) for cell in row(item)) for item in items]
    if sys.stdout.isatty():
        _show_rich(header, rows)
    else:
        click.echo(cells_text([header, *rows]))
    if settings.stale:
        click.echo(STALE_LINE)


def show(
    settings: Settings, item: msgspec.Struct, blocks: Mapping[str, str | None] | None = None
) -> None:
    """Print one thing in full. `blocks`: what people see instead of a field; None: nothing."""
    if settings.format != "table":
        _show_data(settings, _marked(settings, item))
        return
    blocks = blocks or {}
    lines: list[str] = []
    for name, value in msgspec.to_builtins(item).items():
        if name not in blocks:
            lines += _lines({name: value}, "")
        elif (block := blocks[name]) is not None:
            lines.append(block)
    click.echo("\n".join(lines))
    if settings.stale:
        click.echo(STALE_LINE)


def _marked(settings: Settings, item: msgspec.Struct) -> Any:
    """What was asked for as it may be old says so, on each thing."""
    if not settings.stale:
        return item
    return {**msgspec.to_builtins(item), "stale": True}


def show_line(settings: Settings, item: msgspec.Struct, text: str) -> None:
    """Print what a command did: `text` for people, `item` for programs."""
    if settings.format == "table":
        click.echo(text)
    else:
        _show_data(settings, item)


def show_records(settings: Settings, items: Iterable[T], line: Callable[[T], str]) -> None:
    """Print some of a long sequence: a line, a line of JSON or a document of YAML for each."""
    if settings.format == "table":
        text = "".join(f"{printable(line(item))}\n" for item in items)
    elif settings.format == "json":
        text = "".join(f"{msgspec.json.encode(item).decode()}\n" for item in items)
    else:
        import yaml

        text = yaml.safe_dump_all(
            map(msgspec.to_builtins, items),
            sort_keys=False,
            allow_unicode=True,
            explicit_start=True,
        )
    click.echo(text, nl=False)


def cells_text(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as columns of equal width, nothing cut off."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _show_rich(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold")
    for title in header:
        # The last column is prose; of an id or a name nothing may be lost before that is folded.
        table.add_column(Text(title), no_wrap=title != header[-1], overflow="fold")
    for cells in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in cells))
    Console(soft_wrap=False, highlight=False).print(table)


def _show_data(settings: Settings, data: Any) -> None:
    if settings.format == "json":
        encoded = msgspec.json.encode(data)
        click.echo(msgspec.json.format(encoded, indent=2))
        return
    import yaml

    click.echo(
        yaml.safe_dump(msgspec.to_builtins(data), sort_keys=False, allow_unicode=True), nl=False
    )


def _lines(value: Any, indent: str) -> list[str]:
    """A nested value as indented `name: value` lines; what is null or empty is left out."""
    lines = []
    for name, inner in value.items():
        if inner is None or inner == [] or inner == {}:
            continue
        if isinstance(inner, dict):
            lines += [f"{indent}{name}:", *_lines(inner, indent + "  ")]
        elif isinstance(inner, list):
            lines.append(f"{indent}{name}:")
            for each in inner:
                nested = _lines(each, indent + "    ") if isinstance(each, dict) else None
                first = nested[0].lstrip() if nested else _scalar(each)
                lines += [f"{indent}  - {first}", *(nested[1:] if nested else [])]
        else:
            lines.append(f"{indent}{name}: {_scalar(inner)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
