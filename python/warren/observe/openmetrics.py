"""The OpenMetrics text format, for scrapers that ask for it (OpenMetrics 1.0.0).

Metrics are rendered in Prometheus' own text format; what differs is little: a counter's family is
named without `_total`, bucket bounds are written as floats, the text ends in a line of its own,
and buckets may carry an exemplar.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CONTENT_TYPE", "EOF", "accepted", "exemplar", "translated"]

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
EOF: Final = b"# EOF\n"

_MEDIA_TYPE: Final = b"application/openmetrics-text"
_TEXT: Final = (b"text/plain", b"text/*", b"*/*")
_VERSIONS: Final = (b"1.0.0", b"0.0.1")
_COUNTER: Final = re.compile(rb"^# TYPE (\S+)_total counter$", re.MULTILINE)
_WHOLE_BOUND: Final = re.compile(rb'([{,]le="\d+)"')


def accepted(header: bytes) -> bool:
    """Whether an `Accept` header prefers OpenMetrics to text (RFC 9110, section 12.5.1).

    What is malformed, of a version that is not spoken here, or merely allows everything, does not.
    """
    wanted = text = 0.0
    for part in header.lower().split(b","):
        media_type, *parameters = (piece.strip() for piece in part.split(b";"))
        named = dict(pair.partition(b"=")[::2] for pair in parameters)
        weight = _weight(named.get(b"q", b"1"))
        if media_type == _MEDIA_TYPE:
            if named.get(b"version", _VERSIONS[0]) in _VERSIONS:
                wanted = max(wanted, weight)
        elif media_type in _TEXT:
            text = max(text, weight)
    return wanted > 0 and wanted >= text


def _weight(q: bytes) -> float:
    try:
        return min(max(float(q), 0.0), 1.0)
    except ValueError:
        return 0.0


def exemplar(label: str, found: tuple[str, float, float] | None) -> str:
    """What stands behind a bucket's number: the example under `label`, its value and its time."""
    if found is None:
        return ""
    example, seconds, when = found
    return f' # {{{label}="{example}"}} {seconds!r} {when:.3f}'


def translated(block: bytes) -> bytes:
    """One family in Prometheus' text format, as OpenMetrics."""
    if counter := _COUNTER.search(block, 0, block.find(b"\n", block.find(b"# TYPE "))):
        name = counter[1]
        for head in (b"# HELP ", b"# TYPE "):
            block = block.replace(head + name + b"_total ", head + name + b" ", 1)
        return block
    return _WHOLE_BOUND.sub(rb'\1.0"', block) if b" histogram\n" in block else block
