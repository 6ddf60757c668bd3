"""Lines, columns, bars and sparklines at any width."""

from __future__ import annotations

import pytest

from warren.cli import screen
from warren.cli.screen import Span


def text(lines: list[screen.Line]) -> list[str]:
    return screen.paint(lines, colour=False)


@pytest.mark.parametrize(
    ("long", "width", "short"),
    [
        ("web", 3, "web"),
        ("production-web-17", 10, "produc…-17"),
        ("web", 1, "…"),
        ("web", 0, ""),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日…"),
    ],
)
def test_what_is_too_long_loses_its_middle(long: str, width: int, short: str) -> None:
    assert screen.clip(long, width) == short
    assert screen.text_width(short) <= max(width, 0)


def test_columns_are_as_wide_as_they_need_where_there_is_room() -> None:
    rows = [[Span("NAME"), Span("N")], [Span("web"), Span("12")]]
    assert text(screen.columns(rows, 80, right=(1,))) == ["  NAME   N", "  web   12"]


def test_prose_is_folded_and_names_are_clipped() -> None:
    rows = [[Span("n" * 60), Span("one two three four five six seven eight nine ten")]]
    lines = text(screen.columns(rows, 60, fold_last=True))
    assert len(lines) > 1
    assert max(map(screen.text_width, lines)) <= 60
    assert "…" in lines[0]
    assert " ".join(" ".join(lines).split()).endswith("eight nine ten")


def test_into_a_pipe_nothing_is_cut_off() -> None:
    rows = [[Span("n" * 300), Span("why " * 100)]]
    (line,) = text(screen.columns(rows, None, fold_last=True))
    assert "n" * 300 in line
    assert line.count("why") == 100


def test_a_bar_shows_what_is_used_held_and_free() -> None:
    assert screen.bar(25, 50, 100, 8) == Span("██▓▓░░░░", "good")
    assert screen.bar(None, 81, 100, 10).style == "warn"
    assert screen.bar(97, 0, 100, 10).style == "bad"
    assert screen.bar(None, 1, 1_000_000, 4).text == "▓░░░", "what is not nothing is seen"
    assert screen.bar(5, 5, 0, 3).text == "░░░"
    assert screen.bar(300, 500, 100, 4).text == "████", "more than there is fits the bar"


def test_a_sparkline_rises_from_zero_to_the_highest() -> None:
    assert screen.spark([0, 50, 100], 3) == "▁▅█"
    assert screen.spark([1, None, 0], 5) == "  █ ▁"
    assert screen.spark([], 2) == "  "
    assert screen.spark([9, 9, 0, 0], 2) == "▁▁", "only what is shown counts"


def test_colour_and_marks_are_left_out_where_there_are_none() -> None:
    line = (Span("down", "alarm"), Span(" █…→ 5 µs  "))
    assert screen.paint([line], colour=True)[0].startswith("\x1b[1;31mdown\x1b[0m █…→")
    assert screen.paint([line], colour=False) == ["down █…→ 5 µs"]
    assert screen.paint([line], colour=False, plain=True) == ["down #~> 5 us"]


def test_a_name_does_not_drive_the_terminal() -> None:
    assert screen.printable("a\x1b[2Jb\nc") == "a [2Jb c"
