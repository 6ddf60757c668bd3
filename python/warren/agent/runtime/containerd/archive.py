"""What is in an image archive: an OCI image layout, or what ``docker save`` writes.

The archive is a plain tar file that can be read at any place. Nothing is extracted: its members
are looked up by name, and a plan says which ranges of the file are which blobs. Every blob is
hashed here, so that a broken archive is refused before containerd sees any of it.

Sources: OCI image-spec 1.0 (image-layout.md, manifest.md, image-index.md); the format of
``docker save`` is documented only by its code.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final, cast

import msgspec

from warren.agent.runtime.containerd import references
from warren.agent.runtime.containerd.spec import ImageConfig
from warren.errors import WarrenError

MEMBERS_MAX: Final = 20_000
DOCUMENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""An index, a manifest or a configuration larger than this is refused."""

# Of one member, all together: two names of 4 KiB, and what little else is said. What tarfile makes
# of them grows with the square of their size, in time and in memory.
_HEADERS_BYTES_MAX: Final = 16 * 1024
# No part of a name is longer. tarfile looks at all of a number once for each of its digits.
_NUMBER: Final = re.compile(rb"\d{256}")
_LAYERS_MAX: Final = 512
# No blob has a TiB; the sum of all that a manifest has room for fits into 64 bits.
_SIZE_BYTES_MAX: Final = 1 << 40
_INDEX_DEPTH_MAX: Final = 4
_HASH_CHUNK_BYTES: Final = 1024 * 1024

_INDEXES: Final = frozenset(
    {
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }
)
_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class Blob(msgspec.Struct, frozen=True, kw_only=True):
    """Content to store. ``data``, or where it is not given, a range of the archive.

    ``labels`` keep what it refers to from containerd's garbage collector.
    """

    media_type: str
    digest: str
    size_bytes: int
    offset: int = 0
    data: bytes | None = None
    labels: Mapping[str, str] = {}


class Layer(msgspec.Struct, frozen=True):
    """A layer as it is stored, the digest of its tar, and the name of its snapshot."""

    blob: Blob
    diff_id: str
    chain_id: str


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image for this platform: its names, what they point at, and how it is made.

    ``blobs`` stands in the order of writing: whatever refers to something comes after it.
    """

    names: tuple[str, ...]
    target: Blob
    blobs: tuple[Blob, ...]
    layers: tuple[Layer, ...]


def invalid(why: str) -> WarrenError:
    """The refusal of an archive."""
    # Names in a tar may be no text, and what is told must be.
    told = why.encode(errors="replace").decode()
    return WarrenError(
        "archive_invalid",
        f"{told}; nothing was loaded. Make the archive anew (docker save, or skopeo copy to "
        "oci-archive:) and load it again",
    )


def read(file: BinaryIO, architecture: str, reference: str, snapshotter: str) -> list[Image]:
    """The images of the tar ``file`` for linux/``architecture``.

    ``reference`` names an image that the archive gives no whole name to. Raises ``WarrenError``
    (`archive_invalid`, or `invalid` for a bad or missing name).
    """
    members = _Members(file)
    reader = _Reader(members, architecture, snapshotter)
    if "index.json" in members.found:
        images = _oci(reader, reference)
    elif "manifest.json" in members.found:
        images = _docker(reader, reference)
    else:
        raise invalid("the archive holds no image: neither index.json nor manifest.json is in it")
    if not images:
        raise invalid("the archive holds no image")
    return images


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The name of each layer's snapshot (OCI image-spec, config.md, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def sha256(data: bytes) -> str:
    """The digest of ``data`` as it is written in manifests."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _Members:
    """The regular files of a tar, by name, as ranges of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.found: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        self._index()

    def _index(self) -> None:
        end = self.file.seek(0, 2)
        self.file.seek(0)
        headers = _Headers(self.file)
        count = 0
        try:
            with tarfile.open(fileobj=cast("BinaryIO", headers), mode="r:") as tar:
                while (member := tar.next()) is not None:
                    if count >= MEMBERS_MAX:
                        raise invalid(f"the archive has more than {MEMBERS_MAX:,} members")
                    count += 1
                    self._add(member, end)
                    headers.left_bytes = _HEADERS_BYTES_MAX
                    # tarfile keeps all that it has read; none of it is needed again.
                    tar.members.clear()  # type: ignore[attr-defined]
                    tar.pax_headers = {}
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            what = "is cut short" if end and self.found else "is not a tar file"
            raise invalid(f"the archive {what} ({error})") from error

    def _add(self, member: tarfile.TarInfo, end: int) -> None:
        name = posixpath.normpath(member.name)
        if name.startswith(("/", "..")):
            raise invalid(f'the archive has a member outside of itself, "{name[:100]}"')
        if member.issym() or member.islnk():
            base = posixpath.dirname(name) if member.issym() else ""
            self._links[name] = posixpath.normpath(posixpath.join(base, member.linkname))
        elif member.isreg() and not member.issparse():
            if not 0 <= member.size <= end - member.offset_data:
                raise invalid(f'the archive is cut short in "{name[:100]}"')
            self.found[name] = (member.offset_data, member.size)

    def locate(self, name: str) -> tuple[int, int]:
        """The range of the file ``name``; links are followed, within the archive alone."""
        wanted = posixpath.normpath(name)
        for _ in range(4):
            if wanted in self.found:
                return self.found[wanted]
            if wanted not in self._links:
                break
            wanted = self._links[wanted]
        raise invalid(f'the archive has no "{name[:100]}", which it refers to')

    def document(self, name: str) -> bytes:
        """The bytes of a small file."""
        offset, size = self.locate(name)
        if size > DOCUMENT_BYTES_MAX:
            raise invalid(f'"{name[:100]}" has {size:,} bytes, above {DOCUMENT_BYTES_MAX:,}')
        self.file.seek(offset)
        return self.file.read(size)

    def digest(self, name: str) -> str:
        """The SHA-256 of a file of any size, read in pieces."""
        offset, left = self.locate(name)
        self.file.seek(offset)
        digest = hashlib.sha256()
        while left:
            piece = self.file.read(min(left, _HASH_CHUNK_BYTES))
            if not piece:
                raise invalid("the archive is cut short")
            digest.update(piece)
            left -= len(piece)
        return f"sha256:{digest.hexdigest()}"

    def starts_with(self, name: str, magic: bytes) -> bool:
        """Whether the file begins with these bytes."""
        offset, _ = self.locate(name)
        self.file.seek(offset)
        return self.file.read(len(magic)) == magic


class _Headers:
    """The archive as tarfile reads it: at most ``left_bytes`` more.

    tarfile reads a header as a whole, however large it says that it is, and those that follow each
    other by recursion.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.left_bytes = _HEADERS_BYTES_MAX
        self.tell = file.tell
        self.seek = file.seek
        self._read = file.read

    def read(self, size: int) -> bytes:
        """The next bytes. Refuses to read more than is left."""
        if not 0 <= size <= self.left_bytes:
            raise invalid(
                f"the archive has a member with more than {_HEADERS_BYTES_MAX:,} bytes of headers"
            )
        self.left_bytes -= size
        data = self._read(size)
        if _NUMBER.search(data):
            raise invalid("the archive has a member with more than 255 digits in its headers")
        return data


