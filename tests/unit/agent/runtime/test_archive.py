"""Reading archives that are broken in every way: a sentence, never a traceback."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
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


def configured(document: Any) -> bytes:
    """An OCI archive whose image has this configuration."""
    layout = oci.Layout()
    layer = layout.blob(oci.PLAIN_LAYER, LAYER)
    config = layout.blob(oci.CONFIG, oci.encoded(document))
    manifest = {"mediaType": oci.MANIFEST, "config": config, "layers": [layer]}
    layout.add(layout.blob(oci.MANIFEST, oci.encoded(manifest)), "web:1")
    return layout.tar()


def good_config(config: Any) -> dict[str, Any]:
    rootfs = {"type": "layers", "diff_ids": [oci.digest(LAYER)]}
    return {"architecture": ARCHITECTURE, "os": "linux", "config": config, "rootfs": rootfs}


@pytest.mark.parametrize(
    "config",
    [{"User": 5}, {"Cmd": "sh -c x"}, {"Env": {"A": "1"}}, {"Entrypoint": [1]}, ["sh"], "sh", 7],
    ids=str,
)
def test_an_odd_inner_config_is_refused(config: Any) -> None:
    assert read(configured(good_config({"Cmd": ["sh"]})))
    for data in (
        configured(good_config(config)),
        oci.docker_archive("web:1", [LAYER], config) if isinstance(config, dict) else None,
    ):
        if data is not None:
            with pytest.raises(WarrenError) as refusal:
                read(data)
            assert refusal.value.code == "archive_invalid"


@pytest.mark.parametrize("config", [{"User": None, "Cmd": None, "Env": None}, {}, None], ids=str)
def test_null_in_the_inner_config_says_nothing(config: Any) -> None:
    assert read(configured(good_config(config)))


def with_blob(document: Any) -> bytes:
    """An OCI archive whose manifest is that document."""
    layout = oci.Layout()
    layout.add(layout.blob(oci.MANIFEST, oci.encoded(document)), "web:1")
    return layout.tar()


def with_entry(**changes: Any) -> bytes:
    """An OCI archive whose index has a good entry, but for the changes."""
    layout = oci.Layout()
    layout.add({**layout.manifest([LAYER]), **changes}, "web:1")
    return layout.tar()


def docker(tags: Any, config: Any = None) -> bytes:
    files = {
        "c.json": oci.encoded(good_config({}) if config is None else config),
        "l.tar": LAYER,
        "manifest.json": oci.encoded([{"Config": "c.json", "RepoTags": tags, "Layers": ["l.tar"]}]),
    }
    return oci.tar_of(files)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_blob([1]), id="a manifest that is a list"),
        pytest.param(with_blob({"config": [1]}), id="a descriptor that is a list"),
        pytest.param(configured([1]), id="a config that is a list"),
        pytest.param(with_entry(mediaType=[1]), id="a media type that is a list"),
        pytest.param(with_entry(mediaType="\ud800"), id="a media type that is no text"),
        pytest.param(with_entry(platform="linux"), id="a platform that is a string"),
        pytest.param(docker(5), id="tags that are a number"),
        pytest.param(docker("web:1"), id="tags that are a string"),
        pytest.param(docker([["web:1"]]), id="a tag that is a list"),
        pytest.param(docker(["web:1"], [1]), id="docker's config that is a list"),
    ],
)
def test_what_has_the_wrong_type_is_refused(data: bytes) -> None:
    with pytest.raises(WarrenError) as refusal:
        read(data)
    assert refusal.value.code == "archive_invalid"


def test_the_tags_may_be_missing() -> None:
    assert read(docker(["web:1"]))
    for none in (None, []):
        (image,) = read(docker(none), "web:2")
        assert image.names == ("docker.io/library/web:2",)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_further_in_is_answered(document: Any) -> None:
    assert not read_or_nothing(with_blob(document))
    assert not read_or_nothing(configured(document))
    read_or_nothing(configured(good_config(document)))
    read_or_nothing(docker(document))
    assert not read_or_nothing(docker(["web:1"], document or [1]))


def test_a_name_that_is_no_text_is_told_as_text() -> None:
    with pytest.raises(WarrenError, match="outside of itself") as refusal:
        read(oci.tar_of({"/\udcff": b"x"}))
    refusal.value.message.encode()


def header(kind: bytes, data: bytes) -> bytes:
    """An extended header of a tar, whose kind tarfile writes by itself only."""
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def record(key: str, value: str) -> bytes:
    """A record of a pax header, of up to 9,999 bytes."""
    line = f" {key}={value}\n".encode()
    digits = next(n for n in range(1, 5) if len(str(len(line) + n)) == n)
    return str(len(line) + digits).encode() + line


def peak_bytes(data: bytes) -> int:
    """What reading the archive takes of memory beside the archive, whatever becomes of it."""
    file = io.BytesIO(data)
    tracemalloc.start()
    try:
        archive.read(file, ARCHITECTURE, "", "overlayfs")
    except WarrenError as error:
        assert error.code == "archive_invalid"  # noqa: PT017 - both ways are fine
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes(40 << 20), id="large"),
        # Each "2 " is a record whose key goes on until the "=": 32,000 keys of 32 kB.
        pytest.param(b"2 " * 32_000 + b"=\n", id="of records within records"),
        pytest.param(b"1" * 8_000, id="of digits"),
    ],
)
def test_headers_that_grow_when_they_are_read_are_refused(kind: bytes, data: bytes) -> None:
    large = header(kind, data) + small()
    with pytest.raises(WarrenError, match="headers") as refusal:
        read(large)
    assert refusal.value.code == "archive_invalid"
    assert peak_bytes(large) < 4 << 20


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_of_headers_are_refused(kind: bytes) -> None:
    with pytest.raises(WarrenError) as refusal:
        read(header(kind, b"") * 2_000 + small())
    assert refusal.value.code == "archive_invalid"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_are_not_kept(kind: bytes) -> None:
    member = oci.tar_of({"other": b""})[: tarfile.BLOCKSIZE]
    headers = [header(kind, record(f"comment.{n}", "x" * 8_000)) + member for n in range(1_000)]
    data = b"".join(headers) + small()
    assert read(data)
    assert peak_bytes(data) < 3 << 20


def test_names_as_long_as_they_may_be_are_read() -> None:
    name = "/".join(["d" * 200] * 20)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, name
            tar.addfile(link)
            end = tar.offset
        assert read(buffer.getvalue()[:end] + small())


@pytest.mark.parametrize("size", ["-5", "-512", "-100000"])
def test_a_size_below_zero_is_refused(size: str) -> None:
    member = oci.tar_of({"oci-layout": b"{}"})[: 2 * tarfile.BLOCKSIZE]
    with pytest.raises(WarrenError) as refusal:
        read(header(tarfile.XHDTYPE, record("size", size)) + member + small())
    assert refusal.value.code == "archive_invalid"
