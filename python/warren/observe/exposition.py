"""Joins metrics in Prometheus' text format that come from several places into one valid text.

The format allows each name one HELP and TYPE and one group of lines; a scraper may refuse the
whole text otherwise. So the first source of a name wins, and what is left out is counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

_HEADER: Final = re.compile(rb"^# (?:HELP|TYPE) ([^\s]+)", re.MULTILINE)

HEADERLESS: Final = "headerless"
DUPLICATE: Final = "duplicate"


def families(text: bytes) -> list[tuple[bytes, bytes]]:
    """Split a text into `(name, block)`: headers and the lines up to the next name's headers.

    Lines before the first header come under an empty name.
    """
    if text and not text.endswith(b"\n"):
        text += b"\n"
    starts: list[tuple[bytes, int]] = [(b"", 0)]
    for header in _HEADER.finditer(text):
        if header[1] != starts[-1][0]:
            starts.append((header[1], header.start()))
    ends = [at for _, at in starts[1:]] + [len(text)]
    return [(name, text[at:end]) for (name, at), end in zip(starts, ends, strict=True) if end > at]


def join(texts: Iterable[tuple[str, bytes]]) -> tuple[bytes, Counter[tuple[str, str]]]:
    """Join the texts of named sources.

    Gives the text and how many families were left out, by (source, reason): `duplicate` for a
    name that was there already, `headerless` for samples without HELP or TYPE.
    """
    seen: set[bytes] = set()
    kept: list[bytes] = []
    left_out: Counter[tuple[str, str]] = Counter()
    for source, text in texts:
        for name, block in families(text):
            if not name:
                if block.strip():
                    left_out[source, HEADERLESS] += 1
            elif name in seen:
                left_out[source, DUPLICATE] += 1
            else:
                seen.add(name)
                kept.append(block)
    return b"".join(kept), left_out
