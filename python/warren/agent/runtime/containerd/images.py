"""The images of this host: loading, listing, removing, and resolving one for a container."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence, Set
from pathlib import Path
from typing import Any, Final

import msgspec

from warren.agent.runtime.base import RuntimeRefused
from warren.agent.runtime.containerd import api, archive, references
from warren.agent.runtime.containerd.client import CallFailed, Client, NotFound
from warren.agent.runtime.containerd.importer import SNAPSHOTTER, Importer
from warren.agent.runtime.containerd.labels import LABEL_IMAGE, LABEL_SERVICE, LABEL_SLOT, mine
from warren.agent.runtime.containerd.spec import ImageConfig
from warren.agent.runtime.containerd.spool import Spool
from warren.errors import WarrenError
from warren.pb.containerd import (
    containers_pb2,
    content_pb2,
    images_pb2,
    types_pb2,
)
from warren.pb.v1 import node_pb2, objects_pb2

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_CACHE_MAX: Final = 256
_log = logging.getLogger("warren.runtime")


def architecture() -> str:
    """This host's processor, as image specs write it: amd64, arm64, …"""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """An image ready to run on this host.

    ``digest`` is what its name points at (a manifest or an index); ``size_bytes`` is all of its
    content for this platform, compressed as it is stored.
    """

    digest: str
    size_bytes: int
    config: ImageConfig
    layers: tuple[archive.Layer, ...]

    @property
    def chain_id(self) -> str:
        """The name of the snapshot that a container starts from."""
        return self.layers[-1].chain_id


class Images:
    """Images in containerd's namespace of ``client``.

    ``spool_dir`` takes uploads while they arrive. ``on_change`` is called after a load or a
    removal, so that the node can describe itself anew. ``assigned`` tells the digests of the
    images that this node is to run containers of.
    """

    def __init__(
        self,
        client: Client,
        node_id: str,
        spool_dir: Path,
        on_change: Callable[[], None] = lambda: None,
        assigned: Callable[[], Set[str]] = frozenset,
    ) -> None:
        self.on_change = on_change
        self.assigned = assigned
        self._client = client
        self._node_id = node_id
        self._spool_dir = spool_dir
        self._importer = Importer(client, node_id)
        self._resolved: OrderedDict[str, Resolved] = OrderedDict()
        self._unusable: set[str] = set()

    async def load(
        self, pieces: AsyncIterator[bytes], reference: str = ""
    ) -> AsyncIterator[node_pb2.LoadImageProgress]:
        """Loads the archive that ``pieces`` are; yields what is being done, "done" last.

        ``reference`` names an image that the archive has no name for. Raises ``WarrenError`` and
        leaves nothing behind where the archive is broken.
        """
        async with Spool(self._spool_dir) as spool:
            async for piece in pieces:
                await spool.write(piece)
                yield _progress(spool, "receiving")
            await spool.finish()
            yield _progress(spool, "importing")
            images = await asyncio.to_thread(
                archive.read, spool.file, architecture(), reference, SNAPSHOTTER
            )
            yield _progress(spool, "unpacking")
            try:
                kept = await self._importer.store(spool.file, images, _token())
                await self._prune(kept)
            except CallFailed as error:
                raise WarrenError(
                    "internal", f"containerd refused the image: {error.details}; see its log"
                ) from error
            names = {name for image in images for name in image.names}
            done = _progress(spool, "done")
            done.images.extend(image for image in await self.list() if image.reference in names)
        self.on_change()
        yield done

    async def list(self) -> list[objects_pb2.NodeImage]:
        """The images that can run on this host, sorted by reference."""
        return sorted((image for image, _ in await self._usable()), key=lambda it: it.reference)

    async def by_need(self) -> Sequence[objects_pb2.NodeImage]:
        """The same: first what this host is to run, then the newest."""
        assigned = self.assigned()

        def rank(each: tuple[objects_pb2.NodeImage, int]) -> tuple[bool, int, str]:
            image, updated_ns = each
            return (image.digest not in assigned, -updated_ns, image.reference)

        return [image for image, _ in sorted(await self._usable(), key=rank)]

    async def _usable(self) -> Sequence[tuple[objects_pb2.NodeImage, int]]:
        """The images that can run here, and when each was stored, in nanoseconds."""
        answer = await self._client.unary(api.IMAGE_LIST, images_pb2.ListImagesRequest())
        found = []
        unusable = set()
        for image in answer.images:
            try:
                resolved = await self._resolve_target(image.target)
            except CallFailed:
                continue  # half-removed, with another tool
            except WarrenError as error:
                unusable.add(image.target.digest)
                if image.target.digest not in self._unusable:
                    _log.warning(
                        "the image %s in containerd cannot run here and is not listed: %s",
                        image.name,
                        error.message,
                    )
                continue
            usable = objects_pb2.NodeImage(
                reference=image.name, digest=resolved.digest, size_bytes=resolved.size_bytes
            )
            found.append((usable, image.updated_at.ToNanoseconds()))
        self._unusable = unusable
        return found

    async def remove(self, reference: str, *, force: bool) -> str:
        """Removes the name, and what nothing else uses; returns the name in full.

        Refused while containers of this node run it, unless ``force``.
        """
        try:
            name = references.normalise(reference)
        except ValueError as error:
            raise WarrenError("invalid", str(error)) from error
        users = [] if force else await self._users(name)
        if users:
            raise WarrenError(
                "image_in_use",
                f"{name} is used by {len(users)} container(s) on this node ({', '.join(users[:3])}"
                f"{', …' if len(users) > 3 else ''}); remove their service first, or use --force",
            )
        try:
            request = images_pb2.DeleteImageRequest(name=name, sync=True)
            await self._client.unary(api.IMAGE_DELETE, request)
        except NotFound as error:
            raise WarrenError(
                "not_found",
                f"this node has no image {name}; warrenctl image ls lists those it has",
            ) from error
        self._resolved.clear()
        self.on_change()
        return name

    async def resolve(self, spec: objects_pb2.ContainerSpec) -> Resolved:
        """The image that ``spec`` names. Raises ``RuntimeRefused`` where this node has it not.

        The digest decides where there is one: a tag may have moved since the service was made.
        """
        known = self._resolved.get(spec.image_digest)
        if known is not None:
            self._resolved.move_to_end(spec.image_digest)
            return known
        try:
            answer = await self._client.unary(
                api.IMAGE_GET, images_pb2.GetImageRequest(name=spec.image)
            )
            if spec.image_digest and answer.image.target.digest != spec.image_digest:
                return await self._resolve_digest(spec)
            return await self._resolve_target(answer.image.target)
        except NotFound as error:
            raise missing(spec.image) from error
        except CallFailed as error:
            raise RuntimeRefused(
                f"containerd cannot read the image {spec.image}: {error.details}", permanent=False
            ) from error
        except WarrenError as error:
            raise RuntimeRefused(
                f"the image {spec.image} cannot be used: {error.message}", permanent=True
            ) from error

    async def unpack(self, image: Resolved) -> None:
        """Makes the image's snapshots anew, where another tool has removed or never made them."""
        await self._importer.unpack(image.layers, _token())

    async def sweep(self) -> None:
        """Removes what imports that were cut short have left."""
        await self._importer.sweep()

    async def _prune(self, kept: set[str]) -> None:
        """Removes images that are named by digest alone and that no container runs any more.

        Those in ``kept`` stay, and those that are assigned: a container of theirs may be waiting
        for its next attempt.
        """
        used = {container.labels.get(LABEL_IMAGE) for container in await self._containers()}
        used |= self.assigned()
        answer = await self._client.unary(api.IMAGE_LIST, images_pb2.ListImagesRequest())
        for image in answer.images:
            if "@" in image.name and image.name not in kept and image.target.digest not in used:
                with contextlib.suppress(NotFound):
                    request = images_pb2.DeleteImageRequest(name=image.name)
                    await self._client.unary(api.IMAGE_DELETE, request)

    async def _users(self, name: str) -> Sequence[str]:
        try:
            request = images_pb2.GetImageRequest(name=name)
            digest = (await self._client.unary(api.IMAGE_GET, request)).image.target.digest
        except NotFound:
            return []
        return sorted(
            f"{container.labels.get(LABEL_SERVICE)}.{container.labels.get(LABEL_SLOT)}"
            for container in await self._containers()
            if container.labels.get(LABEL_IMAGE) == digest
        )

    async def _containers(self) -> Sequence[containers_pb2.Container]:
        request = containers_pb2.ListContainersRequest(filters=[mine(self._node_id)])
        answers = self._client.stream(api.CONTAINER_LIST, request)
        return [answer.container async for answer in answers]

    async def _resolve_digest(self, spec: objects_pb2.ContainerSpec) -> Resolved:
        """The image by digest alone: its content may be here although the tag moved on."""
        request = content_pb2.InfoRequest(digest=spec.image_digest)
        info = (await self._client.unary(api.CONTENT_INFO, request)).info
        return await self._resolve_target(types_pb2.Descriptor(digest=info.digest, size=info.size))

    async def _resolve_target(self, target: types_pb2.Descriptor) -> Resolved:
        known = self._resolved.get(target.digest)
        if known is not None:
            return known
        document = await self._document(target.digest)
        size_bytes = target.size
        while "manifests" in document:
            chosen = _choose(document)
            document = await self._document(archive.text(chosen, "digest"))
            size_bytes += archive.size_bytes(chosen)
        config_descriptor = document.get("config") or {}
        config = await self._document(archive.text(config_descriptor, "digest"))
        made_for = (config.get("os"), config.get("architecture"))
        if made_for != ("linux", architecture()):
            raise archive.invalid(f"the image is for {made_for[0]}/{made_for[1]}")
        layers = _layers(document, config)
        parts = [config_descriptor, *archive.objects(document, "layers")]
        size_bytes += sum(map(archive.size_bytes, parts))
        resolved = Resolved(
            digest=target.digest,
            size_bytes=size_bytes,
            config=archive.process_config(config),
            layers=layers,
        )
        self._resolved[target.digest] = resolved
        if len(self._resolved) > _CACHE_MAX:
            self._resolved.popitem(last=False)
        return resolved

    async def _document(self, digest: str) -> dict[str, Any]:
        data = b""
        request = content_pb2.ReadContentRequest(digest=digest)
        async for answer in self._client.stream(api.CONTENT_READ, request):
            data += answer.data
            if len(data) > archive.DOCUMENT_BYTES_MAX:
                raise archive.invalid(f"{digest} is too large for a manifest")
        return archive.parse_object(data, digest)


