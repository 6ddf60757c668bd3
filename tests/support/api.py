"""The manager's API without the command line: a call costs a test a millisecond, not a process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc

from warren import rpc
from warren.pb.v1 import api_pb2, commands_pb2, objects_pb2

CALL_TIMEOUT_S = 10.0


class Api:
    """Calls of one client to whatever daemon serves the socket at that moment."""

    def __init__(self, socket: Path) -> None:
        self._address = f"unix:{socket}"
        self._client = os.urandom(16)
        self._sequence = 0

    def call(self, method: str, request: Any) -> Any:
        """One call on a connection of its own. Raises grpc.RpcError."""
        with grpc.insecure_channel(self._address, options=rpc.CLIENT_OPTIONS) as channel:
            return getattr(rpc.Stub(channel, rpc.MANAGER), method)(request, timeout=CALL_TIMEOUT_S)

    def request_id(self) -> commands_pb2.RequestId:
        """A new one; the same again has no second effect."""
        self._sequence += 1
        return commands_pb2.RequestId(client=self._client, sequence=self._sequence)

    def services(self) -> dict[str, objects_pb2.Service]:
        """All services by name."""
        views = self.call("ListServices", api_pb2.ListServicesRequest()).services
        return {view.service.spec.name: view.service for view in views}

    def containers(self, service: str) -> list[objects_pb2.Container]:
        """The containers in the slots of a service; empty if there is no such service."""
        try:
            answer = self.call("ListSlots", api_pb2.ListSlotsRequest(ref=service))
        except grpc.RpcError as error:
            if rpc.failure(error).code == "not_found":
                return []
            raise
        return [slot.container for slot in answer.slots if slot.HasField("container")]
