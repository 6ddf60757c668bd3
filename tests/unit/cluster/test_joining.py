"""What a host that leaves asks of the managers that stay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import grpc
from google.protobuf.message import Message

from warren.cluster import joining
from warren.cluster.membership import Membership
from warren.pb.v1 import node_pb2

NODE_ID = "1f" * 16
OTHERS = ("m1:2377", "m2:2377")


class Channels:
    """To managers of which each request's first copy gets no answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self._seen: set[str] = set()

    def get(self, address: str) -> Any:
        return SimpleNamespace(unary_unary=self._method, unary_stream=self._method)

    async def explain(self, address: str) -> str:
        return ""

    def _method(self, path: str, **_: Any) -> Callable[..., Awaitable[None]]:
        name = path.rpartition("/")[2]

        async def call(request: Message, timeout: float) -> None:  # noqa: ASYNC109 - as gRPC's
            self.asked.append((name, request))
            if name not in self._seen:
                self._seen.add(name)
                none = grpc.aio.Metadata()
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, "gone")

        return call


class Worker:
    async def empty(self, timeout_s: float) -> bool:
        return True


class Host:
    """What `leave` needs of a manager's membership."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.leaving = asyncio.Event()
        self.channels = Channels()
        self.worker = Worker()
        self.data = SimpleNamespace(node_id=NODE_ID)
        self.in_cluster = self.manages = True
        self.own_api = "me:2377"

    def own_target(self) -> str:
        return "unix:/run/warren.sock"

    def known_managers(self) -> tuple[str, ...]:
        return (*OTHERS, self.own_api)

    async def forget(self) -> None:
        self.in_cluster = False


async def test_copies_of_a_goodbye_have_one_effect() -> None:
    ids = []
    for _ in range(2):
        here = Host()
        await joining.leave(cast("Membership", here), node_pb2.LeaveClusterRequest())
        assert not here.in_cluster
        asked = here.channels.asked
        assert [name for name, _ in asked] == ["DemoteNode"] * 2 + ["RemoveNode"] * 2
        assert {request.ref for _, request in asked} == {NODE_ID}
        ids += [(request.request.client, request.request.sequence) for _, request in asked]
    assert all(len(client) == 16 and sequence for client, sequence in ids)
    # Tried anew, it is the same request; another one, or to leave once more, is not.
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 4
