"""Python modules from the schema.

``proto/warren/v1/<file>.proto`` becomes ``warren.pb.v1.<file>_pb2`` and
``proto/containerd/<file>.proto`` becomes ``warren.pb.containerd.<file>_pb2``. protoc names a module
after the path of its schema file, so what it writes is moved under ``warren.pb`` and its imports
with it: modules called ``types_pb2`` and packages called ``containerd`` have no business at the top
level, where they would shadow others.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from importlib.metadata import version
from pathlib import Path

from . import layout

#: Directory under ``proto/`` → package under ``warren.pb``.
PACKAGES = {"warren/v1": "v1", "containerd": "containerd"}

_MODULES = "|".join(re.escape(path.replace("/", ".")) for path in PACKAGES)
_IMPORT = re.compile(rf"^(from|import) ({_MODULES})(?=[ .])", re.MULTILINE)


class SchemaError(SystemExit):
    """The schema does not compile; protoc has said why on stderr."""


def sources() -> list[Path]:
    """All schema files, sorted."""
    found = sorted(layout.PROTO.rglob("*.proto"))
    for source in found:
        folder = source.relative_to(layout.PROTO).parent.as_posix()
        if folder not in PACKAGES:
            raise SchemaError(
                f"warren: {source.relative_to(layout.ROOT)} is in a directory without a Python "
                f"package; put it under one of {sorted(PACKAGES)} or extend stubs.PACKAGES"
            )
    return found


def generate() -> list[Path]:
    """Brings ``python/warren/pb`` up to date; returns the files that changed."""
    found = sources()
    expected = {out for source in found for out in _outputs(source)}
    stamp = layout.target_dir() / "warren-build" / "stubs"
    digest = _digest(found)
    fresh = stamp.is_file() and stamp.read_text() == digest
    if fresh and all(path.is_file() for path in expected):
        return []
    changed = _compile(found)
    for package in PACKAGES.values():
        for path in (layout.PACKAGE / "pb" / package).glob("*_pb2.py*"):
            if path not in expected:
                path.unlink()
                changed.append(path)
    layout.write_if_changed(stamp, digest.encode())
    return changed


def descriptor_set() -> bytes:
    """The whole schema as a serialised ``FileDescriptorSet``; for the tests of the schema."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "schema"
        _protoc(sources(), [f"--descriptor_set_out={out}"])
        return out.read_bytes()


def _compile(found: list[Path]) -> list[Path]:
    changed = []
    with tempfile.TemporaryDirectory() as folder:
        _protoc(found, [f"--python_out={folder}", f"--pyi_out={folder}"])
        for source in found:
            base = Path(folder) / source.relative_to(layout.PROTO).with_suffix("")
            for out in _outputs(source):
                text = base.with_name(out.name).read_text(encoding="utf-8")
                if layout.write_if_changed(out, reroot(text).encode("utf-8")):
                    changed.append(out)
    return changed


def reroot(text: str) -> str:
    """``text`` of a generated module, with the schema's own modules imported from ``warren.pb``."""
    return _IMPORT.sub(
        lambda match: f"{match[1]} warren.pb.{PACKAGES[match[2].replace('.', '/')]}", text
    )


def _protoc(found: list[Path], outputs: list[str]) -> None:
    import grpc_tools
    from grpc_tools import protoc

    includes = [f"-I{layout.PROTO}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    names = [source.relative_to(layout.PROTO).as_posix() for source in found]
    if protoc.main(["protoc", *includes, *outputs, *names]) != 0:
        raise SchemaError("warren: proto/ does not compile; protoc's words are above")


def _outputs(source: Path) -> list[Path]:
    relative = source.relative_to(layout.PROTO)
    folder = layout.PACKAGE / "pb" / PACKAGES[relative.parent.as_posix()]
    return [folder / f"{relative.stem}_pb2{suffix}" for suffix in (".py", ".pyi")]


def _digest(found: list[Path]) -> str:
    digest = hashlib.sha256(version("grpcio-tools").encode())
    digest.update(Path(__file__).read_bytes())
    for source in found:
        digest.update(f"\0{source.relative_to(layout.PROTO)}\0".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()
