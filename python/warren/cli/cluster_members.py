"""`warrenctl cluster members` and what changes who they are: the managers as consensus has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, common_options, read_options
from warren.cli.params import Parsed

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.cli.shapes import MemberView
    from warren.pb.v1 import api_pb2, objects_pb2

__all__ = ["add_member", "members", "remove_member", "transfer_leadership"]

_MEMBER_ID: Final = Parsed("member", parse.member_id)
_ADDRESS: Final = Parsed("host:port", parse.address)
_ID: Final = Parsed("id", parse.binary_id)


@click.command(cls=Command)
@read_options
@click.pass_obj
def members(settings: Settings) -> None:
    """List the managers as consensus has them.

    LAG counts the entries that a member lacks, STATE says whether the leader has heard from it
    lately: the leader alone knows them. It is looked for among the hosts that are named, and with
    certificates wherever it is; where it cannot be asked, the last line says why, and where to.
    """
    from warren.cli import render
    from warren.cli.client import Client
    from warren.cli.members import told_by_leader
    from warren.cli.screen import printable

    with Client(settings) as client:
        told = told_by_leader(client)
    header = ("ID", "NODE", "ADDRESS", "ROLE", "LAG", "STATE", "RELEASE")
    render.show_list(settings, told.members, header, _row)
    if told.unknown and settings.format == "table":
        said = f"LAG and STATE are not known: the leader alone knows them; {told.unknown}"
        click.echo(printable(said))


def _row(each: MemberView) -> tuple[str, ...]:
    from warren.cli.render import short

    state = "-" if each.active is None else ("active" if each.active else "silent")
    return (
        each.id,
        each.node or short(each.node_id),
        each.address,
        f"{each.role}, to vote" if each.role == "learner" and each.wanted == "voter" else each.role,
        "-" if each.lag is None else str(each.lag),
        state,
        each.release or "-",
    )


@click.command("add-member", cls=Command)
@click.argument("node", required=False)
@click.option("--data-dir", type=_ID, metavar="UUID", help="Data directory that it is bound to.")
@click.option("--node", "node_id", type=_ID, metavar="ID", help="Id of a node not known yet.")
@click.option("--address", type=_ADDRESS, metavar="HOST:PORT", help="Where other members reach it.")
@click.option("--api-address", type=_ADDRESS, metavar="HOST:PORT", help="Where its API is reached.")
@click.option("--learner", is_flag=True, help="Never vote.")
@common_options
@click.pass_obj
def add_member(
    settings: Settings,
    node: str | None,
    data_dir: bytes | None,
    node_id: bytes | None,
    address: tuple[str, int] | None,
    api_address: tuple[str, int] | None,
    learner: bool,
) -> None:
    """Enter a member of consensus by hand.

    For repairs: `node promote` and `cluster join` do it by themselves. Of a node that the cluster
    knows, what is not said is taken from what its daemon says of itself. It learns first and votes
    once it has caught up; does not wait for that.
    """
    from warren.cli import render, shapes
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    if (node is None) == (node_id is None):
        raise click.UsageError("name a node that the cluster knows, or another's id with --node")
    with Client(settings) as client:
        request = _described(client, node) if node is not None else api_pb2.AddMemberRequest()
        request.request.CopyFrom(client.request_id())
        request.learner_only = learner
        request.node_id = node_id or request.node_id
        request.data_dir = data_dir or request.data_dir
        request.address = parse.address_text(address) if address else request.address
        request.api_address = (
            parse.address_text(api_address) if api_address else request.api_address
        )
        if not request.data_dir or not request.address:
            raise click.UsageError("a member needs --data-dir UUID and --address HOST:PORT")
        answer: api_pb2.AddMemberResponse = client.call("AddMember", request)
    added = shapes.MemberAdded(
        str(answer.member_id),
        request.node_id.hex(),
        answer.cluster_id.hex(),
        answer.epoch,
        list(answer.api_addresses),
    )
    later = "it will not vote" if learner else "it votes once it has caught up"
    render.show_line(settings, added, f"member {added.id} is added as a learner; {later}")


def _described(client: Client, node: str) -> api_pb2.AddMemberRequest:
    from warren.pb.v1 import api_pb2

    answer: api_pb2.GetNodeResponse = client.call("GetNode", api_pb2.GetNodeRequest(ref=node))
    found = answer.node.node
    offered = found.description
    if not offered.data_dir and (member := _member_of(client, found.id)) is not None:
        return api_pb2.AddMemberRequest(
            node_id=found.id,
            data_dir=member.data_dir,
            address=member.address,
            api_address=member.api_address,
        )
    return api_pb2.AddMemberRequest(
        node_id=found.id,
        data_dir=offered.data_dir,
        address=offered.peer_address,
        api_address=offered.api_address,
    )


def _member_of(client: Client, node_id: bytes) -> objects_pb2.Member | None:
    """What a node is already, so that it offers nothing any more; a repetition finds it."""
    from warren.pb.v1 import api_pb2

    answer: api_pb2.ListMembersResponse = client.call("ListMembers", api_pb2.ListMembersRequest())
    return next((v.member for v in answer.members if v.member.node_id == node_id), None)


@click.command("remove-member", cls=Command)
@click.argument("member", metavar="ID", type=_MEMBER_ID)
@common_options
@click.pass_obj
def remove_member(settings: Settings, member: int) -> None:
    """Take a member out of consensus, for good.

    For one whose host is lost; others are demoted (`node demote`). ID as `cluster members` shows
    it. Waits until a majority knows for good.
    """
    from warren.cli import render, shapes
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        request = api_pb2.RemoveMemberRequest(request=client.request_id(), member_id=member)
        client.call("RemoveMember", request)
    render.show_line(
        settings, shapes.MemberRemoved(str(member)), f"member {member} is removed for good"
    )


@click.command("transfer-leadership", cls=Command)
@click.argument("to", metavar="[ID|NODE]", required=False)
@common_options
@click.pass_obj
def transfer_leadership(settings: Settings, to: str | None) -> None:
    """Let another manager lead.

    The one that is named, or whoever has the most of the log.
    """
    from warren.cli import render, shapes
    from warren.cli.client import Client
    from warren.cli.members import all_members

    with Client(settings) as client:
        before, _ = all_members(client)
        target = 0 if to is None else int(_named(before, to).id)
        leader = _transferred(client, target)
    name = leader.node or leader.node_id
    render.show_line(
        settings,
        shapes.Leadership(leader.id, leader.node_id, leader.node),
        f"node {name} leads now (member {leader.id})",
    )


def _named(found: list[MemberView], reference: str) -> MemberView:
    """The member of that id, or on the node of that name, id or beginning of an id."""
    from warren.errors import WarrenError

    exact = [each for each in found if reference in (each.id, each.node, each.node_id)]
    matching = exact or [each for each in found if each.node_id.startswith(reference)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise WarrenError("ambiguous", f"`{reference}` names several managers; give more of it")
    raise WarrenError(
        "not_found", f"no manager `{reference}`; `warrenctl cluster members` shows who they are"
    )


def _transferred(client: Client, target: int) -> MemberView:
    """Ask for it and find out who leads then."""
    from warren.cli import wait
    from warren.cli.members import all_members
    from warren.pb.v1 import api_pb2

    # Without a request id, and harmless to repeat: whoever leads already keeps the lead.
    answer: api_pb2.TransferLeadershipResponse = client.call(
        "TransferLeadership", api_pb2.TransferLeadershipRequest(member_id=target)
    )
    wanted = str(target or answer.leader_member_id)
    leaders: list[MemberView] = []

    def missing() -> str:
        found, _ = all_members(client)
        leaders[:] = [each for each in found if each.role == "leader" and wanted in (each.id, "0")]
        return "" if leaders else "it does not lead yet"

    wait.until(
        client,
        missing,
        what="the new leader",
        so_far="the lead is being handed over",
        look="warrenctl cluster members",
    )
    return leaders[0]
