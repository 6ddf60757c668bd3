"""Joins metrics in Prometheus' text format that come from several places into one valid text.

The format allows each name one HELP and TYPE and one group of lines; a scraper may refuse the
whole text otherwise. So the first source of a name wins, and what is left out is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Protocol, runtime_checkable

_HEADER: Final = re.compile(rb"# (?:HELP|TYPE) ([^\s]+)")

HEADERLESS: Final = "headerless"
DUPLICATE: Final = "duplicate"


def families(text: bytes) -> list[tuple[bytes, bytes]]:
    """Split a text into `(name, block)`: headers and the lines up to the next name's headers.

    Lines before the first header come under an empty name.
    """
    if text and not text.endswith(b"\n"):
        text += b"\n"
    starts: list[tuple[bytes, int]] = [(b"", 0)]
    # Line by line of those that begin with a mark: a search over all of the text by the expression
    # would hold the interpreter for long.
    at = 0 if text.startswith(b"#") else text.find(b"\n#") + 1
    while text.startswith(b"#", at):
        header = _HEADER.match(text, at)
        if header is not None and header[1] != starts[-1][0]:
            starts.append((header[1], at))
        at = text.find(b"\n#", at) + 1
        if not at:
            break
    ends = [at for _, at in starts[1:]] + [len(text)]
    return [(name, text[at:end]) for (name, at), end in zip(starts, ends, strict=True) if end > at]


def escape_label(value: str) -> str:
    """A label value for the text format (Prometheus exposition format 0.0.4)."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def escape_help(text: str) -> str:
    """A help text for the text format."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def label_text(labels: Iterable[str], values: Iterable[str]) -> str:
    """Labels and their values as they stand between braces."""
    pairs = zip(labels, values, strict=True)
    return ",".join(f'{label}="{escape_label(value)}"' for label, value in pairs)


def header(name: str, kind: str, documentation: str) -> str:
    """HELP and TYPE of one family."""
    return f"# HELP {name} {escape_help(documentation)}\n# TYPE {name} {kind}\n"


@runtime_checkable
class Rendering(Protocol):
    """A collector that makes its own text, for it has many series.

    prometheus-client takes microseconds for each, and holds the interpreter meanwhile.
    """

    def blocks(self, *, openmetrics: bool) -> Iterable[tuple[str, bytes]]:
        """Each family: its name in Prometheus' text format, and its block."""
        ...


class Page:
    """Collects families into one text; the first source of a name wins.

    `left_out` counts families by (source, reason): `duplicate` for a name that was there already,
    `headerless` for samples without HELP or TYPE.
    """

    def __init__(self) -> None:
        self.left_out: Counter[tuple[str, str]] = Counter()
        self._seen: set[bytes] = set()
        self._blocks: list[bytes] = []

    def add(self, source: str, name: bytes, block: bytes) -> None:
        """One family: all of its lines, headers first."""
        if not name:
            if block.strip():
                self.left_out[source, HEADERLESS] += 1
        elif name in self._seen:
            self.left_out[source, DUPLICATE] += 1
        else:
            self._seen.add(name)
            self._blocks.append(block)

    def add_text(
        self, source: str, text: bytes, translate: Callable[[bytes], bytes] = bytes
    ) -> None:
        """All families of a text, each as `translate` has it."""
        for name, block in families(text):
            self.add(source, name, translate(block))

    def text(self) -> bytes:
        """All of it."""
        return b"".join(self._blocks)
