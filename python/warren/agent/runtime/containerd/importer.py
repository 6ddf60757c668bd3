"""An archive's images into containerd: content, snapshots, then the names.

Everything is held by a lease until the names point at it. When anything fails, the lease is
deleted with a collection, and nothing is left. A lease that a killed daemon left expires by
itself, and `sweep` removes it at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import AsyncIterator, Iterable
from typing import BinaryIO, Final

from warren.agent.runtime.base import RuntimeUnavailable
from warren.agent.runtime.containerd import api, archive
from warren.agent.runtime.containerd.client import AlreadyExists, CallFailed, Client, NotFound
from warren.errors import WarrenError
from warren.pb.containerd import (
    content_pb2,
    diff_pb2,
    images_pb2,
    leases_pb2,
    snapshots_pb2,
    types_pb2,
)

SNAPSHOTTER: Final = "overlayfs"

_WRITE_BYTES_MAX: Final = 1024 * 1024
_LEASE_LABEL: Final = "warren.import"
# Longer than any import takes; shorter than anyone would wait for the space.
_LEASE_HOURS: Final = 6

log = logging.getLogger("warren.runtime")


class Importer:
    """Writes to containerd what a plan (`archive.Image`) says. One import at a time."""

    def __init__(self, client: Client, node_id: str) -> None:
        self._client = client
        self._node_id = node_id
        self._lock = asyncio.Lock()

    async def store(self, file: BinaryIO, images: Iterable[archive.Image], token: str) -> set[str]:
        """Makes all ``images`` of the archive ``file`` usable, or leaves nothing behind.

        ``token`` is unique to this import: it names the lease and what is under way. Returns the
        names under which images were kept whose own name moved to a new one.
        """
        kept = set()
        async with self._lock, _Lease(self._client, self._node_id, token) as lease:
            for image in images:
                written: set[str] = set()
                for blob in image.blobs:
                    if blob.digest not in written:
                        await self._write(file, blob, lease.id)
                        written.add(blob.digest)
                await self._unpack(image.layers, lease.id)
            for image in images:
                for name in image.names:
                    kept |= await self._name(name, image.target)
        return kept

    async def unpack(self, layers: Iterable[archive.Layer], token: str) -> None:
        """Makes the snapshots of an image whose content is there."""
        async with self._lock, _Lease(self._client, self._node_id, token) as lease:
            await self._unpack(layers, lease.id)

    async def sweep(self) -> None:
        """Ends what imports of an earlier daemon left: their leases, with what they held."""
        async with self._lock:
            request = leases_pb2.ListRequest(
                filters=[f'labels."{_LEASE_LABEL}"=="{self._node_id}"']
            )
            for lease in (await self._client.unary(api.LEASE_LIST, request)).leases:
                await _Lease(self._client, self._node_id, lease.id).drop()

    async def _write(self, file: BinaryIO, blob: archive.Blob, lease: str) -> None:
        requests = _write_requests(file, blob, f"{lease}-{blob.digest}")
        answers = self._client.exchange(api.CONTENT_WRITE, requests, lease=lease)
        try:
            async for answer in answers:
                requests.arrived(answer)
        except AlreadyExists:
            # Written by an earlier import, perhaps without the labels.
            await self._label(blob)
        finally:
            await answers.aclose()

    async def _label(self, blob: archive.Blob) -> None:
        if not blob.labels:
            return
        request = content_pb2.UpdateRequest(
            info=content_pb2.Info(digest=blob.digest, labels=dict(blob.labels))
        )
        request.update_mask.paths.extend(f"labels.{key}" for key in blob.labels)
        await self._client.unary(api.CONTENT_UPDATE, request)

    async def _unpack(self, layers: Iterable[archive.Layer], lease: str) -> None:
        parent = ""
        for layer in layers:
            if not await self._has_snapshot(layer.chain_id):
                await self._unpack_layer(layer, parent, lease)
            parent = layer.chain_id

    async def _has_snapshot(self, name: str) -> bool:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=SNAPSHOTTER, key=name)
        try:
            await self._client.unary(api.SNAPSHOT_STAT, request)
        except NotFound:
            return False
        return True

    async def _unpack_layer(self, layer: archive.Layer, parent: str, lease: str) -> None:
        key = f"{lease}-{layer.chain_id}"
        prepare = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=SNAPSHOTTER, key=key, parent=parent
        )
        mounts = (await self._client.unary(api.SNAPSHOT_PREPARE, prepare, lease=lease)).mounts
        apply = diff_pb2.ApplyRequest(diff=_descriptor(layer.blob), mounts=mounts)
        commit = snapshots_pb2.CommitSnapshotRequest(
            snapshotter=SNAPSHOTTER, name=layer.chain_id, key=key
        )
        try:
            applied = (await self._client.unary(api.DIFF_APPLY, apply, lease=lease)).applied
            if applied.digest != layer.diff_id:
                raise archive.invalid(f"the layer {layer.diff_id} is damaged: it unpacks to others")
            await self._client.unary(api.SNAPSHOT_COMMIT, commit, lease=lease)
        except AlreadyExists:
            await self._remove_snapshot(key)
        except CallFailed as error:
            await self._remove_snapshot(key)
            raise _unpacking(error) from error
        except BaseException:
            await asyncio.shield(self._remove_snapshot(key))
            raise

    async def _remove_snapshot(self, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=SNAPSHOTTER, key=key)
        try:
            await self._client.unary(api.SNAPSHOT_REMOVE, request)
        except (CallFailed, RuntimeUnavailable) as error:
            # The lease's end collects it too.
            log.debug("a snapshot of a failed import stays for now: %s", error)

    async def _name(self, name: str, target: archive.Blob) -> set[str]:
        image = images_pb2.Image(name=name, target=_descriptor(target))
        try:
            await self._client.unary(api.IMAGE_CREATE, images_pb2.CreateImageRequest(image=image))
        except AlreadyExists:
            request = images_pb2.GetImageRequest(name=name)
            before = (await self._client.unary(api.IMAGE_GET, request)).image.target
            kept = {await self._keep(name, before)} if before.digest != target.digest else set()
            await self._client.unary(api.IMAGE_UPDATE, images_pb2.UpdateImageRequest(image=image))
            return kept
        return set()

    async def _keep(self, name: str, target: types_pb2.Descriptor) -> str:
        """Names by digest what loses its name: services of the older image start it again."""
        by_digest = f"{name.rpartition(':')[0]}@{target.digest}"
        image = images_pb2.Image(name=by_digest, target=target)
        with contextlib.suppress(AlreadyExists):
            await self._client.unary(api.IMAGE_CREATE, images_pb2.CreateImageRequest(image=image))
        return by_digest


class _Lease:
    """Holds what is being imported. Left with an error, everything it alone held is collected."""

    def __init__(self, client: Client, node_id: str, lease_id: str) -> None:
        self.id = lease_id
        self._client = client
        self._node_id = node_id

    async def __aenter__(self) -> _Lease:
        expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=_LEASE_HOURS)
        labels = {
            _LEASE_LABEL: self._node_id,
            "containerd.io/gc.expire": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        await self._client.unary(
            api.LEASE_CREATE, leases_pb2.CreateRequest(id=self.id, labels=labels)
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Shielded: a cancelled import must not keep what it has written so far.
        await asyncio.shield(self.drop() if kind is not None else self._end(sync=False))

    async def drop(self) -> None:
        """Ends the lease and its unfinished writes, and waits until containerd has collected."""
        try:
            ingests = content_pb2.ListStatusesRequest(filters=[f"ref~=^{self.id}-"])
            statuses = await self._client.unary(api.CONTENT_LIST_STATUSES, ingests)
            for status in statuses.statuses:
                abort = content_pb2.AbortRequest(ref=status.ref)
                await self._client.unary(api.CONTENT_ABORT, abort)
        except (CallFailed, RuntimeUnavailable) as error:
            log.warning("unfinished writes of an import stay until containerd's restart: %s", error)
        await self._end(sync=True)

    async def _end(self, *, sync: bool) -> None:
        try:
            await self._client.unary(
                api.LEASE_DELETE, leases_pb2.DeleteRequest(id=self.id, sync=sync)
            )
        except NotFound:
            pass
        except (CallFailed, RuntimeUnavailable) as error:
            log.warning("the lease of an import stays until it expires: %s", error)


class _write_requests(AsyncIterator[content_pb2.WriteContentRequest]):  # noqa: N801
    """The requests that write one blob, each after the answer to the one before it.

    The first asks how much is there: an earlier write of the same content may have gone some way,
    or all of it in another namespace.
    """

    def __init__(self, file: BinaryIO, blob: archive.Blob, ref: str) -> None:
        self._file = file
        self._blob = blob
        self._ref = ref
        self._offset: int | None = None
        self._committed = False

    def arrived(self, answer: content_pb2.WriteContentResponse) -> None:
        """Takes note of how far the write has come."""
        self._offset = answer.offset

    async def __anext__(self) -> content_pb2.WriteContentRequest:
        if self._committed:
            raise StopAsyncIteration
        size = self._blob.size_bytes
        request = content_pb2.WriteContentRequest(
            action=content_pb2.STAT, ref=self._ref, total=size, expected=self._blob.digest
        )
        if self._offset is None:
            return request
        piece_bytes = min(_WRITE_BYTES_MAX, size - self._offset)
        request.offset = self._offset
        request.data = await asyncio.to_thread(self._piece, self._offset, piece_bytes)
        request.action = content_pb2.WRITE
        if self._offset + piece_bytes == size:
            request.action = content_pb2.COMMIT
            request.labels.update(self._blob.labels)
            self._committed = True
        return request

    def _piece(self, offset: int, piece_bytes: int) -> bytes:
        if self._blob.data is not None:
            return self._blob.data[offset : offset + piece_bytes]
        self._file.seek(self._blob.offset + offset)
        return self._file.read(piece_bytes)


def _descriptor(blob: archive.Blob) -> types_pb2.Descriptor:
    return types_pb2.Descriptor(
        media_type=blob.media_type, digest=blob.digest, size=blob.size_bytes
    )


def _unpacking(error: CallFailed) -> WarrenError:
    if "no space left" in error.details:
        return WarrenError(
            "no_space",
            "there is not enough space for containerd to unpack the image; free some, "
            "for example with warrenctl image rm, and load it again",
        )
    return archive.invalid(f"a layer cannot be unpacked ({error.details[:300]})")
