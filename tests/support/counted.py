"""Calls to a daemon that are counted here as it has to count them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.api import Api
from tests.support.node import WarrenNode, eventually
from warren import rpc
from warren.pb.v1 import api_pb2, node_pb2, objects_pb2

IMAGE = "docker.io/library/tiny:1"
LOAD_TIMEOUT_S = 60
AMONG_MEMBERS = (
    "warren_api_forwarded_total",
    "warren_api_forwarding",
    "warren_forwards_taken",
    "warren_forwards_total",
    "warren_forwards_waiting",
    "warren_peer_connections_accepted_total",
    "warren_peer_connections_refused_total",
    "warren_peer_frames_refused_total",
    "warren_peer_frames_total",
    "warren_peer_links",
    "warren_peer_received_bytes_total",
    "warren_peer_received_frames_total",
    "warren_peer_unaddressed_frames_total",
    "warren_raft_cut",
    "warren_raft_joint",
    "warren_raft_learners",
    "warren_raft_peer_lag_entries",
    "warren_raft_voters_silent",
    "warren_snapshot_bytes",
    "warren_snapshot_duration_seconds",
    "warren_snapshot_failures_total",
    "warren_snapshot_received_bytes_total",
    "warren_snapshot_receiving",
    "warren_snapshot_sending",
    "warren_snapshot_sent_bytes_total",
    "warren_state_hash_mismatches_total",
    "warren_peer_connected",
    "warren_peer_dial_failures_total",
    "warren_peer_expired_frames_total",
    "warren_peer_lost_frames_total",
    "warren_peer_queue_depth",
    "warren_peer_queue_full_total",
    "warren_peer_round_trip_seconds",
    "warren_peer_sent_bytes_total",
    "warren_peer_sent_frames_total",
)
"""Metrics that a manager without others has no samples of, or zeros."""


class Script:
    """Calls to one daemon's API, counted here as the daemon has to count them."""

    def __init__(self, node: WarrenNode) -> None:
        self.node = node
        self.calls: Counter[tuple[str, str]] = Counter()
        self.took_s: defaultdict[str, float] = defaultdict(float)
        self._api = Api(node.socket)
        self.request_id = self._api.request_id
        self.began_s = time.monotonic()
        self.running: dict[str, dict[int, str]] = {}

    def call(self, method: str, request: Any) -> Any:
        """One call that succeeds."""
        return self._call(method, request, "success")

    def refused(self, method: str, request: Any) -> str:
        """One call that must not; the code of the refusal."""
        with pytest.raises(grpc.RpcError) as error:
            self._call(method, request, "error")
        return rpc.failure(error.value).code

    def _call(self, method: str, request: Any, status: str) -> Any:
        began = time.monotonic()
        try:
            return self._api.call(method, request)
        finally:
            self.calls[method, status] += 1
            self.took_s[method] += time.monotonic() - began

    def spec(self, name: str, replicas: int, *command: str, **container: Any) -> Any:
        """A service that is restarted and stopped at once, if `container` says nothing else."""
        spec = objects_pb2.ServiceSpec(name=name, replicas=replicas)
        spec.mode = objects_pb2.SERVICE_MODE_REPLICATED
        spec.container.image = IMAGE
        spec.container.command.extend(command)
        spec.container.restart = objects_pb2.RESTART_CONDITION_ANY
        spec.container.stop_timeout_ms = 50
        spec.container.MergeFrom(objects_pb2.ContainerSpec(**container))
        return spec

    def create(self, spec: Any) -> bytes:
        """A new service; its id."""
        request = api_pb2.CreateServiceRequest(request=self.request_id(), spec=spec)
        return bytes(self.call("CreateService", request).service_id)

    def slots(self, service: str) -> list[Any]:
        """Of each slot the newest container; a slot without one is not there."""
        answer = self.call("ListSlots", api_pb2.ListSlotsRequest(ref=service))
        return [slot.container for slot in answer.slots if slot.HasField("container")]

    def wait(self, service: str, state: int, many: int, attempt: int = 1) -> list[Any]:
        """Until so many containers of a service are in a state, in this attempt."""

        def there() -> list[Any]:
            found = [
                one
                for one in self.slots(service)
                if (one.status.state, one.status.attempt) == (state, attempt)
            ]
            return found if len(found) == many else []

        return eventually(there, f"{many} of {service} are {state}", pause_s=0.1)

    def look_at(self, service: str) -> None:
        """Note the container of each slot in `running`."""
        self.running[service] = {one.slot: one.id.hex() for one in self.slots(service)}


def load(node: WarrenNode, archive: Path) -> None:
    """As `warrenctl image load`, which asks the managers too."""
    pieces = [node_pb2.LoadImageRequest(data=archive.read_bytes())]
    with grpc.insecure_channel(f"unix:{node.socket}", options=rpc.CLIENT_OPTIONS) as channel:
        local = rpc.Stub(channel, rpc.NODE_LOCAL)
        assert list(local.LoadImage(iter(pieces), timeout=LOAD_TIMEOUT_S))[-1].step == "done"
