"""What a person can type wrong: each is a sentence that says what to do, and nothing is left."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import grpc
import pytest

from tests.support.containerd import tiny_archive
from tests.support.node import BIN, WarrenNode, eventually
from warren.pb.v1 import api_pb2

IMAGE = "docker.io/library/tiny:1"


@pytest.mark.parametrize("name", ["Web", "we_b", "-web", "web-", "w" * 64, "", "a.b", "wéb"])
def test_a_name_that_is_no_dns_label(node: WarrenNode, name: str) -> None:
    code, why = node.refused("service", "create", "--image=tiny:1", "--", name)
    code, why = node.refused("service", "create", f"--image={IMAGE}", "--replicas=1", name)
    assert code == 2
    assert "name" in why.lower()


@pytest.mark.parametrize("image", ["UPPER/case", "a b", "x@sha256:12", "tiny:bad tag", ":1", "a//b"])
def test_a_malformed_image(node: WarrenNode, image: str) -> None:
    code, why = node.refused("service", "create", "web", f"--image={image}")
    assert code == 2
    assert image in why


def test_an_image_that_no_node_has_names_the_command_that_loads_it(node: WarrenNode) -> None:
    code, why = node.refused("service", "create", "web", "--image=nowhere:9")
    assert code == 1
    assert "warrenctl image load" in why
    assert "nowhere:9" in why
    assert node.json("service", "ls") == []


@pytest.mark.parametrize("replicas", ["-1", "many", "1.5", "4294967296"])
def test_replicas_that_are_no_count(node: WarrenNode, replicas: str) -> None:
    code, why = node.refused("service", "create", "web", f"--image={IMAGE}", f"--replicas={replicas}")
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
    node.ctl("service", "update", "big", "--memory=32m", "--", "sleep", "100000")
    assert [slot["state"] for slot in node.json("service", "ps", "big")] == ["running"]
    node.ctl("service", "rm", "big")


def test_a_duplicate_name(node: WarrenNode) -> None:
    node.ctl("service", "create", "web", f"--image={IMAGE}", "--", "sleep", "100000")
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
    links = [os.readlink(fd) for fd in Path(f"/proc/{node.pid}/fd").iterdir() if fd.is_symlink()]
    return [link for link in links if link.startswith(str(node.data_dir)) and "(deleted)" in link]


def test_an_image_load_cut_in_the_middle_leaves_nothing(
    node: WarrenNode, tiny_image: Path
) -> None:
    before = node.json("image", "ls")
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
    assert node.json("image", "ls") == before


def test_an_oversized_message_is_refused_with_the_limit(node: WarrenNode) -> None:
    request = api_pb2.CreateServiceRequest()
    request.spec.name = "web"
    request.spec.container.env.append("A=" + "x" * (100 << 20))
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"unix:{node.socket}", options=options) as channel:
        call = channel.unary_unary(
            "/warren.v1.Manager/CreateService",
            request_serializer=api_pb2.CreateServiceRequest.SerializeToString,
        )
        with pytest.raises(grpc.RpcError) as refusal:
            call(request, timeout=60)
    assert refusal.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4194304" in refusal.value.details() or "4 MiB" in refusal.value.details()
    assert node.json("service", "ls") == []


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


@pytest.mark.parametrize("broken", [_truncated, _flipped, _no_tar, _escaping, lambda good: b""])
def test_a_broken_archive(node: WarrenNode, tiny_image: Path, tmp_path: Path, broken: object) -> None:
    before = node.json("image", "ls")
    archive = tmp_path / "broken.tar"
    archive.write_bytes(broken(tiny_image.read_bytes()))  # type: ignore[operator]
    code, why = node.refused("image", "load", "-i", str(archive))
    assert code in (1, 2)
    assert len(why.strip()) > 20
    assert node.json("image", "ls") == before
    assert not spools(node)
    assert not Path("/etc/warren-was-here").exists()


def test_a_missing_archive_is_a_sentence(node: WarrenNode) -> None:
    code, why = node.refused("image", "load", "-i", "/nowhere/at-all.tar")
    assert code in (1, 2)
    assert "/nowhere/at-all.tar" in why
