"""Reading archives that are broken in every way: a sentence, never a traceback."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import oci
from warren.agent.runtime.containerd import archive
from warren.agent.runtime.containerd.spool import Spool
from warren.errors import WarrenError

ARCHITECTURE = oci.architecture()
LAYER = oci.layer({"etc/passwd": b"root:x:0:0::/:/bin/sh\n"})


def small(reference: str = "web:1", layers: int = 2) -> bytes:
    layout = oci.Layout()
    made = [oci.layer({f"file{index}": b"x" * index}) for index in range(layers)]
    layout.add(layout.manifest(made), reference)
    return layout.tar()


def read(data: bytes, reference: str = "") -> list[archive.Image]:
    return archive.read(io.BytesIO(data), ARCHITECTURE, reference, "overlayfs")


def read_or_nothing(data: bytes) -> list[archive.Image]:
    """The images; none if the archive is refused. Any other exception is a fault."""
    try:
        images = read(data)
    except WarrenError:
        return []
    assert images
    return images


def test_what_refers_to_something_is_written_after_it_and_holds_it() -> None:
    (image,) = read(small())
    seen: set[str] = set()
    for blob in image.blobs:
        held = {
            value
            for key, value in blob.labels.items()
            if key.startswith("containerd.io/gc.ref.content")
        }
        assert held <= seen
        seen.add(blob.digest)
    assert image.blobs[-1].digest == image.target.digest
    config = image.blobs[-2]
    snapshot = config.labels["containerd.io/gc.ref.snapshot.overlayfs"]
    assert snapshot == image.layers[-1].chain_id


def test_chain_ids() -> None:
    """OCI image-spec, config.md: ChainID(L0|L1) = Digest(ChainID(L0) + " " + DiffID(L1))."""
    a, b, c = (f"sha256:{letter * 64}" for letter in "abc")
    first = archive.sha256(f"{a} {b}".encode())
    assert archive.chain_ids([a, b, c]) == [a, first, archive.sha256(f"{first} {c}".encode())]


def test_the_ranges_are_the_blobs() -> None:
    data = small()
    (image,) = read(data)
    for blob in image.blobs:
        content = data[blob.offset : blob.offset + blob.size_bytes]
        assert archive.sha256(content) == blob.digest


def test_docker_s_manifest_is_made_the_same_each_time() -> None:
    data = oci.docker_archive("web:1", [LAYER], {"Cmd": ["sh"]})
    (first,), (second,) = read(data), read(data)
    assert first == second
    assert first.target.data is not None
    assert archive.sha256(first.target.data) == first.target.digest


@pytest.mark.parametrize("depth", [1, 4, 6])
def test_indexes_within_indexes(depth: int) -> None:
    layout = oci.Layout()
    entry = layout.manifest([LAYER])
    for _ in range(depth):
        index = {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": [entry]}
        entry = layout.blob(oci.INDEX, oci.encoded(index))
    layout.add(entry, "web:1")
    if depth <= 4:
        (image,) = read(layout.tar())
        assert image.target.digest == entry["digest"]
    else:
        with pytest.raises(WarrenError, match="nested too deeply"):
            read(layout.tar())


def test_several_images_in_one_archive() -> None:
    layout = oci.Layout()
    for name in ("one:1", "two:2"):
        layout.add(layout.manifest([LAYER], {"Cmd": [name]}), name)
    names = [image.names for image in read(layout.tar())]
    assert names == [("docker.io/library/one:1",), ("docker.io/library/two:2",)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(small()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_does_not_matter(position: int, flip: int) -> None:
    good = small()
    damaged = bytearray(good)
    damaged[position] ^= flip
    # Padding, times, the name in the index do not matter: the content is what it was.
    for image in read_or_nothing(bytes(damaged)):
        for blob in image.blobs:
            content = bytes(damaged[blob.offset : blob.offset + blob.size_bytes])
            assert archive.sha256(content) == blob.digest


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(small()) - 10_240))
def test_a_cut_archive_is_refused(length: int) -> None:
    with pytest.raises(WarrenError):
        read(small()[:length])


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["manifests", "digest", "mediaType", "size", "annotations", "platform", "config"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(JSON, st.sampled_from(["index.json", "manifest.json"]))
def test_any_json_is_answered(document: Any, name: str) -> None:
    with pytest.raises(WarrenError):
        read(oci.tar_of({name: oci.encoded(document)}), "web:1")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    parts=st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=4),
    piece_bytes=st.integers(1, 700),
    zipped=st.booleans(),
    padding=st.integers(0, 2000),
)
async def test_the_spool_gives_back_what_was_sent(
    tmp_path: Path, parts: list[bytes], piece_bytes: int, zipped: bool, padding: int
) -> None:
    content = b"T" + b"".join(parts)
    sent = content
    if zipped:
        # Several gzip members, one after the other, and zeros at the end, are one file.
        sent = b"".join(gzip.compress(part) for part in (b"T", *parts)) + bytes(padding)
    async with Spool(tmp_path) as spool:
        for start in range(0, len(sent), piece_bytes):
            await spool.write(sent[start : start + piece_bytes])
        await spool.finish()
        assert spool.file.read() == content
        assert spool.received_bytes == len(sent)
    assert os.listdir(tmp_path) == []


async def test_a_bomb_is_refused_before_the_disk_is_full(tmp_path: Path) -> None:
    compressor = zlib.compressobj(wbits=31)
    bomb = compressor.compress(bytes(50 << 20)) + compressor.flush()
    async with Spool(tmp_path, bytes_max=1 << 20) as spool:
        with pytest.raises(WarrenError) as refusal:
            await spool.write(bomb)
        assert refusal.value.code == "too_large"


async def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WarrenError) as refusal:
        async with Spool(tmp_path / "file" / "spool"):
            pass
    assert refusal.value.code == "data_dir"
