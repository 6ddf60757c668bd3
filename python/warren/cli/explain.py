"""`warrenctl explain`: why something is where it is, and where another could go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli.common import Command, Settings, read_options

if TYPE_CHECKING:
    from warren.cli.shapes_explain import (
        ExplainFailingSlotView,
        ExplainFailingView,
        ExplainHoldView,
        ExplainNodeView,
        ExplanationView,
    )
    from warren.pb.v1 import explain_pb2

__all__ = ["explain"]

_NODES_SHOWN: Final = 20
_NODES_MAX: Final = 100_000


@click.command(cls=Command)
@click.argument("what", metavar="SERVICE|CONTAINER")
@click.option(
    "--all", "-a", "everything", is_flag=True, help=f"All nodes, not only {_NODES_SHOWN} of them."
)
@read_options
@click.pass_obj
def explain(settings: Settings, what: str, everything: bool) -> None:
    """Say why a container is where it is or nowhere, and where another could go.

    A service, a container's id or the beginning of one, or SERVICE.SLOT. Of a service: where one
    more could go. Each node is shown with everything against it, or with what it scores: choice 1
    is the best; less is better of what is stranded and left free, more of affinities. Slots that
    back off or crash again and again are listed, and room that is kept until others have stopped.
    """
    from warren.cli import render, views_explain
    from warren.cli.client import Client
    from warren.pb.v1 import explain_pb2

    most = _NODES_MAX if everything else _NODES_SHOWN
    with Client(settings) as client:
        answer: explain_pb2.ExplainResponse = client.call(
            "Explain", explain_pb2.ExplainRequest(ref=what, nodes_max=most)
        )
    view = views_explain.explanation(answer)
    if settings.format != "table":
        render.show(settings, view)
        return
    _show(settings, view)


def _show(settings: Settings, view: ExplanationView) -> None:
    from warren.cli import render

    click.echo(view.summary)
    if view.pending_reason is not None:
        click.echo(f"when it was last tried: {view.pending_reason}")
    if view.failing_slots:
        click.echo()
        slots: list[tuple[str, ...]] = [("SLOT", "STATE", "FAILURES", "EXIT CODE", "NEXT TRY IN")]
        slots += [_slot(it) for it in view.failing_slots]
        click.echo(render.cells_text(slots))
        left = view.failing_slots_total - len(view.failing_slots)
        if left:
            click.echo(f"{left} more slots")
    if view.holds:
        click.echo()
        holds: list[tuple[str, ...]] = [
            ("SLOT", "ROOM ON", "CPUS", "MEMORY", "ONCE THESE HAVE STOPPED")
        ]
        holds += [_hold(it) for it in view.holds]
        click.echo(render.cells_text(holds))
    if view.reasons:
        click.echo()
        rows = [("AGAINST", "NODES", "ALONE", "WHAT")]
        rows += [(it.kind, str(it.nodes), str(it.nodes_only), it.what) for it in view.reasons]
        click.echo(render.cells_text(rows))
    if view.nodes:
        click.echo()
        header = ("NODE", "CHOICE", "OF SERVICE", "FREE CPUS", "FREE MEMORY", "SCORE", "WHY")
        render.show_list(settings, view.nodes, header, _row)
    if view.nodes_left_out:
        click.echo(f"{view.nodes_left_out} more nodes: --all")


def _failing(it: ExplainFailingView) -> str:
    left = f"{it.left_seconds} s" if it.left_seconds < 120 else f"{-(-it.left_seconds // 60)} min"
    said = f"the service failed there {it.failures} times within ten minutes"
    if it.avoided:
        return f"{said}, the last choice for another {left}"
    return f"{said}, and runs nowhere else"


def _slot(each: ExplainFailingSlotView) -> tuple[str, ...]:
    wait = "-" if each.retry_in_seconds is None else f"{each.retry_in_seconds} s"
    return (
        str(each.slot or each.node or "-"),
        "crash-looping" if each.crash_looping else "backs off",
        str(each.failures),
        "-" if each.exit_code is None else str(each.exit_code),
        wait,
    )


def _hold(each: ExplainHoldView) -> tuple[str, ...]:
    from warren.cli.render import bytes_text, cpus_text

    victims = [f"{it.container} (priority {it.priority})" for it in each.victims]
    return (
        str(each.slot or each.node),
        each.node,
        cpus_text(each.kept.cpu_milli),
        bytes_text(each.kept.memory_bytes),
        ", ".join(victims) or "-",
    )


def _row(each: ExplainNodeView) -> tuple[str, ...]:
    from warren.cli.render import bytes_text, cpus_text

    words = [it.why for it in each.against]
    words += [
        f"{it.attribute} {'is ' + it.value if it.value else 'is not there'}: "
        f"{it.containers} of the service"
        for it in each.spreads
        if each.fits
    ]
    if each.score is not None and each.score.affinity:
        words.append(f"affinities {each.score.affinity:+g}")
    if each.disliked and each.fits:
        words.append("a taint makes it the last choice")
    if each.failing is not None:
        words.append(_failing(each.failing))
    if each.victims is not None:
        count, most = each.victims.containers, each.victims.priority
        plural = "" if count == 1 else "s"
        words.append(f"{count} container{plural} of priority {most} or less would make room")
    if each.current:
        words.insert(0, "it is there")
    score = each.score
    total = "-" if score is None else f"{score.stranded + score.left_free - score.affinity:+.3f}"
    return (
        each.node,
        "-" if each.rank is None else str(each.rank),
        str(each.service_containers),
        cpus_text(each.free.cpu_milli),
        bytes_text(each.free.memory_bytes),
        total,
        "; ".join(words),
    )