class _Reader:
    def __init__(self, members: _Members, architecture: str, snapshotter: str) -> None:
        self.members = members
        self.architecture = architecture
        self.snapshotter = snapshotter
        self._verified: set[str] = set()

    def json(self, name: str) -> dict[str, Any]:
        return parse_object(self.members.document(name), name)

    def blob(self, descriptor: Any, labels: Mapping[str, str] | None = None) -> Blob:
        """The blob of an OCI descriptor, its size and digest checked against the content."""
        digest = text(descriptor, "digest")
        name = blob_path(digest)
        offset, size = self.members.locate(name)
        if descriptor.get("size") != size:
            raise invalid(f"{digest} has {size:,} bytes, and its descriptor says otherwise")
        if digest not in self._verified and self.members.digest(name) != digest:
            raise invalid(f"the content of {digest} is damaged: it has another digest")
        self._verified.add(digest)
        return Blob(
            media_type=text(descriptor, "mediaType"),
            digest=digest,
            size_bytes=size,
            offset=offset,
            labels=labels or {},
        )

    def image(
        self, names: tuple[str, ...], manifest: Blob, config: Blob, layers: list[Blob], diffs: Any
    ) -> Image:
        """An image of parts that are known to be whole; adds the labels between them."""
        if not isinstance(diffs, list) or len(diffs) != len(layers):
            raise invalid("the image's configuration does not list its layers")
        if not 0 < len(layers) <= _LAYERS_MAX:
            raise invalid(f"the image has {len(layers)} layers; 1 to {_LAYERS_MAX} are possible")
        chain = chain_ids([str(diff) for diff in diffs])
        replace = msgspec.structs.replace
        unpacked = [
            Layer(replace(blob, labels={"containerd.io/uncompressed": str(diff)}), str(diff), link)
            for blob, diff, link in zip(layers, diffs, chain, strict=True)
        ]
        snapshot = {f"containerd.io/gc.ref.snapshot.{self.snapshotter}": chain[-1]}
        config = replace(config, labels=snapshot)
        references_of = {"containerd.io/gc.ref.content.config": config.digest} | {
            f"containerd.io/gc.ref.content.l.{i}": layer.digest for i, layer in enumerate(layers)
        }
        manifest = replace(manifest, labels=references_of)
        blobs = (*(layer.blob for layer in unpacked), config, manifest)
        return Image(names=names, target=manifest, blobs=blobs, layers=tuple(unpacked))

    def check_config(self, config: dict[str, Any]) -> None:
        """That this node can run what has the configuration."""
        process_config(config)
        made_for = f"{config.get('os')}/{config.get('architecture')}"
        if made_for != f"linux/{self.architecture}":
            raise invalid(f"the image is for {made_for} and this node is linux/{self.architecture}")


