"""Reading one file from layers, without a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from warren.agent.runtime.containerd import rootfs
from warren.pb.containerd import types_pb2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An upper and a lower layer."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for layer in (upper, lower):
        (layer / "etc").mkdir(parents=True)
    (lower / "etc/passwd").write_text("lower")
    return upper, lower


def read(pair: tuple[Path, Path], path: str = "etc/passwd") -> str:
    return rootfs.read([str(layer) for layer in pair], path).decode()


def test_the_uppermost_layer_wins(pair: tuple[Path, Path]) -> None:
    assert read(pair) == "lower"
    (pair[0] / "etc/passwd").write_text("upper")
    assert read(pair) == "upper"


@needs_root
def test_a_whiteout_hides_a_file(pair: tuple[Path, Path]) -> None:
    os.mknod(pair[0] / "etc/passwd", 0o600 | 0o020000, os.makedev(0, 0))
    assert read(pair) == ""


@needs_root
def test_a_whiteout_hides_a_directory(pair: tuple[Path, Path]) -> None:
    (pair[0] / "etc").rmdir()
    os.mknod(pair[0] / "etc", 0o600 | 0o020000, os.makedev(0, 0))
    assert read(pair) == ""


@needs_root
def test_an_opaque_directory_hides_what_is_below(pair: tuple[Path, Path]) -> None:
    try:
        os.setxattr(pair[0] / "etc", "trusted.overlay.opaque", b"y")
    except OSError as error:
        pytest.skip(f"this file system has no trusted attributes: {error}")
    assert read(pair) == ""


def test_a_file_in_a_directory_s_place_hides_it(pair: tuple[Path, Path]) -> None:
    (pair[0] / "etc").rmdir()
    (pair[0] / "etc").write_text("no directory")
    assert read(pair) == ""


@pytest.mark.parametrize(
    "target", ["../usr/passwd", "/usr/passwd", "/usr/../usr/./passwd", "../../../../usr/passwd"]
)
def test_links_stay_within_and_may_cross_layers(pair: tuple[Path, Path], target: str) -> None:
    (pair[0] / "etc/passwd").symlink_to(target)
    (pair[1] / "usr").mkdir()
    (pair[1] / "usr/passwd").write_text("linked")
    assert read(pair) == "linked"


def test_a_link_to_the_host_s_file_is_not_followed_there(pair: tuple[Path, Path]) -> None:
    outside = pair[0].parent / "secret"
    outside.write_text("secret")
    (pair[0] / "etc/passwd").symlink_to(outside)
    assert read(pair) == ""
    (pair[0] / "etc/passwd").unlink()
    (pair[0] / "etc").rmdir()
    (pair[0] / "etc").symlink_to(pair[0].parent)
    assert read(pair, "etc/secret") == ""


def test_links_in_a_circle_end(pair: tuple[Path, Path]) -> None:
    (pair[0] / "etc/passwd").symlink_to("shadow")
    (pair[0] / "etc/shadow").symlink_to("passwd")
    assert read(pair) == ""


def test_what_is_no_file_is_empty(pair: tuple[Path, Path]) -> None:
    (pair[0] / "etc/passwd").mkdir()
    assert read(pair) == ""
    assert read(pair, "etc") == ""
    assert read(pair, "no/such") == ""
    os.mkfifo(pair[0] / "etc/pipe")
    assert read(pair, "etc/pipe") == ""


def test_no_more_than_the_bound_is_read(pair: tuple[Path, Path]) -> None:
    (pair[0] / "etc/passwd").write_bytes(b"x" * (rootfs.FILE_BYTES_MAX + 1))
    assert len(read(pair)) == rootfs.FILE_BYTES_MAX


def test_the_layers_of_mounts() -> None:
    overlay = types_pb2.Mount(
        type="overlay", options=["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a"]
    )
    assert rootfs.layers([overlay]) == ["/u", "/b", "/a"]
    bind = types_pb2.Mount(type="bind", source="/one", options=["rbind", "rw"])
    assert rootfs.layers([bind]) == ["/one"]
    assert rootfs.layers([types_pb2.Mount(type="btrfs", source="/dev/sda")]) == []
    assert rootfs.layers([]) == []
