"""Loading, listing and removing images, against the real containerd."""

# ruff: noqa: ASYNC221, ASYNC240 - small files, and nobody else is on the loop
from __future__ import annotations

import asyncio
import gzip
import json
import resource
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import oci
from tests.support.containerd import Containerd, tiny_archive
from warren.agent.runtime.base import RuntimeUnavailable
from warren.agent.runtime.containerd import api
from warren.agent.runtime.containerd.client import Client
from warren.agent.runtime.containerd.images import Images
from warren.errors import WarrenError
from warren.pb.containerd import images_pb2, leases_pb2
from warren.pb.v1 import node_pb2

NODE = "5e" * 16


class Store:
    """The images of one namespace."""

    def __init__(self, containerd: Containerd, spool: Path) -> None:
        self.containerd = containerd
        self.namespace = containerd.new_namespace()
        self.client = Client(containerd.address, self.namespace)
        self.changes = 0
        self.images = Images(self.client, NODE, spool, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def load(
        self, archive: bytes, reference: str = "", piece_bytes: int = 1 << 20
    ) -> list[node_pb2.LoadImageProgress]:
        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(archive), piece_bytes):
                yield archive[start : start + piece_bytes]

        return [progress async for progress in self.images.load(pieces(), reference)]

    async def names(self) -> list[str]:
        return [image.reference for image in await self.images.list()]

    def assert_empty(self) -> None:
        """No image, no content, no snapshot, no lease, no write under way."""
        self.containerd.assert_nothing_left(self.namespace)
        assert self.containerd.images(self.namespace) == []
        assert self.containerd.content(self.namespace) == set()
        assert self.containerd.snapshots(self.namespace) == set()


