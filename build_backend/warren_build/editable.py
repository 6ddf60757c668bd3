"""A wheel that points at the checkout: metadata, scripts, and a ``.pth`` file (PEP 660)."""

from __future__ import annotations

import base64
import hashlib
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from . import layout


def write(folder: str, prepare_metadata: Callable[[str], str]) -> str:
    """Writes the wheel into ``folder`` and returns its name."""
    members = {"warren.pth": f"{layout.PACKAGE.parent}\n".encode()}
    with tempfile.TemporaryDirectory() as scratch:
        info = Path(scratch) / prepare_metadata(scratch)
        for path in sorted(info.rglob("*")):
            if path.is_file():
                members[path.relative_to(scratch).as_posix()] = path.read_bytes()
        tag = _tag(members[f"{info.name}/WHEEL"])
        record = f"{info.name}/RECORD"
        members[record] = _record(members, record)
        name = f"{info.name.removesuffix('.dist-info')}-{tag}.whl"
    with zipfile.ZipFile(Path(folder) / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return name


def _tag(wheel: bytes) -> str:
    lines = wheel.decode().splitlines()
    return next(line.removeprefix("Tag: ") for line in lines if line.startswith("Tag: "))


def _record(members: dict[str, bytes], record: str) -> bytes:
    """The RECORD file: name, sha256 as unpadded URL-safe base64, and size of each member."""
    lines = []
    for name, content in members.items():
        if name != record:
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
            lines.append(f"{name},sha256={digest.decode().rstrip('=')},{len(content)}")
    return "\n".join([*lines, f"{record},,", ""]).encode()
