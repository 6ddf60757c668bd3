"""What `top` shows, as lines for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from warren.cli.render import bytes_text, cpus_text, short
from warren.cli.screen import (
    Line,
    Span,
    bar,
    beside,
    clip,
    columns,
    crop,
    line,
    printable,
    prose,
    spark,
)

if TYPE_CHECKING:
    from warren.cli.shapes_status import RatesView, TopNodeView, TopServiceView, TopView
    from warren.cli.views_top import Trends

__all__ = ["lines", "nodes_shown"]

_T = TypeVar("_T")

_BESIDE_COLUMNS: Final = 150  # from here on, services stand beside nodes
_NAME_MAX: Final = 40
_GAP: Final = 4
_HEAD_ROWS: Final = 11  # everything but the rows of nodes and services


def nodes_shown(width: int, height: int) -> int:
    """Of how many nodes there is a row: more than these need not be asked what they use."""
    return max(3, height - _HEAD_ROWS if width >= _BESIDE_COLUMNS else (height - _HEAD_ROWS) // 2)


def lines(
    view: TopView, trends: Trends, width: int, height: int | None, *, said: str = ""
) -> list[Line]:
    """The screen. `height`: rows that there are, None: as many as it takes; `said`: a last word."""
    head = [*_head(view, width, said), (), *_rates(view, trends, width), ()]
    if width >= _BESIDE_COLUMNS:
        left = (width - _GAP) // 2
        rows = None if height is None else height - len(head) - 1
        nodes = _nodes(view.nodes, left, rows)
        services = _services(view.services, trends, width - left - _GAP, rows)
        body = beside(nodes, services, left + _GAP)
    else:
        room = None if height is None else max(6, height - len(head) - 1)
        # Services take what nodes leave, and the other way round.
        rows = None if room is None else max(room // 2, room - len(view.services) - 3)
        nodes = _nodes(view.nodes, width, rows)
        rows = None if room is None else room - len(nodes) - 1
        body = [*nodes, (), *_services(view.services, trends, width, rows)]
    # A line that the terminal would fold would push the others down.
    found = [crop(each, width) for each in (*head, *body)]
    return found if height is None else found[:height]


def _head(view: TopView, width: int, said: str) -> Iterator[Line]:
    leader = view.leader or "none known"
    name = clip(printable(leader), 30)
    yield line(
        Span("warren top", "bold"), f"  cluster {short(view.cluster_id)}  leader {name}  ",
        Span(f"{view.at[11:19]}Z", "dim"),
    )  # fmt: skip
    who = view.quorum
    parts: list[str | Span] = []
    if who.held is False:
        parts.append(Span("managers: no majority", "alarm"))
    elif who.answering is None:
        parts.append(f"managers {who.voters}")
    else:
        style = "good" if who.answering == who.voters else "warn"
        parts += ["managers ", Span(f"{who.answering}/{who.voters}", style)]
    for title, some, whole in (
        ("nodes", view.nodes_ready, view.nodes_total),
        ("containers", view.containers_running, view.containers_desired),
    ):
        style = "good" if some >= whole else "warn"
        parts += [f"  {title} ", Span(f"{some}/{whole}", style)]
    yield line(*parts, f"  services {view.services_total}")
    if view.stale:
        old = f"as {view.answered_by} has it, which may be old; why: warrenctl cluster status"
        yield from prose(printable(old), width, style="warn")
    if said:
        yield from prose(printable(said), width, style="alarm")


def _rates(view: TopView, trends: Trends, width: int) -> Iterator[Line]:
    cells = min(60, max(12, width - 66))
    if view.rates is None:
        yield from prose(f"rates: {view.rates_why}", width, style="dim")
        yield _rate("running", f"{view.containers_running:>8}", spark([*trends.running], cells), "")
        return
    rates = view.rates
    failed = f"{rates.api_errors_per_s:.1f}/s failed" if rates.api_errors_per_s else ""
    p99 = f"p99 ≤ {_seconds(rates.api_p99_s)}" if rates.api_p99_s else ""
    p99 = f"p99 > {_seconds(rates.api_p99_over_s)}" if rates.api_p99_over_s else p99
    mean = f"mean {_seconds(rates.api_mean_s)}" if rates.api_mean_s is not None else ""
    yield _rate("requests", _per_s(rates.api_per_s), spark([*trends.api], cells), mean, p99, failed)
    yield from _leader_rates(view, rates, trends, cells)
    yield _rate("running", f"{view.containers_running:>8}", spark([*trends.running], cells),
                _states(rates.containers))  # fmt: skip


def _leader_rates(view: TopView, rates: RatesView, trends: Trends, cells: int) -> Iterator[Line]:
    if not rates.leads:
        leader = printable(view.leader or "the leader")
        yield line(Span(f"commits   counted on the leader: run this on {leader}", "dim"))
        return
    p50, p99 = (_seconds(it) for it in (rates.commit_p50_s, rates.commit_p99_s))
    yield _rate("commits", _per_s(rates.commits_per_s), spark([*trends.commits], cells),
                f"p50 {p50}", f"p99 {p99}", f"fsync p99 {_seconds(rates.fsync_p99_s)}")  # fmt: skip
    mean = rates.commit_mean_s
    yield _rate("commit", f"{_seconds(mean):>8}" if mean is not None else f"{'-':>8}",
                spark([*trends.commit_mean], cells), "mean of the last look")  # fmt: skip
    failed = rates.placements_failed_per_s
    yield _rate("placed", _per_s(rates.placed_per_s), spark([*trends.placed], cells),
                f"{failed:.1f}/s found no room" if failed else "")  # fmt: skip


def _rate(name: str, value: str, trend: str, *words: str) -> Line:
    said = "  ".join(word for word in words if word)
    return line(f"{name:<9}", Span(f"{value:<10}", "bold"), " ", Span(trend, "accent"), "  ", said)


def _per_s(rate: float) -> str:
    return f"{rate:>8,.1f}/s" if rate < 1000 else f"{rate:>8,.0f}/s"


def _seconds(value: float | None) -> str:
    """A latency, as in `120 µs`, `3.2 ms`."""
    if value is None:
        return "-"
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if value >= 0.9995 * length:  # what would be shown as 1000 of the smaller unit
            return f"{value / length:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _states(containers: dict[str, int]) -> str:
    others = [f"{count} {state}" for state, count in containers.items() if state != "running"]
    return ", ".join(others)


def _nodes(nodes: Sequence[TopNodeView], width: int, rows: int | None) -> list[Line]:
    shown, more = _cut(nodes, rows)
    cells = max(6, min(24, (width - 62) // 2))
    titles = ("NODE", "STATE", "RUN", "CPU", "USED/HELD/OF", "MEMORY", "USED/HELD/OF")
    body = [[Span(title, "dim") for title in titles]]
    body += [_node_row(each, cells) for each in shown]
    found = columns(body, width, indent="", right=(2,))
    return [*found, *_more(more, "nodes", "warrenctl node ls")]


def _node_row(each: TopNodeView, cells: int) -> list[Span]:
    state, style = each.status, "alarm" if each.status == "down" else ""
    if state == "ready" and each.availability != "active":
        state, style = each.availability, "warn"
    held, whole = each.allocated, each.allocatable
    cpu, memory = each.cpu_used_milli, each.memory_used_bytes
    return [
        Span(clip(printable(each.name), _NAME_MAX)),
        Span(state, style),
        Span(str(each.containers_running)),
        bar(cpu, held.cpu_milli, whole.cpu_milli, cells),
        Span(_amounts(cpu, held.cpu_milli, whole.cpu_milli, _cpus)),
        bar(memory, held.memory_bytes, whole.memory_bytes, cells),
        Span(_amounts(memory, held.memory_bytes, whole.memory_bytes, _bytes)),
    ]


def _amounts(used: int | None, held: int, whole: int, text: Callable[[int], str]) -> str:
    return "/".join("-" if it is None else text(it) for it in (used, held, whole))


def _cpus(milli: int) -> str:
    return cpus_text(round(milli, -1) if milli < 10_000 else round(milli, -2))


def _bytes(size: int) -> str:
    """As short as a column needs it: `1.2G`."""
    number, unit = bytes_text(size).split(" ")
    return f"{float(number):.3g}{unit[0] if unit != 'B' else ''}"


def _services(
    services: Sequence[TopServiceView], trends: Trends, width: int, rows: int | None
) -> list[Line]:
    shown, more = _cut(services, rows)
    cells = max(8, min(40, width - 60))
    body = [[Span(title, "dim") for title in ("SERVICE", "RUNNING", "CHANGE", "TREND")]]
    for each in shown:
        style = "good" if each.running >= each.desired else "alarm" if not each.running else "warn"
        change = each.running_change_per_s
        body.append(
            [
                Span(clip(printable(each.name), _NAME_MAX)),
                Span(f"{each.running}/{each.desired}", style),
                Span(f"{change:+.1f}/s" if change else "-"),
                Span(spark([*trends.services.get(each.id, ())], cells), "accent"),
            ]
        )
    found = columns(body, width, indent="", right=(1, 2))
    return [*found, *_more(more, "services", "warrenctl service ls")]


def _cut(items: Sequence[_T], rows: int | None) -> tuple[Sequence[_T], int]:
    """What there is room for below a header, and how many more there are."""
    if rows is None or len(items) <= rows - 1:
        return items, 0
    kept = max(0, rows - 2)
    return items[:kept], len(items) - kept


def _more(count: int, what: str, command: str) -> list[Line]:
    return [line(Span(f"and {count} more {what}: {command}", "dim"))] if count else []
