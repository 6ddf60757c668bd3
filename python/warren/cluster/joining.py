"""Joining a cluster and leaving it: what `warrenctl cluster join` and `leave` ask of this host."""

from __future__ import annotations

import logging
import os
from typing import Final

from warren.cluster.calls import ask
from warren.cluster.files import ClusterFile
from warren.cluster.membership import EMPTY_TIMEOUT_S, Membership
from warren.config import advertised_peer
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, commands_pb2, node_pb2, session_pb2

__all__ = ["join", "leave"]

JOIN_TIMEOUT_S: Final = 20.0
LEAVE_TIMEOUT_S: Final = 20.0
# Of one who is not there any more; it is what was wanted.
_GONE: Final = frozenset({"not_found", "node_removed"})
_log = logging.getLogger("warren.cluster")


async def join(
    here: Membership, request: node_pb2.JoinClusterRequest
) -> node_pb2.JoinClusterResponse:
    """Become a part of the cluster that the manager at `request.address` belongs to.

    May be repeated: what is done is found done. WarrenError, with what to do.
    """
    async with here.lock:
        _check(here, request)
        node_id = bytes.fromhex(here.data.node_id)
        admitted = await ask(
            here.channels,
            [request.address],
            "AdmitNode",
            api_pb2.AdmitNodeRequest(node_id=node_id),
            JOIN_TIMEOUT_S,
        )
        _check_same(here, admitted.cluster_id)
        here.problem = ""
        await _remember(
            here, admitted.cluster_id, tuple(admitted.api_addresses) or (request.address,)
        )
        member_id = await _manage(here, node_id) if request.manager else 0
        await here.become_worker()
        return node_pb2.JoinClusterResponse(
            cluster_id=admitted.cluster_id, node_id=node_id, member_id=member_id
        )


async def leave(here: Membership, request: node_pb2.LeaveClusterRequest) -> None:
    """Leave the cluster, remove what runs here, and be as one that never joined.

    `request.force`: also where no manager can be told. WarrenError, with what to do.
    """
    here.leaving.set()
    try:
        async with here.lock:
            await _leave(here, force=request.force)
    finally:
        here.leaving.clear()


async def _leave(here: Membership, *, force: bool) -> None:
    if not here.in_cluster:
        raise WarrenError("not_in_cluster", "this host belongs to no cluster")
    try:
        await _say_goodbye(here)
    except WarrenError as error:
        if not force:
            raise _unheard(error) from None
        _log.warning("leaving without a manager knowing: %s", error)
    if not await here.worker.empty(EMPTY_TIMEOUT_S):
        _log.warning("not all containers could be removed; they are when this host joins again")
    await here.forget()
    _log.info("this host has left its cluster")


def _check(here: Membership, request: node_pb2.JoinClusterRequest) -> None:
    if here.credentials is None:
        raise WarrenError(
            "invalid",
            "this host has no certificates, without which it cannot join; set tls_ca, tls_cert and "
            "tls_key, and restart the daemon",
        )
    if request.manager and not here.may_manage:
        raise WarrenError(
            "invalid",
            "this host's certificate is a worker's; join with --role worker, or have a manager's "
            "issued for it and restart the daemon",
        )
    if not request.address.rpartition(":")[0]:
        raise WarrenError("invalid", f"{request.address!r} is no address; give it as host:port")
    if here.manages and here.cluster is not None and not here.cluster.cluster_id:
        raise WarrenError(
            "already_in_cluster",
            "this host manages a cluster that was created here; leave it first: warrenctl cluster "
            "leave",
        )


def _check_same(here: Membership, cluster_id: bytes) -> None:
    """A host that belongs to a cluster may join it again, and no other."""
    known = here.cluster
    if known is not None and known.cluster_id and known.cluster_id != cluster_id.hex():
        raise WarrenError(
            "already_in_cluster",
            f"this host belongs to cluster {known.cluster_id}, and the manager there to "
            f"{cluster_id.hex()}; leave first: warrenctl cluster leave",
        )


async def _remember(here: Membership, cluster_id: bytes, managers: tuple[str, ...]) -> None:
    assert here.credentials is not None
    await here.remember(
        ClusterFile(
            cluster_id=cluster_id.hex(),
            trust_domain=here.credentials.identity.trust_domain,
            managers=managers,
            role="manager" if here.manages else "worker",
        )
    )


async def _manage(here: Membership, node_id: bytes) -> int:
    """Be made a member, and open its log; the member's id, which is the same each time."""
    # Written down before anybody is asked: a repetition is the same member.
    member = await here.have_member()
    if member.opened and not here.manages:
        raise WarrenError(
            "wrong_data_dir",
            "this host managed the cluster before, and its log is not here any more; let it leave "
            "first: warrenctl cluster leave",
        )
    added = await ask(
        here.channels,
        here.known_managers(),
        "AddMember",
        api_pb2.AddMemberRequest(
            data_dir=bytes.fromhex(member.data_dir),
            node_id=node_id,
            address=advertised_peer(here.settings),
            api_address=here.own_api,
        ),
        JOIN_TIMEOUT_S,
    )
    if not here.manages:
        await here.become_member(
            session_pb2.Membership(
                member_id=added.member_id,
                cluster_id=added.cluster_id,
                epoch=added.epoch,
                data_dir=bytes.fromhex(member.data_dir),
            )
        )
    return int(added.member_id)


async def _say_goodbye(here: Membership) -> None:
    """The others do without this host: as a manager, then as a worker."""
    own = here.own_target()
    others = [address for address in here.known_managers() if address != here.own_api]
    # Ids that stay when a call is tried anew: a copy that arrives late has been answered, and does
    # not remove a host that has joined again meanwhile.
    client = os.urandom(16)
    if here.manages:
        request = api_pb2.DemoteNodeRequest(
            request=commands_pb2.RequestId(client=client, sequence=1), ref=here.data.node_id
        )
        await _told(here, [*others, own], "DemoteNode", request)
    if others or not own:
        removal = api_pb2.RemoveNodeRequest(
            request=commands_pb2.RequestId(client=client, sequence=2),
            ref=here.data.node_id,
            force=True,
        )
        await _told(here, others, "RemoveNode", removal)


async def _told(
    here: Membership,
    addresses: list[str],
    method: str,
    request: api_pb2.DemoteNodeRequest | api_pb2.RemoveNodeRequest,
) -> None:
    try:
        await ask(here.channels, addresses, method, request, LEAVE_TIMEOUT_S)
    except WarrenError as error:
        if error.code not in _GONE:
            raise


def _unheard(error: WarrenError) -> WarrenError:
    return WarrenError(
        error.code,
        f"{error.message}. To leave all the same, and have this host removed by a manager later: "
        "warrenctl cluster leave --force",
    )
