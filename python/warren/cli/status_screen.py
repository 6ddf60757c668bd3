"""The status of the cluster as lines for people. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from warren.cli.findings import counts_text
from warren.cli.history import EVENT_HEADER, event_row
from warren.cli.render import age, bytes_text, cpus_text, short
from warren.cli.screen import Line, Span, bar, columns, line, printable, prose

if TYPE_CHECKING:
    from warren.cli.shapes_explain import EventView
    from warren.cli.shapes_members import MemberView
    from warren.cli.shapes_status import StatusView

__all__ = ["lines"]

_EVENTS_SHOWN: Final = 8
_NODES_SHOWN: Final = 8
_BAR_MAX: Final = 40
_LABEL: Final = 11
_STYLES: Final = {"critical": "alarm", "warning": "warn", "note": "accent"}


def lines(view: StatusView, width: int | None, now_s: float) -> list[Line]:
    """The screen, `width` columns wide. `now_s`: since the epoch, for ages."""
    return [
        *_head(view, width, now_s),
        *_findings(view, width),
        (),
        *_managers(view, width),
        (),
        *_nodes(view, width),
        (),
        *_services(view, width),
        (),
        *_events(view, width, now_s),
    ]


def _head(view: StatusView, width: int | None, now_s: float) -> Iterator[Line]:
    mark = Span("healthy", "good") if view.healthy else Span("needs attention", "alarm")
    rest = f"  {view.checked_at[:10]} {view.checked_at[11:19]}Z"
    yield line(Span("cluster ", "bold"), Span(short(view.cluster_id), "bold"), "  ", mark, rest)
    if view.stale:
        changed = f"{age(view.newest_change, now_s)} ago" if view.newest_change else "not known"
        said = (
            f"as {view.answered_by} has it, which may be old: "
            f"entry {view.applied_index}, newest change {changed}"
        )
        yield from prose(said, width, style="warn")
    yield ()


def _findings(view: StatusView, width: int | None) -> Iterator[Line]:
    if view.healthy:
        yield line(Span("Nothing needs attention.", "good"))
    else:
        yield line(Span("What to look at first", "bold"))
    for number, each in enumerate(view.findings, 1):
        label = f"{number:>3}  "
        severity = Span(each.severity, _STYLES[each.severity])
        pad = " " * (8 - len(each.severity))
        body = prose(printable(each.summary), None if width is None else width - 15)
        yield (Span(label), severity, Span(pad + "  "), *body[0])
        for more in body[1:]:
            yield (Span(" " * 15), *more)
        yield line(" " * 15, Span(f"→ {printable(each.command)}", "dim"))
    if view.findings_left_out:
        yield line(f"     and {view.findings_left_out} more")


def _managers(view: StatusView, width: int | None) -> Iterator[Line]:
    who = view.quorum
    if who.held is False:
        said = Span(f"no majority: {who.needed} of {who.voters} are needed", "alarm")
    elif who.answering is None:
        said = Span(f"{who.voters} vote; {who.why}", "warn" if view.stale else "")
    else:
        spare = f"{who.spare} more may be lost" if who.spare else "none may be lost"
        style = "good" if who.answering == who.voters else "warn"
        said = Span(f"{who.answering} of {who.voters} answer, {spare}", style)
    yield line(_label("Managers"), said)
    leader = view.leader or (short(view.leader_node_id) if view.leader_node_id else "none known")
    yield line(
        " " * _LABEL, f"leader {printable(leader)}, term {view.term}, entry {view.last_index}"
    )
    header = [Span(it, "dim") for it in ("NAME", "ROLE", "ANSWERS", "LAG", "RELEASE", "ADDRESS")]
    rows = [header, *(_member_row(each) for each in view.members)]
    yield from columns(rows, width, right=(3,))


def _member_row(each: MemberView) -> list[Span]:
    answers = {True: Span("yes", "good"), False: Span("no", "alarm"), None: Span("-")}
    return [
        Span(printable(each.node or short(each.node_id))),
        Span(each.role, "bold" if each.role == "leader" else ""),
        answers[each.active],
        Span("-" if each.lag is None else str(each.lag)),
        Span(printable(each.release or "-")),
        Span(printable(each.address)),
    ]


def _label(text: str) -> Span:
    return Span(f"{text:<{_LABEL}}", "bold")


def _nodes(view: StatusView, width: int | None) -> Iterator[Line]:
    counts = view.nodes
    style = "good" if counts.ready == counts.total else "warn"
    parts: list[str | Span] = [
        _label("Nodes"),
        Span(f"{counts.ready} of {counts.total} ready", style),
    ]
    for number, word, look in (
        (counts.down, "down", "alarm"),
        (counts.draining, "draining", "warn"),
        (counts.paused, "paused", "warn"),
    ):
        parts += [", ", Span(f"{number} {word}", look)] if number else []
    yield line(*parts)
    yield from _room(view, width)
    rows = [
        [
            Span(printable(each.name)),
            Span(each.status, "alarm" if each.status == "down" else ""),
            Span(printable(each.why)),
        ]
        for each in view.node_troubles[:_NODES_SHOWN]
    ]
    yield from columns(rows, width, fold_last=True)
    more = len(view.node_troubles[_NODES_SHOWN:]) + view.node_troubles_left_out
    if more:
        yield line(Span(f"  and {more} more: warrenctl node ls", "dim"))


def _room(view: StatusView, width: int | None) -> Iterator[Line]:
    held, whole = view.allocated, view.allocatable
    cells = min(_BAR_MAX, max(10, (width or 80) - 55))
    for name, used, all_, text in (
        ("CPUs", held.cpu_milli, whole.cpu_milli, cpus_text),
        ("memory", held.memory_bytes, whole.memory_bytes, bytes_text),
    ):
        percent = f"{used * 100 // all_:>3} %" if all_ else "  - %"
        meter = bar(None, used, all_, cells)
        said = f"  {percent} reserved: {text(used)} of {text(all_)}"
        yield line("  ", f"{name:<{_LABEL - 2}}", meter, said)


def _services(view: StatusView, width: int | None) -> Iterator[Line]:
    counts = view.services
    style = "good" if counts.as_desired == counts.total else "warn"
    yield line(
        _label("Services"),
        Span(f"{counts.as_desired} of {counts.total} as desired", style),
        f", {counts.containers_running} of {counts.containers_desired} containers run",
    )
    rows = []
    for each in view.service_troubles:
        reason = f": {each.reason}" if each.reason else ""
        words = printable(f"{counts_text(each)}{reason}")
        look = "alarm" if not each.running and each.desired else "warn"
        if not each.pending and not each.failing and not each.crash_looping:
            look = ""
        rows.append(
            [Span(printable(each.name)), Span(f"{each.running}/{each.desired}", look), Span(words)]
        )
    yield from columns(rows, width, right=(1,), fold_last=True)
    if view.service_troubles_left_out:
        more = view.service_troubles_left_out
        yield line(Span(f"  and {more} more: warrenctl service ls", "dim"))


def _events(view: StatusView, width: int | None, now_s: float) -> Iterator[Line]:
    if view.events is None:
        # Said at the top already, where there is no leader.
        why = "the leader keeps them, and there is none" if view.stale else view.events_why or ""
        yield from prose(f"{'Events':<{_LABEL}}not known: {printable(why)}", width)
        return
    yield line(_label("Events"), "newest first" if view.events else "none since the leader leads")
    rows = [
        [Span(printable(cell)) for cell in _run_row(run, now_s)]
        for run in _runs(view.events)[:_EVENTS_SHOWN]
    ]
    if rows:
        header = [Span(title, "dim") for title in EVENT_HEADER]
        yield from columns([header, *rows], width, right=(0,), fold_last=True)


def _runs(events: Sequence[EventView]) -> list[list[EventView]]:
    """Events, the newest first; those in a row that differ in slot and node only stand together."""
    runs: list[list[EventView]] = []
    for each in reversed(events):
        same = runs and all(
            getattr(runs[-1][0], name) == getattr(each, name)
            for name in ("service_id", "kind", "why")
        )
        if same:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _run_row(run: Sequence[EventView], now_s: float) -> tuple[str, ...]:
    row = event_row(run[0], now_s)
    if len(run) == 1:
        return row
    nodes = {event_row(each, now_s)[3] for each in run}
    where = row[3] if len(nodes) == 1 else f"{len(nodes)} nodes"
    return (
        row[0],
        f"{run[0].service or short(run[0].service_id)} ({len(run)})",
        row[2],
        where,
        row[4],
    )