def _oci(reader: _Reader, reference: str) -> list[Image]:
    index = reader.json("index.json")
    architecture = reader.architecture
    entries = [each for each in objects(index, "manifests") if could_run(each, architecture)]
    if not entries:
        raise invalid(f"the archive has no image for linux/{architecture}")
    images: dict[str, Image] = {}
    for entry in entries:
        name = _oci_name(entry, reference, alone=len(entries) == 1)
        image = _oci_image(reader, entry, (name,), _INDEX_DEPTH_MAX)
        images[name] = image
    return list(images.values())


def _oci_name(descriptor: Any, reference: str, *, alone: bool) -> str:
    annotations = descriptor.get("annotations")
    annotations = annotations if isinstance(annotations, dict) else {}
    given = [annotations[key] for key in _NAMES if isinstance(annotations.get(key), str)]
    whole = [name for name in given if ":" in name or "/" in name]
    if whole:
        return _normalised(whole[0])
    tag = next((name for name in given if references.is_tag(name)), "")
    if not reference or not alone:
        called = f'calls its image only "{tag}", which is a tag' if tag else "names no image"
        raise WarrenError("invalid", f"the archive {called}; say what to call it, as in web:1.0")
    name = _normalised(reference)
    explicit = ":" in reference.rpartition("/")[2]
    return name if explicit or not tag else f"{name.rpartition(':')[0]}:{tag}"


def _normalised(name: str) -> str:
    if "@" in name:
        raise WarrenError("invalid", f'"{name[:80]}" has a digest; call it by a tag, as in web:1.0')
    try:
        return references.normalise(name)
    except ValueError as error:
        raise WarrenError("invalid", str(error)) from error


def _oci_image(reader: _Reader, descriptor: Any, names: tuple[str, ...], depth: int) -> Image:
    if text(descriptor, "mediaType") not in _INDEXES:
        return _oci_manifest(reader, descriptor, names)
    if depth == 0:
        raise invalid("the archive's indexes are nested too deeply")
    document = reader.json(blob_path(text(descriptor, "digest")))
    for entry in objects(document, "manifests"):
        if could_run(entry, reader.architecture):
            image = _oci_image(reader, entry, names, depth - 1)
            held = {"containerd.io/gc.ref.content.m.0": image.target.digest}
            index = reader.blob(descriptor, held)
            return msgspec.structs.replace(image, target=index, blobs=(*image.blobs, index))
    raise invalid(f"the archive has no image for linux/{reader.architecture}")


def _oci_manifest(reader: _Reader, descriptor: Any, names: tuple[str, ...]) -> Image:
    manifest_blob = reader.blob(descriptor)
    manifest = reader.json(blob_path(manifest_blob.digest))
    config_blob = reader.blob(manifest.get("config") or {})
    config = reader.json(blob_path(config_blob.digest))
    reader.check_config(config)
    layers = [reader.blob(layer) for layer in objects(manifest, "layers")]
    return reader.image(names, manifest_blob, config_blob, layers, diff_ids(config))


def _docker(reader: _Reader, reference: str) -> list[Image]:
    document = parse(reader.members.document("manifest.json"), "manifest.json")
    if not isinstance(document, list):
        raise invalid("manifest.json in the archive is not a list")
    images = []
    for entry in document:
        if not isinstance(entry, dict):
            raise invalid("manifest.json in the archive does not hold objects")
        tags = entry.get("RepoTags") or []
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            raise invalid('"RepoTags" in the archive is not a list of names')
        names = tuple(map(_normalised, tags))
        if not names:
            if not reference or len(document) > 1:
                raise WarrenError(
                    "invalid", "the archive names no image; say what to call it, as in web:1.0"
                )
            names = (_normalised(reference),)
        images.append(_docker_image(reader, entry, names))
    return images


