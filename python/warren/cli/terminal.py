"""The terminal that a screen is written to: its size, its colours, and a live screen on it."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Final

import click

from warren.cli.screen import Line, paint

__all__ = ["Live", "columns", "has_colour", "is_plain", "size", "write"]

_SIZE_DEFAULT: Final = (80, 24)
_COLUMNS_MIN: Final = 40


def size() -> tuple[int, int]:
    """Columns and rows of the terminal; COLUMNS and LINES win."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        found = os.terminal_size(_SIZE_DEFAULT)
    return max(_COLUMNS_MIN, _number("COLUMNS") or found[0]), _number("LINES") or found[1]


def columns() -> int | None:
    """Columns of the terminal; None where nothing may be cut off: a pipe or a file."""
    return size()[0] if sys.stdout.isatty() or _number("COLUMNS") else None


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0


def has_colour() -> bool:
    """Whether what is written may have colours: a terminal, unless NO_COLOR or TERM=dumb."""
    dumb = os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and not dumb


def is_plain() -> bool:
    """Whether there are only ASCII characters."""
    try:
        "█…→".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def write(lines: Iterable[Line]) -> None:
    """Write lines to standard output, as it is."""
    painted = paint(lines, colour=has_colour(), plain=is_plain())
    click.echo("\n".join(painted))


_ENTER: Final = "\x1b[?1049h\x1b[?25l"  # the other screen, without a cursor
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_SLICE_S: Final = 0.2  # how long a change of the size goes unnoticed


class Live:
    """A screen of its own on the terminal, and its keys. Use as `with`.

    Whatever ends it, the terminal is as it was afterwards. Ctrl-C, SIGTERM and SIGHUP raise
    KeyboardInterrupt, which is swallowed: it is how one leaves. Ctrl-Z does nothing.
    """

    def __init__(self) -> None:
        self._modes: list[Any] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self._colour = has_colour()
        self._plain = is_plain()

    def __enter__(self) -> Live:
        import termios
        import tty

        self._modes = termios.tcgetattr(sys.stdin.fileno())
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, _interrupt)
        self._handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        tty.setcbreak(sys.stdin.fileno())
        _put(_ENTER)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        import termios

        _put(_LEAVE)
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._modes)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        return kind is KeyboardInterrupt

    def show(self, lines: Iterable[Line], height: int) -> None:
        """Put `lines` in place of what was there, without a flicker; at most `height` of them."""
        painted = paint(lines, colour=self._colour, plain=self._plain)[:height]
        _put("\x1b[H" + "\r\n".join(f"{text}\x1b[K" for text in painted) + "\x1b[J")

    def wait(self, seconds: float, shown: tuple[int, int]) -> bool:
        """Until it is time for the next look, or the size is another than `shown`.

        Whether `q` was typed, or nothing more can be: standard input has ended.
        """
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and size() == shown:
            ready, _, _ = select.select([sys.stdin], [], [], min(left_s, _SLICE_S))
            if ready and os.read(sys.stdin.fileno(), 64)[:1] in (b"q", b"Q", b""):
                return True
        return False


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _put(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
