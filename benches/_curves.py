"""Latency curves as SVG: percentiles across, more room for each nine, and latency upwards, by tens.

A percentile q lies at log10(1 / (1 - q)), so the tail, which averages hide, takes most of the
picture. Both axes are logarithmic; a curve ends where a run had too few calls to say more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol
from xml.sax.saxutils import escape

#: Points of a curve: (share of all calls, milliseconds within which they were answered).
Curve = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 1080, 460
#: The names of the curves stand to the right, where no curve runs into them.
LEFT, RIGHT, TOP, BOTTOM = 74, 300, 52, 64
STEPS_PER_NINE = 16
TICKS = {0.0: "0", 0.5: "50 %", 0.9: "90 %", 0.99: "99 %", 0.999: "99.9 %", 0.9999: "99.99 %"}
#: Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#777777"
#: How lines are broken: limits, and series whose colour is taken.
LIMIT, AGAIN = "6 4", "2 2"


class Times(Protocol):
    """Durations in seconds whose distribution is known, such as a histogram's."""

    @property
    def count(self) -> int: ...
    def quantile(self, q: float, /) -> float: ...


def curve(times: Times) -> list[tuple[float, float]]:
    """The curve of these durations, up to the last percentile that their count can tell."""
    nines = math.log10(max(times.count, 1))
    steps = range(int(nines * STEPS_PER_NINE) + 1)
    shares = [1 - 10 ** (-step / STEPS_PER_NINE) for step in steps]
    return [(round(q, 7), round(times.quantile(q) * 1e3, 6)) for q in [*shares, 1.0]]


def render(title: str, curves: Mapping[str, Curve], limits: Sequence[str] = ()) -> str:
    """An SVG document; the curves named in `limits` are what the machine allows, and dashed."""
    points = {name: _places(values) for name, values in curves.items()}
    flat = [point for places in points.values() for point in places]
    if not flat:
        raise ValueError("nothing to draw: no curve has a point above zero")
    right = max(1.0, max(x for x, _ in flat))
    low = math.floor(min(y for _, y in flat))
    high = max(low + 1, math.ceil(max(y for _, y in flat)))
    scale = _Scale(right, low, high)
    head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    parts = [
        f'<svg {head} font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        *scale.grid(),
    ]
    for number, (name, places) in enumerate(points.items()):
        dash = LIMIT if name in limits else AGAIN if number >= len(COLOURS) else ""
        colour = GREY if name in limits else COLOURS[number % len(COLOURS)]
        parts += _line(scale, number, name, places, colour, dash)
    return "\n".join([*parts, "</svg>\n"])


def _places(values: Curve) -> list[tuple[float, float]]:
    """Where points lie on logarithmic axes; the maximum stands at the end of the line before."""
    places: list[tuple[float, float]] = []
    for share, milliseconds in values:
        if milliseconds > 0:
            last = places[-1][0] if places else 0.0
            places.append((-math.log10(1 - share) if share < 1 else last, math.log10(milliseconds)))
    return places


class _Scale:
    """From logarithms to the picture."""

    def __init__(self, right: float, low: int, high: int) -> None:
        self._right, self._low, self._high = right, low, high

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = LEFT + x / self._right * (WIDTH - LEFT - RIGHT)
        share = (y - self._low) / (self._high - self._low)
        return round(across, 1), round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def grid(self) -> Iterator[str]:
        bottom, top = HEIGHT - BOTTOM, TOP
        for decade in range(self._low, self._high + 1):
            _, y = self.at(0, decade)
            yield f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
            label = f"{10.0**decade:g} ms"
            yield f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>'
        for share, label in TICKS.items():
            if -math.log10(1 - share) <= self._right:
                x, _ = self.at(-math.log10(1 - share), self._low)
                yield f'<path d="M{x} {top}V{bottom}" stroke="#dddddd"/>'
                yield f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{label}</text>'
        words = "percentile: so many of the calls took no longer"
        yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 22}" text-anchor="end">{words}</text>'


def _line(
    scale: _Scale,
    number: int,
    name: str,
    places: Sequence[tuple[float, float]],
    colour: str,
    broken: str,
) -> Iterator[str]:
    path = " ".join(f"{x},{y}" for x, y in (scale.at(*place) for place in places))
    dash = f' stroke-dasharray="{broken}"' if broken else ""
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
    x, y = WIDTH - RIGHT + 16, TOP + 12 + 18 * number
    yield f'<path d="M{x} {y - 4}h26" stroke="{colour}" stroke-width="2"{dash}/>'
    yield f'<text x="{x + 34}" y="{y}">{escape(name)}</text>'