@pytest.fixture
async def store(containerd: Containerd, tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(containerd, tmp_path / "spool")
    yield made
    await made.client.close()


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("outer", [bytes, gzip.compress], ids=["tar", "tar.gz"])
async def test_an_oci_archive(store: Store, compress: bool, outer: type[bytes]) -> None:
    more = [oci.layer({"srv/page": b"hello\n"})]
    archive = oci.archive("web:1", {"Cmd": ["sh"]}, more, compress=compress)
    steps = await store.load(outer(archive), piece_bytes=100_000)
    order = list(dict.fromkeys(progress.step for progress in steps))
    assert order == ["receiving", "importing", "unpacking", "done"]
    assert [image.reference for image in steps[-1].images] == ["docker.io/library/web:1"]
    assert len(store.containerd.snapshots(store.namespace)) == 2
    store.containerd.assert_nothing_left(store.namespace)
    assert store.changes == 1
    assert await store.images.remove("web:1", force=False) == "docker.io/library/web:1"
    await asyncio.to_thread(store.assert_empty)


async def test_loading_twice_is_as_good_as_once(store: Store, tiny_image: Path) -> None:
    archive = tiny_image.read_bytes()
    first = (await store.load(archive))[-1].images[0]
    content = store.containerd.content(store.namespace)
    assert (await store.load(archive))[-1].images[0] == first
    assert store.containerd.content(store.namespace) == content
    assert first.digest in content
    assert len(archive) * 0.9 < first.size_bytes < len(archive)


async def test_a_name_moves_to_the_newer_image(store: Store) -> None:
    await store.load(oci.archive("web:1", {"Cmd": ["sh"]}))
    (old,) = await store.images.list()
    await store.load(oci.archive("web:1", {"Cmd": ["env"]}))
    new, kept = await store.images.list()
    assert (new.reference, kept.reference) == (
        "docker.io/library/web:1",
        f"docker.io/library/web@{old.digest}",
    )
    assert new.digest != old.digest == kept.digest
    assert await store.images.remove(kept.reference, force=False) == kept.reference


async def test_content_that_another_namespace_has(containerd: Containerd, tmp_path: Path) -> None:
    archive = oci.archive("web:1", None, [oci.layer({"big": bytes(3 << 20)})], compress=False)
    for _ in range(2):
        store = Store(containerd, tmp_path / "spool")
        await store.load(archive)
        assert await store.names() == ["docker.io/library/web:1"]
        await store.client.close()


async def test_docker_save_s_archive(store: Store) -> None:
    layers = [oci.busybox_layer(), oci.layer({"srv/page": b"hello\n"})]
    await store.load(oci.docker_archive("team/web:2", layers, {"Cmd": ["sh"]}))
    assert await store.names() == ["docker.io/team/web:2"]
    await store.images.remove("team/web:2", force=False)
    await asyncio.to_thread(store.assert_empty)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
async def test_what_skopeo_writes(
    store: Store, tiny_image: Path, tmp_path: Path, kind: str
) -> None:
    made = tmp_path / "made.tar"
    subprocess.run(
        [
            *("skopeo", "copy", "--insecure-policy", "--quiet"),
            *(f"oci-archive:{tiny_image}", f"{kind}:{made}:docker.io/team/copied:3"),
        ],
        check=True,
        timeout=60,
    )
    await store.load(made.read_bytes())
    assert await store.names() == ["docker.io/team/copied:3"]


async def test_an_index_with_other_platforms(store: Store) -> None:
    layout = oci.Layout()
    ours = layout.manifest([oci.busybox_layer()])
    index = {
        "schemaVersion": 2,
        "mediaType": oci.INDEX,
        "manifests": [
            {
                "mediaType": oci.MANIFEST,
                "digest": oci.digest(b"not in the archive"),
                "size": 18,
                "platform": {"os": "linux", "architecture": "s390x"},
            },
            {**ours, "platform": {"os": "linux", "architecture": oci.architecture()}},
        ],
    }
    described = layout.blob(oci.INDEX, oci.encoded(index))
    layout.add(described, "web:1")
    await store.load(layout.tar())
    (image,) = await store.images.list()
    assert image.digest == described["digest"]
    await store.images.remove("web:1", force=False)
    await asyncio.to_thread(store.assert_empty)


def plain(data: bytes) -> dict[str, bytes]:
    """The files of an archive."""
    import io
    import tarfile

    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            found[member.name] = file.read() if file else b""
    return found


def largest(files: dict[str, bytes]) -> str:
    return max(files, key=lambda name: len(files[name]))


def broken_archives() -> Iterator[tuple[str, bytes, str]]:
    """Each with its name and a word of the refusal."""
    good = oci.archive("web:1")
    files = plain(good)
    layer = largest(files)
    yield "empty", b"", "empty"
    yield "not a tar", b"hello, this is no archive\n" * 100, "not a tar"
    yield "cut in the middle", good[: len(good) // 2], "cut short"
    yield "cut in a header", good[:300], "not a tar"
    yield "cut gzip", gzip.compress(good)[:-5000], "cut short"
    yield "damaged gzip", gzip.compress(good)[:2000] + b"\xff" * 5000, "damaged"
    yield "zstd", b"\x28\xb5\x2f\xfd" + good, "zstd"
    damaged = bytearray(files[layer])
    damaged[len(damaged) // 2] ^= 1
    yield "damaged layer", oci.tar_of({**files, layer: bytes(damaged)}), "another digest"
    without = {name: data for name, data in files.items() if name != layer}
    yield "missing layer", oci.tar_of(without), "which it refers to"
    yield "no index", oci.tar_of({"oci-layout": b"{}", "x": b"y"}), "holds no image"
    yield "index is no JSON", oci.tar_of({**files, "index.json": b"{"}), "not JSON"
    yield "index is a number", oci.tar_of({**files, "index.json": b"3"}), "JSON object"
    yield "index of nothing", oci.tar_of({**files, "index.json": b"{}"}), "no image"
    yield "path trick", oci.tar_of({**files, "../../etc/passwd": b"x"}), "outside"
    yield "absolute path", oci.tar_of({**files, "/etc/passwd": b"x"}), "outside"
    index = json.loads(files["index.json"])
    index["manifests"][0]["digest"] = "sha256:../../../etc/passwd"
    yield "digest trick", oci.tar_of({**files, "index.json": oci.encoded(index)}), "malformed"
    lying = oci.Layout()
    lying.add(lying.manifest([oci.busybox_layer()], arch="s390x"), "web:1")
    yield "other platform", lying.tar(), "s390x"
    yield "wrong diff id", wrong_diff_id(), "damaged"
    yield "layer is no tar", oci.archive("web:1", None, [b"no tar at all" * 100]), "unpack"


def wrong_diff_id() -> bytes:
    layout = oci.Layout()
    config = {
        "architecture": oci.architecture(),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [oci.digest(b"another")]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": layout.blob(oci.CONFIG, oci.encoded(config)),
        "layers": [layout.blob(oci.PLAIN_LAYER, oci.busybox_layer())],
    }
    layout.add(layout.blob(oci.MANIFEST, oci.encoded(manifest)), "web:1")
    return layout.tar()


@pytest.mark.parametrize(
    ("archive", "words"),
    [pytest.param(data, words, id=name) for name, data, words in broken_archives()],
)
async def test_a_broken_archive_is_refused_and_leaves_nothing(
    store: Store, archive: bytes, words: str
) -> None:
    with pytest.raises(WarrenError) as refusal:
        await store.load(archive)
    assert refusal.value.code == "archive_invalid"
    assert words in refusal.value.message
    assert "nothing was loaded" in refusal.value.message
    await asyncio.to_thread(store.assert_empty)
    assert store.changes == 0


@pytest.mark.parametrize(
    ("inner", "given", "name"),
    [
        ("web:1", "", "docker.io/library/web:1"),
        ("web:1", "other:2", "docker.io/library/web:1"),
        ("registry.example.com/a/web:1", "", "registry.example.com/a/web:1"),
        ("", "web:2", "docker.io/library/web:2"),
        ("", "web", "docker.io/library/web:latest"),
        ("v3", "web", "docker.io/library/web:v3"),
        ("v3", "web:2", "docker.io/library/web:2"),
    ],
)
async def test_what_an_image_is_called(store: Store, inner: str, given: str, name: str) -> None:
    await store.load(oci.archive(inner), given)
    assert await store.names() == [name]


@pytest.mark.parametrize(
    ("inner", "given"), [("", ""), ("v3", ""), ("", "No Name"), ("", "web@sha256:" + "0" * 64)]
)
async def test_an_image_without_a_name_is_refused(store: Store, inner: str, given: str) -> None:
    with pytest.raises(WarrenError) as refusal:
        await store.load(oci.archive(inner), given)
    assert refusal.value.code == "invalid"
    await asyncio.to_thread(store.assert_empty)


async def test_100_mb_pass_in_bounded_memory(store: Store, tmp_path: Path) -> None:
    archive = tiny_archive(tmp_path / "big.tar", "big:1", ballast_bytes=100_000_000)
    assert archive.stat().st_size > 100_000_000

    async def pieces() -> AsyncIterator[bytes]:
        with archive.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece

    # Making the archive has raised the peak already: what counts is that loading adds nothing
    # like the size of the archive to what is in use now.
    before = resident_bytes()
    highest = before
    async for _ in store.images.load(pieces()):
        highest = max(highest, resident_bytes())
    assert highest - before < 40 << 20
    assert await store.names() == ["docker.io/library/big:1"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await store.images.remove("big:1", force=False)
    await asyncio.to_thread(store.assert_empty)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def test_a_cut_upload_leaves_nothing(store: Store, tiny_image: Path, tmp_path: Path) -> None:
    class Cut(Exception):  # noqa: N818
        pass

    async def pieces() -> AsyncIterator[bytes]:
        yield tiny_image.read_bytes()[:50_000]
        raise Cut

    with pytest.raises(Cut):
        async for _ in store.images.load(pieces()):
            pass
    assert list((tmp_path / "spool").iterdir()) == []
    await asyncio.to_thread(store.assert_empty)


async def test_a_cancelled_import_leaves_nothing(store: Store, tiny_image: Path) -> None:
    reached = asyncio.Event()
    unary = store.client.unary

    async def waiting(call: api.Call, request: object, **options: object) -> object:  # type: ignore[type-arg]
        if call is api.DIFF_APPLY:
            reached.set()
            await asyncio.Event().wait()
        return await unary(call, request, **options)  # type: ignore[arg-type]

    store.client.unary = waiting  # type: ignore[method-assign, assignment]
    loading = asyncio.create_task(store.load(tiny_image.read_bytes()))
    await asyncio.wait_for(reached.wait(), 20)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await asyncio.to_thread(store.assert_empty)


async def test_what_a_killed_daemon_left_is_swept(
    containerd: Containerd, tmp_path: Path, tiny_image: Path
) -> None:
    store = Store(containerd, tmp_path / "spool")
    unary = store.client.unary

    async def away(call: api.Call, request: object, **options: object) -> object:  # type: ignore[type-arg]
        if call in (api.DIFF_APPLY, api.SNAPSHOT_REMOVE, api.LEASE_DELETE):
            raise RuntimeUnavailable("killed")
        return await unary(call, request, **options)  # type: ignore[arg-type]

    store.client.unary = away  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeUnavailable):
        await store.load(tiny_image.read_bytes())
    assert containerd.content(store.namespace)
    del store.client.unary  # type: ignore[attr-defined]
    await store.images.sweep()
    await asyncio.to_thread(store.assert_empty)
    await store.client.close()


async def test_a_foreign_lease_is_not_swept(store: Store) -> None:
    await store.client.unary(api.LEASE_CREATE, leases_pb2.CreateRequest(id="not-ours"))
    await store.images.sweep()
    await store.client.unary(api.LEASE_DELETE, leases_pb2.DeleteRequest(id="not-ours"))


async def test_removing_what_is_not_there(store: Store) -> None:
    with pytest.raises(WarrenError) as refusal:
        await store.images.remove("nothing:1", force=False)
    assert refusal.value.code == "not_found"


async def test_an_image_that_cannot_run_here_is_not_listed(store: Store, tiny_image: Path) -> None:
    await store.load(tiny_image.read_bytes())
    listed = await store.client.unary(api.IMAGE_LIST, images_pb2.ListImagesRequest())
    (image,) = listed.images
    image.name = "docker.io/library/half:1"
    image.target.digest = oci.digest(b"not here")
    create = images_pb2.CreateImageRequest(image=image)
    await store.client.unary(api.IMAGE_CREATE, create)
    assert await store.names() == ["docker.io/library/tiny:1"]
