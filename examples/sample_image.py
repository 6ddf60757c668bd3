"""Makes a small image for `warrenctl image load`: a static busybox and a page it serves.

    python -m examples.sample_image sample.tar [--busybox /bin/busybox] [--name sample:latest]

The archive is an OCI image layout in a tar file (image-spec v1.0, image-layout.md), written with
the standard library alone. The same busybox gives the same archive, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import Any

#: What the image runs unless told otherwise: a web server on $PORT, whose page names the container.
#: On the host's network the host name is the node's; the id is then in the name of the cgroup.
SERVE = """\
#!/bin/sh
set -eu
id=$(sed -n 's,.*/warren/,,p' /proc/self/cgroup | head -n 1)
mkdir -p /tmp/www
echo "Hello from container ${id:-$(hostname)} on $(hostname)" >/tmp/www/index.html
# Process 1 is sent no signal that it has no handler for, and httpd has none.
trap 'kill $!; exit 0' TERM
httpd -f -p "${PORT:-8080}" -h /tmp/www &
wait $!
"""

#: ELF machine → architecture as Go and OCI name it.
_ARCHITECTURES = {62: "amd64", 183: "arm64"}
_PT_INTERP = 3

_MEDIA = "application/vnd.oci.image"


def write(path: Path, busybox: Path = Path("/bin/busybox"), name: str = "sample:latest") -> Path:
    """Writes the archive to ``path`` and returns it; ValueError if ``busybox`` is not static."""
    binary = busybox.read_bytes()
    machine = architecture(binary)
    layer = _layer(binary, _applets(busybox))
    config = _json(
        {
            "architecture": machine,
            "os": "linux",
            "config": {"Cmd": ["/bin/serve"], "Env": ["PATH=/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": _descriptor(f"{_MEDIA}.config.v1+json", config),
            "layers": [_descriptor(f"{_MEDIA}.layer.v1.tar", layer)],
        }
    )
    names = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    described = _descriptor(f"{_MEDIA}.manifest.v1+json", manifest) | {"annotations": names}
    members = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [described]}),
    }
    for blob in (manifest, config, layer):
        members[f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"] = blob
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, content in members.items():
            _add(archive, member, content, 0o644)
    return path


def architecture(binary: bytes) -> str:
    """What a 64-bit little-endian ELF file runs on; ValueError if it needs a dynamic linker."""
    if binary[:6] != b"\x7fELF\x02\x01":
        raise ValueError("busybox is not a 64-bit ELF file; install the package busybox-static")
    (machine,) = struct.unpack_from("<H", binary, 18)
    (headers_at,) = struct.unpack_from("<Q", binary, 32)
    size, count = struct.unpack_from("<HH", binary, 54)
    kinds = [struct.unpack_from("<I", binary, headers_at + size * i)[0] for i in range(count)]
    if _PT_INTERP in kinds:
        raise ValueError(
            "busybox is linked dynamically and would not start in an image of its own; "
            "install the package busybox-static"
        )
    if machine not in _ARCHITECTURES:
        raise ValueError(f"busybox is for ELF machine {machine}; Warren runs on amd64 and arm64")
    return _ARCHITECTURES[machine]


def _applets(busybox: Path) -> list[str]:
    listed = subprocess.run([busybox, "--list"], capture_output=True, check=True, timeout=10)
    return sorted(set(listed.stdout.decode().split()) - {"busybox"})


def _layer(binary: bytes, applets: list[str]) -> bytes:
    """The root file system as a tar file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        folders = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o755, "root": 0o700}
        for folder, mode in (folders | {"sys": 0o755, "tmp": 0o1777}).items():
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, mode
            archive.addfile(member)
        _add(archive, "bin/busybox", binary, 0o755)
        _add(archive, "bin/serve", SERVE.encode(), 0o755)
        _add(archive, "etc/group", b"root:x:0:\nnobody:x:65534:\n", 0o644)
        passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        _add(archive, "etc/passwd", passwd, 0o644)
        for applet in applets:
            member = tarfile.TarInfo(f"bin/{applet}")
            member.type, member.linkname, member.mode = tarfile.SYMTYPE, "busybox", 0o777
            archive.addfile(member)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def main() -> None:
    """Writes the archive that the command line names."""
    parser = argparse.ArgumentParser(prog="sample_image", description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--busybox", type=Path, default=Path("/bin/busybox"))
    parser.add_argument("--name", default="sample:latest")
    arguments = parser.parse_args()
    try:
        write(arguments.output, arguments.busybox, arguments.name)
    except (OSError, ValueError) as error:
        parser.exit(1, f"sample_image: {error}\n")


if __name__ == "__main__":
    main()
