"""What is built and shipped is whole, pinned, and says one version everywhere."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import warren
from warren_build import sdist, stubs

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())
LOCK = (ROOT / "requirements" / "lock.txt").read_text()


def test_one_version_everywhere() -> None:
    assert warren.__version__ == CARGO["workspace"]["package"]["version"]
    assert metadata.version("warren") == warren.__version__


def test_the_logger_is_installed_executable() -> None:
    logger = Path(warren.__file__).parent / "bin" / "warren-log"
    assert os.access(logger, os.X_OK)


def test_the_lock_file_pins_every_requirement_by_hash_and_names_no_address() -> None:
    assert "://" not in LOCK
    blocks = re.split(r"\n(?=\S)", LOCK.strip())
    unhashed = [block.split()[0] for block in blocks if "--hash=sha256:" not in block]
    assert unhashed == []
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE))
    groups = PROJECT["dependency-groups"]
    wanted = [*PROJECT["project"]["dependencies"], *groups["build"]]
    wanted += [line for line in groups["dev"] if isinstance(line, str)]
    for line in wanted:
        requirement = Requirement(line)
        version = pinned.get(canonicalize_name(requirement.name), "none")
        assert version in requirement.specifier, f"{line} is pinned to {version}: run `make lock`"


def test_build_requirements_are_stated_once() -> None:
    assert PROJECT["build-system"]["requires"] == PROJECT["dependency-groups"]["build"]


def test_the_oldest_rust_is_not_older_than_a_dependency_asks() -> None:
    from tests.contract import licences

    oldest = _version(CARGO["workspace"]["package"]["rust-version"])
    for target in licences.rules(ROOT)["graph"]["targets"]:
        for crate in licences.crates(ROOT, target):
            asked = crate["rust_version"] or "0"
            assert _version(asked) <= oldest, f"{crate['name']} needs Rust {asked}"


def _version(text: str) -> tuple[int, ...]:
    """Three numbers: 1.88 is 1.88.0."""
    numbers = [*map(int, text.split(".")), 0, 0]
    return tuple(numbers[:3])


def test_the_source_archive_has_what_a_build_needs_and_nothing_built() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in sdist.files()}
    assert {
        "Cargo.lock",
        "Cargo.toml",
        "build_backend/warren_build/__init__.py",
        "cython_ext/histogram.pxd",
        "proto/warren/v1/api.proto",
        "pyproject.toml",
        "python/warren/py.typed",
        "rust/warren_core/build.rs",
        "rust/warren_log/Cargo.toml",
    } <= names
    assert [name for name in names if re.search(r"\.so$|\.pyc$|_pb2|warren-log$", name)] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout to compare with")
def test_the_source_archive_has_every_tracked_file_of_its_directories() -> None:
    shipped = {path.relative_to(ROOT).as_posix() for path in sdist.files()}
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *sdist.CONTENT],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=30,
    )
    tracked = {name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()}
    assert tracked - shipped == set()


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        (
            "from warren.v1 import api_pb2 as warren_dot_v1",
            "from warren.pb.v1 import api_pb2 as warren_dot_v1",
        ),
        (
            "from containerd import types_pb2 as _t",
            "from warren.pb.containerd import types_pb2 as _t",
        ),
        ("import containerd.types_pb2", "import warren.pb.containerd.types_pb2"),
        ("from warren.v1.api_pb2 import *", "from warren.pb.v1.api_pb2 import *"),
        ("from warren.v10 import x", "from warren.v10 import x"),
        ("from google.protobuf import any_pb2", "from google.protobuf import any_pb2"),
    ],
)
def test_imports_of_stubs_are_moved(line: str, moved: str) -> None:
    assert stubs.reroot(line) == moved
