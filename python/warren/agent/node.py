"""What is local to this host, as a gRPC service: its images, its containers' logs, the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from warren import rpc
from warren.agent import log_levels, logs, noted
from warren.agent.rebirth import Rebirth
from warren.agent.runtime.base import RuntimeUnavailable
from warren.agent.runtime.containerd.client import CallFailed
from warren.agent.runtime.containerd.images import Images
from warren.errors import WarrenError
from warren.pb.v1 import node_pb2

LOADS_MAX: Final = 4
"""Archives that may arrive at once; each takes its size of disk."""

_PIECE_TIMEOUT_S: Final = 300.0

_EXPECTED: Final = (WarrenError, RuntimeUnavailable, CallFailed, OSError)

Context = grpc.aio.ServicerContext[Any, Any]


class NodeLocal:
    """The service of `node.proto`. ``describe`` tells what `GetDaemon` answers; ``join``,
    ``leave`` and ``rebirth`` change what this host is in its cluster; ``levels`` has those of the
    log. ``publish`` waits until managers know what the host has, and gives the reason where they
    do not.
    """

    def __init__(
        self,
        images: Images,
        log_root: Path,
        describe: Callable[[], Awaitable[node_pb2.GetDaemonResponse]],
        join: Callable[[node_pb2.JoinClusterRequest], Awaitable[node_pb2.JoinClusterResponse]],
        leave: Callable[[node_pb2.LeaveClusterRequest], Awaitable[None]],
        rebirth: Rebirth,
        levels: log_levels.LogLevels,
        publish: Callable[[], Awaitable[str]],
    ) -> None:
        self._images = images
        self._log_root = log_root
        self._describe = describe
        self._join = join
        self._leave = leave
        self._rebirth = rebirth
        self._levels = levels
        self._publish = publish
        self.loads = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """For ``server.add_generic_rpc_handlers``."""
        return rpc.service(
            rpc.NODE_LOCAL,
            noted.noted(
                {
                    "LoadImage": self.load_image,
                    "ListImages": self.list_images,
                    "RemoveImage": self.remove_image,
                    "Logs": self.logs,
                    "GetDaemon": self.get_daemon,
                    "JoinCluster": self.join_cluster,
                    "LeaveCluster": self.leave_cluster,
                    "RestoreCluster": self.restore_cluster,
                    "RecoverQuorum": self.recover_quorum,
                    "GetLogLevels": self.get_log_levels,
                    "SetLogLevel": self.set_log_level,
                }
            ),
        )

    async def load_image(
        self, requests: AsyncIterator[node_pb2.LoadImageRequest], context: Context
    ) -> AsyncIterator[node_pb2.LoadImageProgress]:
        """Receives an archive in pieces and loads it; tells what it is doing."""
        try:
            # Whoever is refused while it speaks may not hear why.
            first = await _next(requests)
        except _EXPECTED as error:
            await _abort("LoadImage", context, error)
            raise
        if self.loads >= LOADS_MAX:
            await rpc.abort(
                context,
                WarrenError(
                    "overloaded",
                    f"{LOADS_MAX} archives are being loaded already; try again when one is done",
                ),
            )
        self.loads += 1
        try:
            reference = first.reference if first is not None else ""
            async for progress in self._images.load(_pieces(first, requests), reference):
                # Who has loaded an image wants to use it in the next command.
                why = await self._publish() if progress.step == "done" else ""
                yield progress
                if why:
                    raise _loaded_for_itself(why)
        except _EXPECTED as error:
            await _abort("LoadImage", context, error)
        finally:
            self.loads -= 1

    async def list_images(
        self, request: node_pb2.ListImagesRequest, context: Context
    ) -> node_pb2.ListImagesResponse:
        """The images that can run here."""
        try:
            return node_pb2.ListImagesResponse(images=await self._images.list())
        except _EXPECTED as error:
            await _abort("ListImages", context, error)
            raise

    async def remove_image(
        self, request: node_pb2.RemoveImageRequest, context: Context
    ) -> node_pb2.RemoveImageResponse:
        """Removes an image by name."""
        try:
            name = await self._images.remove(request.reference, force=request.force)
        except _EXPECTED as error:
            await _abort("RemoveImage", context, error)
            raise
        return node_pb2.RemoveImageResponse(reference=name)

    async def logs(
        self, request: node_pb2.LogsRequest, context: Context
    ) -> AsyncIterator[node_pb2.LogsChunk]:
        """The lines of containers of this host."""
        try:
            ids = _ids(request)
            async for chunk in logs.read(
                self._log_root,
                ids,
                tail=request.tail,
                since_ms=request.since_ms,
                follow=request.follow,
            ):
                yield chunk
        except _EXPECTED as error:
            await _abort("Logs", context, error)

    async def get_daemon(
        self, request: node_pb2.GetDaemonRequest, context: Context
    ) -> node_pb2.GetDaemonResponse:
        """Who answers, and whether it is ready."""
        return await self._describe()

    async def join_cluster(
        self, request: node_pb2.JoinClusterRequest, context: Context
    ) -> node_pb2.JoinClusterResponse:
        """Makes this host a part of a cluster; goes on if the caller has gone."""
        try:
            return await asyncio.shield(asyncio.ensure_future(self._join(request)))
        except _EXPECTED as error:
            await _abort("JoinCluster", context, error)
            raise

    async def leave_cluster(
        self, request: node_pb2.LeaveClusterRequest, context: Context
    ) -> node_pb2.LeaveClusterResponse:
        """Takes this host out of its cluster; goes on if the caller has gone."""
        try:
            await asyncio.shield(asyncio.ensure_future(self._leave(request)))
        except _EXPECTED as error:
            await _abort("LeaveCluster", context, error)
            raise
        return node_pb2.LeaveClusterResponse()

    async def restore_cluster(
        self, requests: AsyncIterator[node_pb2.RestoreClusterRequest], context: Context
    ) -> AsyncIterator[node_pb2.RestoreClusterResponse]:
        """Receives a backup in pieces and makes this host the only manager of what is in it."""
        try:
            yield await self._rebirth.restore(requests)
        except _EXPECTED as error:
            await _abort("RestoreCluster", context, error)

    async def recover_quorum(
        self, request: node_pb2.RecoverQuorumRequest, context: Context
    ) -> node_pb2.RecoverQuorumResponse:
        """Makes this manager the only one of its cluster."""
        try:
            return await self._rebirth.recover(request)
        except _EXPECTED as error:
            await _abort("RecoverQuorum", context, error)
            raise

    async def get_log_levels(
        self, request: node_pb2.GetLogLevelsRequest, context: Context
    ) -> node_pb2.GetLogLevelsResponse:
        """From which level on each component logs."""
        return log_levels.tell(self._levels)

    async def set_log_level(
        self, request: node_pb2.SetLogLevelRequest, context: Context
    ) -> node_pb2.SetLogLevelResponse:
        """Changes that of one component, or of all."""
        try:
            return log_levels.change(self._levels, request)
        except WarrenError as error:
            await _abort("SetLogLevel", context, error)
            raise


def _loaded_for_itself(why: str) -> WarrenError:
    return WarrenError(
        "unavailable",
        f"it is loaded on this host, but managers do not know that yet: {why}; they are told as "
        "soon as that is over, and there is no need to load it again",
    )


async def _next(
    requests: AsyncIterator[node_pb2.LoadImageRequest],
) -> node_pb2.LoadImageRequest | None:
    try:
        async with asyncio.timeout(_PIECE_TIMEOUT_S):
            return await anext(requests, None)
    except TimeoutError as error:
        raise WarrenError(
            "archive_invalid",
            f"nothing of the archive arrived for {_PIECE_TIMEOUT_S:.0f} s; load it again",
        ) from error


async def _pieces(
    first: node_pb2.LoadImageRequest | None, requests: AsyncIterator[node_pb2.LoadImageRequest]
) -> AsyncIterator[bytes]:
    request = first
    while request is not None:
        if request.data:
            yield request.data
        request = await _next(requests)


def _ids(request: node_pb2.LogsRequest) -> list[str]:
    if len(request.container_ids) > logs.CONTAINERS_MAX:
        raise WarrenError(
            "invalid",
            f"logs of at most {logs.CONTAINERS_MAX} containers can be read at once; name fewer",
        )
    if any(len(one) != 16 for one in request.container_ids):
        raise WarrenError("invalid", "a container's id is 16 bytes long")
    return [one.hex() for one in request.container_ids]


async def _abort(name: str, context: Context, error: Exception) -> None:
    """Ends the call with what the error means. Does not return."""
    if isinstance(error, WarrenError):
        refusal = error
    elif isinstance(error, RuntimeUnavailable):
        refusal = WarrenError("runtime_unavailable", str(error))
    elif isinstance(error, CallFailed):
        refusal = WarrenError(
            "internal", f"containerd refused it: {error.details}; its log has more"
        )
    else:
        refusal = WarrenError("internal", f"reading on the node failed ({error}); check its disk")
    noted.refused(name, context, error, refusal)
    await rpc.abort(context, refusal)
