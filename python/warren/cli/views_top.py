"""From answers and readings to what `top` shows, and how it went so far. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from warren.cli import views
from warren.cli.shapes_status import RatesView, TopNodeView, TopServiceView, TopView
from warren.cli.views_placement import resources
from warren.cli.views_status import quorum
from warren.pb.v1 import objects_pb2
from warren.pb.v1.objects_pb2 import Availability, NodeStatus

if TYPE_CHECKING:
    from warren.cli.shapes_members import MemberView
    from warren.pb.v1 import api_pb2

__all__ = ["Look", "Trends", "top", "worth_a_row"]

TREND_LOOKS: Final = 120
"""How many looks a sparkline goes back at most."""


class Look(NamedTuple):
    """One look at the cluster. `used`: by node id, of those that were asked for it.

    `at_s`: of the monotonic clock; `at_ms`: since the epoch; `rates_why`: why there are no rates;
    `stale`: this may be old; `no_quorum`: why nothing newer can be had; empty where
    it can, or was not tried.
    """

    at_s: float
    at_ms: int
    cluster: api_pb2.GetClusterResponse
    members: Sequence[MemberView]
    nodes: Sequence[api_pb2.NodeView]
    services: Sequence[api_pb2.ServiceView]
    used: Mapping[bytes, objects_pb2.NodeUsage]
    rates: RatesView | None
    rates_why: str
    stale: bool
    no_quorum: str


class Trends:
    """The newest values of what has a sparkline, TREND_LOOKS at most; None: not known."""

    def __init__(self) -> None:
        self.api: deque[float | None] = deque(maxlen=TREND_LOOKS)
        self.commits: deque[float | None] = deque(maxlen=TREND_LOOKS)
        self.commit_mean: deque[float | None] = deque(maxlen=TREND_LOOKS)
        self.placed: deque[float | None] = deque(maxlen=TREND_LOOKS)
        self.running: deque[float | None] = deque(maxlen=TREND_LOOKS)
        self.services: dict[str, deque[float | None]] = {}

    def add(self, view: TopView) -> None:
        """Take note of one more look; services that are gone are forgotten."""
        rates = view.rates
        self.api.append(rates.api_per_s if rates else None)
        self.commits.append(rates.commits_per_s if rates and rates.leads else None)
        self.commit_mean.append(rates.commit_mean_s if rates and rates.leads else None)
        self.placed.append(rates.placed_per_s if rates and rates.leads else None)
        self.running.append(float(view.containers_running))
        known = {each.id: each for each in view.services}
        for gone in self.services.keys() - known.keys():
            del self.services[gone]
        for each in view.services:
            self.services.setdefault(each.id, deque(maxlen=TREND_LOOKS)).append(float(each.running))


def worth_a_row(nodes: Sequence[api_pb2.NodeView]) -> list[api_pb2.NodeView]:
    """Nodes in the order of their rows: those that are down first, then the fullest."""
    return sorted(nodes, key=_node_rank)


def _node_rank(view: api_pb2.NodeView) -> tuple[bool, float, str]:
    down = view.node.status == objects_pb2.NODE_STATUS_DOWN
    whole = _allocatable(view)
    shares = [
        held / all_
        for held, all_ in (
            (view.allocated.cpu_milli, whole.cpu_milli),
            (view.allocated.memory_bytes, whole.memory_bytes),
        )
        if all_
    ]
    return not down, -max(shares, default=0.0), view.node.description.name


def _allocatable(view: api_pb2.NodeView) -> objects_pb2.Resources:
    return view.allocatable if view.HasField("allocatable") else view.node.description.capacity


def top(look: Look, before: Look | None) -> TopView:
    """What is shown of a look. `before`: the one that changes are counted from."""
    answer = look.cluster
    names = {each.node.id: each.node.description.name for each in look.nodes}
    leader_id = b"" if look.no_quorum else answer.leader_node_id
    return TopView(
        at=views.time_text(look.at_ms) or "",
        stale=look.stale,
        stale_why=(look.no_quorum or "asked with --stale") if look.stale else None,
        cluster_id=answer.cluster.id.hex(),
        leader=names.get(leader_id) or leader_id.hex() or None,
        answered_by=names.get(answer.node_id) or answer.node_id.hex(),
        quorum=quorum(look.members, look.no_quorum, stale=look.stale),
        nodes_ready=sum(it.node.status == objects_pb2.NODE_STATUS_READY for it in look.nodes),
        nodes_total=len(look.nodes),
        containers_running=sum(each.running for each in look.services),
        containers_desired=sum(each.desired for each in look.services),
        services_total=len(look.services),
        nodes=[_node(each, look.used) for each in worth_a_row(look.nodes)],
        services=_services(look, before),
        rates=look.rates,
        rates_why=look.rates_why or None,
    )


def _node(view: api_pb2.NodeView, used: Mapping[bytes, objects_pb2.NodeUsage]) -> TopNodeView:
    usage = used.get(view.node.id)
    return TopNodeView(
        id=view.node.id.hex(),
        name=view.node.description.name,
        status=views.word(NodeStatus, view.node.status),
        availability=views.word(Availability, view.node.availability),
        containers=view.containers,
        containers_running=view.containers_running,
        allocatable=resources(_allocatable(view)),
        allocated=resources(view.allocated),
        cpu_used_milli=usage.cpu_milli if usage is not None else None,
        memory_used_bytes=usage.memory_bytes if usage is not None else None,
    )


def _services(look: Look, before: Look | None) -> list[TopServiceView]:
    """Those first that lack the most, then those that change, then by name."""
    earlier = {it.service.id: it.running for it in before.services} if before else {}
    seconds = max(1e-9, look.at_s - before.at_s) if before else 1.0
    rows = []
    for view in look.services:
        then = earlier.get(view.service.id)
        rows.append(
            TopServiceView(
                id=view.service.id.hex(),
                name=view.service.spec.name,
                running=view.running,
                desired=view.desired,
                running_change_per_s=None if then is None else (view.running - then) / seconds,
            )
        )
    return sorted(
        rows,
        key=lambda it: (
            min(0, it.running - it.desired),
            -abs(it.running_change_per_s or 0.0),
            it.name,
        ),
    )
