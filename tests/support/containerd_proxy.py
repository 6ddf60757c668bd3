"""A gRPC proxy in front of the real containerd that can act between any two calls.

Tests place it between the daemon and containerd to kill the daemon before a call reaches
containerd, or after containerd has carried it out and before the daemon hears of it: the two
outcomes that a crash at that step can have. Messages pass through as opaque bytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

UNBOUNDED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

# What only looks or waits changes nothing in containerd: a crash there leaves no state of its own.
PASSIVE = ("/Get", "/List", "/Wait", "/Subscribe", "/Version", "/Stat", "/Read", "/Info", "/Check")


@dataclass(frozen=True)
class Step:
    """A call that changes containerd: its number since `arm`, its method, before or after it."""

    number: int
    method: str
    after: bool

    @property
    def call(self) -> str:
        """The method without package and version: `Tasks/Start`."""
        return self.method.rsplit(".", 1)[1]


class ContainerdProxy:
    """Serves `listen` and forwards to `target`, both Unix sockets.

    `hook(step)` runs around every call that changes something, once armed; it runs in the
    proxy's thread, and the call waits for it. Where it answers True the call goes no further:
    before, containerd never hears of it; after, the daemon never hears of its outcome.
    """

    def __init__(self, listen: Path, target: str) -> None:
        self.address = str(listen)
        self._target = target
        self._hook: Callable[[Step], bool] | None = None
        self._count = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="containerd-proxy", daemon=True)
        self._thread.start()
        assert self._started.wait(10), "the proxy did not start"

    def arm(self, hook: Callable[[Step], bool] | None) -> None:
        """From now on call `hook` at each step, counting from 1; None only forwards."""
        self._count = 0
        self._hook = hook

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)
        self._loop.close()

    # -- inside the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        async with grpc.aio.insecure_channel(f"unix:{self._target}", options=UNBOUNDED) as channel:
            server = grpc.aio.server(options=UNBOUNDED)
            server.add_generic_rpc_handlers((_Forward(self, channel),))
            assert server.add_insecure_port(f"unix:{self.address}")
            await server.start()
            self._started.set()
            await self._stopping.wait()
            await server.stop(grace=0)

    def cuts(self, method: str, number: int, *, after: bool) -> bool:
        """Whether the call ends at this step."""
        return bool(self._hook and number and self._hook(Step(number, method, after)))

    def next_number(self, method: str) -> int:
        """0 for a call that changes nothing."""
        if any(part in method for part in PASSIVE) or self._hook is None:
            return 0
        self._count += 1
        return self._count


class _Forward(grpc.GenericRpcHandler):
    def __init__(self, proxy: ContainerdProxy, channel: grpc.aio.Channel) -> None:
        self._proxy = proxy
        self._channel = channel

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        metadata = [
            (key, value)
            for key, value in handler_call_details.invocation_metadata
            if key.startswith("containerd-")
        ]

        async def forward(
            requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
        ) -> AsyncIterator[bytes]:
            number = self._proxy.next_number(method)
            if self._proxy.cuts(method, number, after=False):
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut before containerd heard it")
            call = self._channel.stream_stream(method)(
                requests, metadata=metadata, timeout=context.time_remaining()
            )
            try:
                async for response in call:
                    if self._proxy.cuts(method, number, after=True):
                        break
                    yield response
            except grpc.aio.AioRpcError as error:
                trailing = tuple(error.trailing_metadata() or ())
                await context.abort(error.code(), error.details() or "", trailing)

        return grpc.stream_stream_rpc_method_handler(forward)
