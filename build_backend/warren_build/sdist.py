"""The source archive: what a build needs, and nothing that a build makes.

Written here rather than by maturin, which keeps only the workspace members that its own crate
depends on: the container logger is not one of them. The archive is the same, byte for byte, for
the same sources.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from . import layout

#: Everything that goes in, as files or directories of the checkout; what is missing is left out.
CONTENT = (
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "build_backend",
    "cython_ext",
    "proto",
    "pyproject.toml",
    "python/warren",
    "rust",
    "rust-toolchain.toml",
)
_GENERATED_SUFFIXES = (".so", ".pyc", ".c", "_pb2.py", "_pb2.pyi")
_GENERATED_FOLDERS = ("__pycache__", "target")

#: 1980-01-01, the earliest date that a zip made from the archive could hold.
_MTIME_S = 315_532_800


def write(folder: str, prepare_metadata: Callable[[str], str]) -> str:
    """Writes ``warren-<version>.tar.gz`` into ``folder`` and returns its name."""
    with tempfile.TemporaryDirectory() as scratch:
        info = Path(scratch) / prepare_metadata(scratch)
        metadata = (info / "METADATA").read_bytes()
        base = info.name.removesuffix(".dist-info")
    name = f"{base}.tar.gz"
    with (
        open(os.path.join(folder, name), "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=_MTIME_S) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        _add(archive, f"{base}/PKG-INFO", metadata, 0o644)
        for path in files():
            executable = path.stat().st_mode & 0o100
            member = f"{base}/{path.relative_to(layout.ROOT).as_posix()}"
            _add(archive, member, path.read_bytes(), 0o755 if executable else 0o644)
    return name


def files() -> Iterator[Path]:
    """The files of the archive, in order."""
    for entry in CONTENT:
        top = layout.ROOT / entry
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and not _generated(path):
                yield path


def _generated(path: Path) -> bool:
    folders = path.relative_to(layout.ROOT).parts[:-1]
    # `rust/*/src/bin/` is source; the only generated `bin` is the package's.
    generated_bin = path.is_relative_to(layout.PACKAGE / "bin")
    return (
        path.name.endswith(_GENERATED_SUFFIXES)
        or path.name.startswith(".")
        or generated_bin
        or any(folder in _GENERATED_FOLDERS for folder in folders)
    )


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), mode, _MTIME_S
    archive.addfile(member, io.BytesIO(content))
