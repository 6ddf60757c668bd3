"""What a daemon exports at one moment, compared with what it ought to be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (\S+)")
_BUCKET = re.compile(r'(.+)_bucket(?:\{(.*),?le="([^"]+)"\})')


@dataclass(frozen=True)
class Within:
    """A number that nobody can tell exactly: both bounds belong to it, and `why` says why."""

    low: float
    high: float
    why: str

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


Expected = Mapping[str, float | Within]
"""By sample: its name with labels, as it stands in the text. Buckets are not named."""


def samples(text: str) -> dict[str, float]:
    """Each sample of a scrape, by its name with labels."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.fullmatch(line)
            assert match is not None, f"not a sample: {line!r}"
            name = match[1] + (match[2] or "")
            assert name not in found, f"{name} is there twice"
            found[name] = float(match[3])
    return found


def family_of(sample: str) -> str:
    """The metric that a sample belongs to, be it a histogram's or not."""
    return re.sub(r"_(bucket|sum|count)$", "", sample.partition("{")[0])


def differences(found: Mapping[str, float], expected: Expected) -> list[str]:
    """A sentence for each sample that is not as expected, that is missing, or that nobody expects;
    and for each histogram whose buckets do not add up.
    """
    wrong = [
        f"{name} is {found.get(name)}, and not {wanted}"
        for name, wanted in expected.items()
        if name not in found or not _agrees(found[name], wanted)
    ]
    plain = {name for name in found if not _BUCKET.fullmatch(name)}
    wrong += [f"nobody says what {name} ought to be" for name in sorted(plain - expected.keys())]
    return [*wrong, *_broken_histograms(found)]


def _agrees(value: float, wanted: float | Within) -> bool:
    return value in wanted if isinstance(wanted, Within) else value == wanted


def _broken_histograms(found: Mapping[str, float]) -> list[str]:
    """Those whose buckets fall, or whose last one is not their count."""
    buckets: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name, value in found.items():
        if match := _BUCKET.fullmatch(name):
            labels = match[2].rstrip(",")
            buckets.setdefault((match[1], labels), []).append((float(match[3]), value))
    wrong = []
    for (name, labels), pairs in buckets.items():
        counts = [count for _, count in sorted(pairs)]
        braces = f"{{{labels}}}" if labels else ""
        ends = (max(pairs)[0], counts[-1])
        if counts != sorted(counts) or ends != (math.inf, found[f"{name}_count{braces}"]):
            wrong.append(f"the buckets of {name}{braces} do not add up")
    return wrong
