"""What commands about managers share: who they are, and waiting for one to vote or to be gone."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final, NamedTuple

from warren.cli import render, views
from warren.cli.client import Client
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2

if TYPE_CHECKING:
    from warren.cli.common import Settings
    from warren.cli.shapes import MemberView

__all__ = ["Told", "all_members", "not_gone", "not_voting", "told_by_leader"]

_LEADER_TIMEOUT_S: Final = 2.0


def all_members(
    client: Client, nodes: api_pb2.ListNodesResponse | None = None
) -> tuple[list[MemberView], bool]:
    """The members of consensus, and whether a change of voters is under way.

    `nodes`: the cluster's nodes, where they have been asked for already.
    """
    answer = _asked(client)
    if nodes is None:
        # Of thousands of nodes the names of a few are wanted.
        node_ids = [each.member.node_id for each in answer.members]
        nodes = client.call("ListNodes", api_pb2.ListNodesRequest(node_ids=node_ids))
    names = {each.node.id.hex(): each.node.description.name for each in nodes.nodes}
    return views.members(answer, names), answer.joint


class Told(NamedTuple):
    """The members of consensus as the leader sees them, where it could be asked.

    `joint`: whether a change of voters is under way; `unknown`: why what the leader alone knows is
    not, and what to do; empty where it is.
    """

    members: list[MemberView]
    joint: bool
    unknown: str


def told_by_leader(client: Client, nodes: api_pb2.ListNodesResponse | None = None) -> Told:
    """The members, and where whoever answered does not lead, as the leader sees them.

    It is looked for among the hosts that were named, and with certificates where it says that it
    is. `nodes`: as for `all_members`.
    """
    told, joint = all_members(client, nodes)
    if _is_whole(told):
        return Told(told, joint, "")
    if client.settings.stale:
        return Told(told, joint, "--stale asks one manager only")
    leader = next((each for each in told if each.role == "leader"), None)
    trouble = ""
    for host in _where_else(client.settings, leader):
        own = copy.copy(client.settings)
        own.host, own.timeout_ms = host, None
        try:
            with Client(own, min(_LEADER_TIMEOUT_S, client.deadline.remaining_s())) as other:
                found, found_joint = all_members(other, nodes)
        except WarrenError as error:
            trouble = f" ({error.message})"
            continue
        if _is_whole(found):
            return Told(found, found_joint, "")
    if leader is None:
        return Told(told, joint, f"who leads is not known yet: run this again{trouble}")
    name = leader.node or render.short(leader.node_id)
    where = f", or with --host {leader.api_address}" if leader.api_address else ""
    return Told(told, joint, f"run this on {name}{where}{trouble}")


def _is_whole(told: list[MemberView]) -> bool:
    return all(each.active is not None for each in told)


def _where_else(settings: Settings, leader: MemberView | None) -> list[str]:
    """The hosts to ask for the leader, where there is more than the one that has answered."""
    hosts = [word for word in settings.host.split(",") if word.strip()]
    certified = settings.tls_ca and settings.tls_cert and settings.tls_key
    if certified and leader is not None and leader.api_address:
        hosts.append(leader.api_address)
    return hosts if len(hosts) > 1 else []


def not_voting(client: Client, member_id: int) -> str:
    """Why a member does not vote yet; empty when it does."""
    for each in views.members(_asked(client), {}):
        if each.id == str(member_id):
            if each.role != "learner":
                return ""
            behind = "" if each.lag is None else f", {each.lag} entries behind"
            return f"member {member_id} catches up{behind}"
    return f"member {member_id} is not there yet"


def not_gone(client: Client, node_id: bytes) -> str:
    """Why a node still is a manager; empty when it is none."""
    try:
        answer = _asked(client)
    except WarrenError as error:
        # Who could be asked before was the node itself.
        if error.code in ("worker_only", "member_removed"):
            return ""
        raise
    left = [each for each in answer.members if each.member.node_id == node_id]
    return f"member {left[0].member.id} is still there" if left else ""


def _asked(client: Client) -> api_pb2.ListMembersResponse:
    answer: api_pb2.ListMembersResponse = client.call("ListMembers", api_pb2.ListMembersRequest())
    return answer
