"""Where things are, and how a generated file is written."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
CYTHON = ROOT / "cython_ext"
PACKAGE = ROOT / "python" / "warren"


def target_dir() -> Path:
    """Cargo's target directory: ``CARGO_TARGET_DIR``, else ``target/`` in the checkout."""
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def write_if_changed(path: Path, content: bytes, mode: int = 0o644) -> bool:
    """Replaces ``path`` atomically unless it already holds ``content``; says whether it did.

    An unchanged file keeps its time stamp, so that whatever is built from it is not built again.
    """
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.chmod(mode)
    scratch.replace(path)
    return True
