"""Lines of a screen: styled text, columns, bars and sparklines, for any width. Pure.

A width of None is that of a pipe or a file: nothing is folded or cut off there.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = [
    "Line",
    "Span",
    "bar",
    "beside",
    "clip",
    "columns",
    "crop",
    "line",
    "line_width",
    "paint",
    "printable",
    "prose",
    "spark",
    "text_width",
]

_GAP: Final = "  "
_PROSE_COLUMNS_MIN: Final = 24
_SGR: Final = {
    "bold": "1",
    "dim": "2",
    "good": "32",
    "warn": "33",
    "bad": "31",
    "alarm": "1;31",
    "accent": "36",
}
_SPARKS: Final = "▁▂▃▄▅▆▇█"
# For terminals that have no more than ASCII.
_PLAIN: Final = str.maketrans("▁▂▃▄▅▆▇█▓░…→≤µ", "__..--=#=.~><u")


class Span(NamedTuple):
    """Text in one style: a key of the styles above, or none."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def line(*parts: str | Span) -> Line:
    """A line of plain and styled parts."""
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts)


def printable(text: str) -> str:
    """What containers and hosts say of themselves must not drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def text_width(text: str) -> int:
    """Columns that a text takes: two for wide characters, none for those that combine."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def line_width(of: Line) -> int:
    """Columns that a line takes."""
    return sum(text_width(span.text) for span in of)


def clip(text: str, width: int) -> str:
    """`text` in at most `width` columns; of what is too long the middle goes.

    Names of a fleet differ at their ends as often as at their beginnings.
    """
    if text_width(text) <= width:
        return text
    if width < 2:
        return "…" * max(0, width)
    tail = (width - 1) // 3
    return _head(text, width - 1 - tail) + "…" + _head(text[::-1], tail)[::-1]


def _head(text: str, width: int) -> str:
    taken = 0
    for at, c in enumerate(text):
        taken += text_width(c)
        if taken > width:
            return text[:at]
    return text


def _pad(span: Span, width: int, *, right: bool) -> Span:
    blank = " " * max(0, width - text_width(span.text))
    return Span(blank + span.text if right else span.text + blank, span.style)


def prose(text: str, width: int | None, indent: str = "", style: str = "") -> list[Line]:
    """A sentence as lines of at most `width` columns, each after `indent`."""
    if width is None:
        return [line(indent, Span(text, style))]
    room = max(_PROSE_COLUMNS_MIN, width - len(indent))
    return [
        line(indent, Span(part, style))
        for part in textwrap.wrap(text, room, break_on_hyphens=False)
    ] or [()]


def crop(of: Line, width: int) -> Line:
    """A line without what is beyond `width` columns."""
    kept: list[Span] = []
    room = width
    for span in of:
        text = span.text if text_width(span.text) <= room else _head(span.text, room)
        kept.append(Span(text, span.style))
        room -= text_width(text)
    return tuple(kept)


def columns(
    rows: Sequence[Sequence[Span]],
    width: int | None,
    *,
    indent: str = "  ",
    right: Iterable[int] = (),
    fold_last: bool = False,
) -> list[Line]:
    """Rows as columns; `right`: the numbers of those that are aligned to the right.

    Where they do not fit, the widest columns but the last are clipped. `fold_last`: the last one is
    prose, which goes on in the next line.
    """
    if not rows:
        return []
    to_right = set(right)
    widths = [max(text_width(row[n].text) for row in rows) for n in range(len(rows[0]))]
    if width is not None:
        _shrink(widths, width - len(indent) - len(_GAP) * (len(widths) - 1), fold_last)
    lines: list[Line] = []
    for row in rows:
        cells = [
            _pad(Span(clip(span.text, room), span.style), room, right=n in to_right)
            for n, (span, room) in enumerate(zip(row[:-1], widths[:-1], strict=True))
        ]
        before = [Span(indent), *(part for cell in cells for part in (cell, Span(_GAP)))]
        lines += _with_last(before, row[-1], widths[-1], fold=fold_last and width is not None,
                            right=len(widths) - 1 in to_right)  # fmt: skip
    return lines


def _with_last(before: list[Span], last: Span, room: int, *, fold: bool, right: bool) -> list[Line]:
    if not fold:
        cell = Span(clip(last.text, room), last.style)
        return [(*before, _pad(cell, room, right=True) if right else cell)]
    parts = textwrap.wrap(last.text, room, break_on_hyphens=False) or [""]
    blank = Span(" " * line_width(tuple(before)))
    first = (*before, Span(parts[0], last.style))
    return [first, *((blank, Span(part, last.style)) for part in parts[1:])]


def _shrink(widths: list[int], room: int, fold_last: bool) -> None:
    """Make `widths` fit into `room`: prose is folded first, then the widest columns are clipped."""
    if fold_last and sum(widths) > room:
        least = max(_PROSE_COLUMNS_MIN, room * 9 // 20)
        widths[-1] = min(widths[-1], max(least, room - sum(widths[:-1])))
    clipped = range(len(widths) - 1) if fold_last and len(widths) > 1 else range(len(widths))
    while sum(widths) > room:
        widest = max(clipped, key=lambda n: widths[n])
        if widths[widest] <= 1:
            return
        widths[widest] -= 1


def beside(left: Sequence[Line], right: Sequence[Line], left_width: int) -> list[Line]:
    """Two blocks side by side, the right one from column `left_width` on."""
    lines = []
    for n in range(max(len(left), len(right))):
        own = left[n] if n < len(left) else ()
        other = right[n] if n < len(right) else ()
        blank = Span(" " * max(0, left_width - line_width(own)))
        lines.append((*own, blank, *other) if other else own)
    return lines


def bar(used: float | None, reserved: float, whole: float, width: int) -> Span:
    """What is used (solid), reserved (shaded) and free of `whole`; red where little is left."""
    if whole <= 0 or width <= 0:
        return Span("░" * max(0, width), "dim")
    share = max(reserved, used or 0) / whole
    solid = _cells((used or 0) / whole, width)
    shaded = max(0, _cells(reserved / whole, width) - solid)
    style = "bad" if share >= 0.95 else "warn" if share >= 0.8 else "good"
    return Span("█" * solid + "▓" * shaded + "░" * (width - solid - shaded), style)


def _cells(share: float, width: int) -> int:
    # What is not nothing is seen.
    cells = min(width, max(0, round(share * width)))
    return max(cells, 1) if share > 0 else 0


def spark(values: Sequence[float | None], width: int) -> str:
    """The newest `width` values, between zero and the highest of them; blank: not known."""
    newest = list(values)[-width:] if width > 0 else []
    top = max((value for value in newest if value is not None), default=0.0)
    marks = "".join(
        " " if value is None else _SPARKS[round(value / top * 7) if top > 0 else 0]
        for value in newest
    )
    return marks.rjust(width)


def paint(lines: Iterable[Line], *, colour: bool, plain: bool = False) -> list[str]:
    """Lines as they are written. `colour`: with ANSI sequences; `plain`: in ASCII marks only."""
    return [_painted(each, colour, plain) for each in lines]


def _painted(of: Line, colour: bool, plain: bool) -> str:
    parts = []
    spans = list(of)
    while spans and not spans[-1].text.strip():
        spans.pop()
    for n, span in enumerate(spans):
        text = span.text.rstrip() if n == len(spans) - 1 else span.text
        text = text.translate(_PLAIN) if plain else text
        code = _SGR.get(span.style, "") if colour else ""
        parts.append(f"\x1b[{code}m{text}\x1b[0m" if code and text else text)
    return "".join(parts)