def missing(reference: str) -> RuntimeRefused:
    """The refusal where a node lacks an image."""
    return RuntimeRefused(
        f"the image {reference} is not on this node; load it there with "
        "warrenctl image load -i ARCHIVE",
        permanent=True,
    )


def _choose(index: dict[str, Any]) -> dict[str, Any]:
    for entry in archive.objects(index, "manifests"):
        if archive.could_run(entry, architecture()):
            return entry
    raise archive.invalid(f"the image has no variant for linux/{architecture()}")


def _layers(manifest: dict[str, Any], config: dict[str, Any]) -> tuple[archive.Layer, ...]:
    descriptors = archive.objects(manifest, "layers")
    diffs = archive.diff_ids(config)
    if not descriptors or len(descriptors) != len(diffs):
        raise archive.invalid("the image's configuration does not list its layers")
    return tuple(
        archive.Layer(
            archive.Blob(
                media_type=archive.text(descriptor, "mediaType"),
                digest=archive.text(descriptor, "digest"),
                size_bytes=archive.size_bytes(descriptor),
            ),
            diff_id,
            chain_id,
        )
        for descriptor, diff_id, chain_id in zip(
            descriptors, diffs, archive.chain_ids(diffs), strict=True
        )
    )


def _progress(spool: Spool, step: str) -> node_pb2.LoadImageProgress:
    return node_pb2.LoadImageProgress(received_bytes=spool.received_bytes, step=step)


def _token() -> str:
    return f"warren-import-{secrets.token_hex(8)}"
