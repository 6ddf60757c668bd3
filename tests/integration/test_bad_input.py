"""What a person can type wrong: each is a sentence that says what to do, and nothing is left.

One daemon has to take all of it: after each case it is the same process, and has no service.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from tests.support.containerd import Containerd, tiny_archive
from tests.support.node import BIN, FOREVER, WarrenNode, eventually
from warren import rpc
from warren.pb.v1 import api_pb2, node_pb2

IMAGE = "docker.io/library/tiny:1"


@pytest.fixture(scope="module")
def daemon(containerd: Containerd, tiny_image: Path) -> Iterator[WarrenNode]:
    node = WarrenNode(containerd.address, containerd.new_namespace())
    try:
        node.up()
        node.ctl("image", "load", "-i", str(tiny_image))
        yield node
        node.close()
    finally:
        node.discard()
    containerd.assert_nothing_left(node.namespace)


@pytest.fixture
def node(daemon: WarrenNode) -> Iterator[WarrenNode]:
    images = loaded(daemon)
    yield daemon
    assert daemon.alive()
    with daemon.api() as api:
        assert not api.ListServices(api_pb2.ListServicesRequest(), timeout=10).services
    assert loaded(daemon) == images
    assert not spools(daemon)
    assert "Traceback" not in daemon.log()


def loaded(node: WarrenNode) -> list[str]:
    with node.api(rpc.NODE_LOCAL) as api:
        answer = api.ListImages(node_pb2.ListImagesRequest(), timeout=10)
    return [image.reference for image in answer.images]


@pytest.mark.parametrize("name", ["Web", "we_b", "-web", "web-", "w" * 64, "", "a.b", "wéb"])
def test_a_name_that_is_no_dns_label(node: WarrenNode, name: str) -> None:
    code, why = node.refused("service", "create", f"--image={IMAGE}", "--replicas=1", "--", name)
    assert code == 2
    assert "name" in why.lower()


@pytest.mark.parametrize(
    "image", ["UPPER/case", "a b", "x@sha256:12", "tiny:bad tag", ":1", "a//b"]
)
def test_a_malformed_image(node: WarrenNode, image: str) -> None:
    code, why = node.refused("service", "create", "web", f"--image={image}")
    assert code == 2
    assert image in why


def test_an_image_that_no_node_has_names_the_command_that_loads_it(node: WarrenNode) -> None:
    code, why = node.refused("service", "create", "web", "--image=nowhere:9")
    assert code == 1
    assert "warrenctl image load" in why
    assert "nowhere:9" in why


@pytest.mark.parametrize("replicas", ["-1", "many", "1.5", "4294967296"])
def test_replicas_that_are_no_count(node: WarrenNode, replicas: str) -> None:
    code, why = node.refused(
        "service", "create", "web", f"--image={IMAGE}", f"--replicas={replicas}"
    )
    assert code == 2
    assert replicas in why


def test_more_memory_than_any_node_has_stays_pending_and_says_why(node: WarrenNode) -> None:
    node.ctl("service", "create", "huge", f"--image={IMAGE}", "--memory=1000g", "--detach")
    (slot,) = eventually(lambda: node.json("service", "ps", "huge"), "the slot is listed")
    assert slot["state"] == "pending"
    assert "memory" in eventually(
        lambda: node.json("service", "ps", "huge")[0]["reason"], "the slot has a reason"
    )
    assert "1000 GiB" in node.ctl("service", "ps", "huge").replace("1000.0", "1000")
    node.ctl("service", "rm", "huge")


def test_room_that_appears_is_used(node: WarrenNode) -> None:
    node.ctl("service", "create", "big", f"--image={IMAGE}", "--memory=1000g", "--detach")
    node.ctl("service", "update", "big", "--memory=32m", *FOREVER)
    assert [slot["state"] for slot in node.json("service", "ps", "big")] == ["running"]
    node.ctl("service", "rm", "big")


def test_a_duplicate_name(node: WarrenNode) -> None:
    node.ctl("service", "create", "web", f"--image={IMAGE}", *FOREVER)
    code, why = node.refused("service", "create", "web", f"--image={IMAGE}")
    assert code == 5
    assert "web" in why
    node.ctl("service", "rm", "web")


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "nobody"),
        ("ps", "nobody"),
        ("rm", "nobody"),
        ("scale", "nobody=2"),
        ("update", "nobody", "--replicas=2"),
        ("logs", "nobody"),
    ],
)
def test_an_unknown_service(node: WarrenNode, words: tuple[str, ...]) -> None:
    code, why = node.refused("service", *words)
    assert code == 4
    assert "nobody" in why


def test_no_daemon_is_exit_code_3(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BIN / "warrenctl"), f"--host=unix://{tmp_path}/none.sock", "node", "ls"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 3
    assert "none.sock" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_request_cut_in_the_middle_harms_nobody(node: WarrenNode) -> None:
    for piece in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PRI * HT", b"\x00" * 64, os.urandom(512)):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(node.socket))
            client.sendall(piece)
    assert node.json("cluster", "info")["id"]


def spools(node: WarrenNode) -> list[str]:
    """Archives that the daemon is receiving: files of its data directory without a name."""
    links = []
    for descriptor in Path(f"/proc/{node.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            links.append(os.readlink(descriptor))
    return [link for link in links if link.startswith(str(node.data_dir)) and "(deleted)" in link]


def test_an_image_load_cut_in_the_middle_leaves_nothing(node: WarrenNode, tiny_image: Path) -> None:
    reader, writer = os.pipe()
    load = subprocess.Popen(
        [str(BIN / "warrenctl"), f"--host=unix://{node.socket}", "image", "load", "-i", "-"],
        stdin=reader,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(reader)
    os.write(writer, tiny_image.read_bytes()[:40_000])
    eventually(lambda: spools(node), "the daemon receives the archive")
    load.kill()
    load.wait(10)
    os.close(writer)
    eventually(lambda: not spools(node), "the half archive is gone")


@pytest.mark.parametrize("size_mib", [5, 100])
def test_an_oversized_message_is_refused_with_the_limit(node: WarrenNode, size_mib: int) -> None:
    request = api_pb2.CreateServiceRequest()
    request.spec.name = "web"
    request.spec.container.env.append("A=" + "x" * (size_mib << 20))
    with node.api() as api, pytest.raises(grpc.RpcError) as refusal:
        api.CreateService(request, timeout=60)
    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "limit of 4,194,304 bytes" in rpc.failure(refusal.value).message


def test_an_oversized_command_is_refused_with_the_limit(node: WarrenNode, tmp_path: Path) -> None:
    variables = tmp_path / "env"
    variables.write_text("".join(f"V{number}={'x' * 60_000}\n" for number in range(90)))
    code, why = node.refused(
        "service", "create", "web", f"--image={IMAGE}", f"--env-file={variables}"
    )
    assert code == 2
    assert "limit of 4,194,304 bytes" in why


def test_an_archive_of_100_mb_passes(node: WarrenNode, tmp_path: Path) -> None:
    archive = tiny_archive(
        tmp_path / "big.tar", "docker.io/library/big:1", ballast_bytes=100_000_000
    )
    assert archive.stat().st_size > 100_000_000
    node.ctl("image", "load", "-i", str(archive))
    assert "docker.io/library/big:1" in [image["reference"] for image in node.json("image", "ls")]
    node.ctl("image", "rm", "big:1")


def _truncated(good: bytes) -> bytes:
    return good[: len(good) // 2]


def _flipped(good: bytes) -> bytes:
    middle = len(good) // 2
    return good[:middle] + bytes([good[middle] ^ 0x40]) + good[middle + 1 :]


def _no_tar(good: bytes) -> bytes:
    return b"this is no archive\n" * 100


def _escaping(good: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("../../etc/warren-was-here")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"boo\n"))
    return out.getvalue()


def _empty(good: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("broken", [_truncated, _flipped, _no_tar, _escaping, _empty])
def test_a_broken_archive(
    node: WarrenNode, tiny_image: Path, tmp_path: Path, broken: Callable[[bytes], bytes]
) -> None:
    archive = tmp_path / "broken.tar"
    archive.write_bytes(broken(tiny_image.read_bytes()))
    code, why = node.refused("image", "load", "-i", str(archive))
    assert code in (1, 2)
    assert len(why.strip()) > 20
    assert not Path("/etc/warren-was-here").exists()


def test_a_missing_archive_is_a_sentence(node: WarrenNode) -> None:
    code, why = node.refused("image", "load", "-i", "/nowhere/at-all.tar")
    assert code in (1, 2)
    assert "/nowhere/at-all.tar" in why