def _docker_image(reader: _Reader, entry: Any, names: tuple[str, ...]) -> Image:
    config_name = text(entry, "Config")
    raw = reader.members.document(config_name)
    config = parse_object(raw, config_name)
    reader.check_config(config)
    config_blob = Blob(media_type=_CONFIG, digest=sha256(raw), size_bytes=len(raw), data=raw)
    stated = posixpath.basename(config_name).removesuffix(".json")
    if len(stated) == 64 and config_blob.digest != f"sha256:{stated}":
        raise invalid(f'"{config_name}" in the archive is damaged: it has another digest')
    names_of_layers = entry.get("Layers")
    if not isinstance(names_of_layers, list):
        raise invalid("manifest.json in the archive lists no layers")
    layers = [_docker_layer(reader, str(name)) for name in names_of_layers]
    diffs = diff_ids(config)
    for layer, diff in zip(layers, diffs, strict=False):
        if layer.media_type == _LAYER and layer.digest != diff:
            raise invalid(f"the layer {diff} in the archive is damaged: it has another digest")
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(config_blob),
        "layers": [_descriptor(layer) for layer in layers],
    }
    made = json.dumps(manifest, separators=(",", ":")).encode()
    manifest_blob = Blob(media_type=_MANIFEST, digest=sha256(made), size_bytes=len(made), data=made)
    return reader.image(names, manifest_blob, config_blob, layers, diffs)


def _docker_layer(reader: _Reader, name: str) -> Blob:
    offset, size = reader.members.locate(name)
    gzipped = reader.members.starts_with(name, b"\x1f\x8b")
    return Blob(
        media_type=f"{_LAYER}.gzip" if gzipped else _LAYER,
        digest=reader.members.digest(name),
        size_bytes=size,
        offset=offset,
    )


def _descriptor(blob: Blob) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "size": blob.size_bytes, "digest": blob.digest}


def blob_path(digest: str) -> str:
    """Where an OCI layout keeps the blob. Refuses a digest that is not a plain SHA-256."""
    algorithm, _, encoded = digest.partition(":")
    if algorithm != "sha256" or len(encoded) != 64 or not set(encoded) <= set("0123456789abcdef"):
        raise invalid(f'the archive has a malformed digest, "{digest[:100]}"')
    return f"blobs/sha256/{encoded}"


def parse(raw: bytes, name: str) -> Any:
    """The JSON object or list in ``raw``."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise invalid(f'"{name[:100]}" in the archive is not JSON ({error})') from error
    if not isinstance(document, dict | list):
        raise invalid(f'"{name[:100]}" in the archive is no JSON object')
    return document


def parse_object(raw: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``raw``."""
    document = parse(raw, name)
    if not isinstance(document, dict):
        raise invalid(f'"{name[:100]}" in the archive is no JSON object')
    return document


def text(document: Any, key: str) -> str:
    """A string of a JSON object that must have it."""
    value = document.get(key) if isinstance(document, dict) else None
    # JSON can write half a character, which nothing else can.
    if not isinstance(value, str) or any("\ud800" <= each <= "\udfff" for each in value):
        raise invalid(f'the archive lacks "{key}" where it must stand')
    return value


def size_bytes(descriptor: dict[str, Any]) -> int:
    """The size in a descriptor; 0 if it is not there."""
    value = descriptor.get("size", 0)
    if not isinstance(value, int) or not 0 <= value <= _SIZE_BYTES_MAX:
        raise invalid(f'"size" must be a number of bytes, and is "{str(value)[:100]}"')
    return value


def could_run(descriptor: dict[str, Any], architecture: str) -> bool:
    """Whether an index's entry is for linux/``architecture``, or says nothing of that."""
    platform = descriptor.get("platform") or {}
    if not isinstance(platform, dict):
        raise invalid('"platform" in the archive is no JSON object')
    made_for = (platform.get("os"), platform.get("architecture"))
    return not platform or made_for == ("linux", architecture)


def process_config(config: dict[str, Any]) -> ImageConfig:
    """What an image's configuration says of its process. null says nothing, as in Go."""
    inner = config.get("config") or {}
    try:
        if isinstance(inner, dict):
            inner = {key: value for key, value in inner.items() if value is not None}
        return msgspec.convert(inner, ImageConfig, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(f"the image's configuration cannot be read ({error})") from error


def objects(document: Any, key: str) -> list[dict[str, Any]]:
    """A list of objects in a JSON object; empty if it is not there."""
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value or [], list) or not all(isinstance(v, dict) for v in value or []):
        raise invalid(f'"{key}" in the archive is not a list of objects')
    return list(value or [])


def diff_ids(config: Any) -> list[str]:
    """The digests of an image's uncompressed layers, from its configuration."""
    rootfs = config.get("rootfs") if isinstance(config, dict) else None
    ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(ids, list):
        raise invalid("the image's configuration does not list its layers")
    for diff in ids:
        blob_path(str(diff))
    return [str(diff) for diff in ids]
