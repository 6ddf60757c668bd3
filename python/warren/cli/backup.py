"""`warrenctl cluster backup|recover`: what a cluster is saved by."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from warren.cli.common import (
    Command,
    Group,
    Settings,
    common_options,
    detach_option,
    format_option,
    read_options,
)

if TYPE_CHECKING:
    from io import BufferedReader

    from warren.cli import shapes
    from warren.cli.client import Client
    from warren.cli.shapes import BackupView
    from warren.pb.v1 import node_pb2

__all__ = ["backup", "recover"]

TRANSFER_TIMEOUT_S: Final = 600.0
"""A million containers are some 200 MB."""

_PIECE_BYTES: Final = 1 << 20
_file = click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))


@click.group(cls=Group)
def backup() -> None:
    """Save the cluster's state to a file, look into it, and begin anew from it."""


@backup.command()
@_file
@read_options
@click.pass_obj
def save(settings: Settings, file: Path) -> None:
    """Save the state of the running cluster to FILE, which must not exist yet.

    What is saved is one moment of the cluster; it goes on meanwhile. FILE appears under its name
    when it is complete. It holds what services have in their environment: keep it as you keep
    passwords. Images and the data of containers are not in it.
    """
    from warren.cli import render
    from warren.cli.backup_file import Received
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    total_bytes = 0
    with Received(file) as received, Client(settings, TRANSFER_TIMEOUT_S) as client:
        request = api_pb2.BackupClusterRequest(stale=settings.stale)
        for chunk in client.stream("BackupCluster", request, client.deadline.remaining_s()):
            total_bytes = chunk.total_bytes or total_bytes
            received.add(chunk.data)
        saved = received.finish(total_bytes)
    render.show_line(settings, saved, f"saved {_text(saved)} to {saved.file}")


@backup.command()
@_file
@format_option
@click.pass_obj
def inspect(settings: Settings, file: Path) -> None:
    """Read all of a backup, check that it is whole, and show what is in it.

    No daemon is needed. Exit code 0: it can be restored by this release. 1: it cannot.
    """
    from warren.cli import render
    from warren.cli.backup_file import view
    from warren.core import inspect_backup
    from warren.errors import WarrenError
    from warren.pb.v1 import snapshot_pb2

    try:
        size_bytes = file.stat().st_size
        header = snapshot_pb2.BackupHeader.FromString(inspect_backup(file))
    except OSError as error:
        raise WarrenError("failed", f"cannot read {file}: {error.strerror}") from None
    except WarrenError as error:
        raise WarrenError(error.code, f"{file}: {error.message}") from None
    render.show(settings, view(header, str(file), size_bytes))


@backup.command()
@_file
@click.option(
    "--epoch",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help="Begin with epoch N at least; needed where a backup is restored a second time.",
)
@detach_option
@common_options
@click.pass_obj
def restore(settings: Settings, file: Path, epoch: int | None, detach: bool) -> None:
    """Make this host, which is in no cluster, the only manager of the one in FILE.

    The cluster keeps its id and begins a new epoch. Containers that still run are taken over,
    not restarted, once their hosts have joined again. Waits until this node is ready.
    """
    from warren.cli import ready, render, shapes
    from warren.cli.backup_file import view
    from warren.cli.client import Client
    from warren.errors import WarrenError
    from warren.pb.v1 import node_pb2

    answer: node_pb2.RestoreClusterResponse | None = None
    with _opened(file) as opened, Client(settings, TRANSFER_TIMEOUT_S, local=True) as client:
        daemon: node_pb2.GetDaemonResponse = client.call("GetDaemon", node_pb2.GetDaemonRequest())
        pieces = _pieces(opened, epoch or 0)
        for done in client.stream("RestoreCluster", pieces, client.deadline.remaining_s()):
            answer = done
        if answer is None:
            raise WarrenError("internal", "the daemon ended without a word; look at its log")
        if not detach:
            ready.wait_ready(client, daemon.node_id, "the cluster is restored")
        size_bytes = opened.tell()
    restored = shapes.ClusterRestored(
        id=answer.cluster_id.hex(),
        epoch=answer.epoch,
        member_id=str(answer.member_id),
        node_id=daemon.node_id.hex(),
        index=answer.index,
        term=answer.term,
        backup=view(answer.backup, str(file), size_bytes),
    )
    render.show_line(
        settings,
        restored,
        f"restored {_text(restored.backup)}; the cluster is of epoch {restored.epoch} now and has "
        "one manager: let the other hosts join it anew with warrenctl cluster join",
    )


