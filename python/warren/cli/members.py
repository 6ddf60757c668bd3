"""What commands about managers share: who they are, and waiting for one to vote or to be gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warren.cli import views
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.cli.shapes import MemberView

__all__ = ["all_members", "not_gone", "not_voting"]


def all_members(
    client: Client, nodes: api_pb2.ListNodesResponse | None = None
) -> tuple[list[MemberView], bool]:
    """The members of consensus, and whether a change of voters is under way.

    `nodes`: the cluster's nodes, where they have been asked for already.
    """
    if nodes is None:
        nodes = client.call("ListNodes", api_pb2.ListNodesRequest())
    answer = _asked(client)
    names = {each.node.id.hex(): each.node.description.name for each in nodes.nodes}
    return views.members(answer, names), answer.joint


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