def _text(saved: BackupView) -> str:
    return (
        f"cluster {saved.cluster_id} at index {saved.index} of epoch {saved.epoch} "
        f"({saved.services} services, {saved.nodes} nodes, {saved.containers} containers)"
    )


def _opened(file: Path) -> BufferedReader:
    from warren.errors import WarrenError

    try:
        return file.open("rb")
    except OSError as error:
        raise WarrenError("failed", f"cannot read {file}: {error.strerror}") from None


def _pieces(opened: BufferedReader, epoch_min: int) -> Iterator[node_pb2.RestoreClusterRequest]:
    from warren.pb.v1 import node_pb2

    # An empty file too is one message: the daemon says what is wrong with it.
    data = opened.read(_PIECE_BYTES)
    yield node_pb2.RestoreClusterRequest(data=data, epoch_min=epoch_min)
    while data := opened.read(_PIECE_BYTES):
        yield node_pb2.RestoreClusterRequest(data=data)


@click.command(cls=Command)
@click.option(
    "--from-quorum-loss",
    is_flag=True,
    required=True,
    expose_value=False,
    help="The majority of the managers is lost for good.",
)
@click.option("--force", is_flag=True, help="Also where the daemon advises against it.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@detach_option
@common_options
@click.pass_obj
def recover(settings: Settings, force: bool, yes: bool, detach: bool) -> None:
    """Go on with this manager alone, in a new epoch.

    Everything in its log is kept, whether or not it was known to be committed; what only lost
    managers had is lost. Of several survivors take the one whose log has the highest last term,
    and among those the highest last index: this shows them, and so does, on each host, warrenctl
    debug wal verify. The others are removed for good and join anew.
    """
    from warren.cli import ready, render
    from warren.cli.client import Client
    from warren.pb.v1 import node_pb2

    with Client(settings, TRANSFER_TIMEOUT_S, local=True) as client:
        plan = _recover(client, force=force, dry_run=True)
        if settings.format == "table":
            click.echo(_plan_text(plan), err=True)
        if not yes:
            _confirm()
            # How long somebody reads is no part of how long the daemon may take.
            client.renew()
        daemon: node_pb2.GetDaemonResponse = client.call("GetDaemon", node_pb2.GetDaemonRequest())
        answer = _recover(client, force=force, dry_run=False)
        if not detach:
            ready.wait_ready(client, daemon.node_id, "the cluster goes on")
    done = _recovered(answer)
    render.show_line(
        settings,
        done,
        f"member {done.member_id} is the only manager of cluster {done.id}, in epoch {done.epoch}; "
        "let other hosts join it anew with warrenctl cluster join",
    )


def _recover(client: Client, *, force: bool, dry_run: bool) -> node_pb2.RecoverQuorumResponse:
    from warren.pb.v1 import node_pb2

    answer: node_pb2.RecoverQuorumResponse = client.call(
        "RecoverQuorum",
        node_pb2.RecoverQuorumRequest(force=force, dry_run=dry_run),
        # A repetition would begin another epoch.
        retry=False,
        attempt_timeout_s=client.deadline.remaining_s(),
    )
    return answer


def _recovered(answer: node_pb2.RecoverQuorumResponse) -> shapes.ClusterRecovered:
    from warren.cli import shapes

    removed = [
        shapes.LostMemberView(str(member.id), member.node_id.hex(), member.address)
        for member in answer.removed
    ]
    return shapes.ClusterRecovered(
        id=answer.cluster_id.hex(),
        epoch=answer.epoch,
        member_id=str(answer.member_id),
        last_index=answer.last_index,
        last_term=answer.last_term,
        commit_index=answer.commit_index,
        removed=removed,
    )


def _plan_text(plan: node_pb2.RecoverQuorumResponse) -> str:
    ends = f"term {plan.last_term}, index {plan.last_index}"
    lines = [
        f"this manager's log ends at {ends} (known to be committed: up to {plan.commit_index})",
        "a survivor with a higher term, or the same term and a higher index, is the better one;",
        "see there: warrenctl debug wal verify DIR",
    ]
    for lost in plan.removed:
        node_id = lost.node_id.hex()
        lines.append(f"goes on without member {lost.id} at {lost.address}, node {node_id}")
    return "\n".join(lines)


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("this removes the other managers for good; say so with --yes")
    click.confirm(
        "What only other managers have is lost, and they cannot come back but by joining anew. "
        "Go on with this manager alone?",
        abort=True,
        err=True,
    )
