"""Small image archives, made in Python: OCI layouts of a static busybox."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BUSYBOX = Path("/usr/bin/busybox")
APPLETS = [
    "sh",
    "cat",
    "echo",
    "sleep",
    "true",
    "false",
    "httpd",
    "id",
    "env",
    "pwd",
    "ls",
    "mount",
    "grep",
    "head",
    "dd",
    "kill",
    "trap",
    "stat",
    "wc",
    "mkdir",
    "seq",
    "touch",
    "tr",
    "hostname",
    "ip",
    "nslookup",
    "df",
    "free",
]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"
INDEX = "application/vnd.oci.image.index.v1+json"

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1001:1002:web:/srv:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:1002:\nlogs:x:1003:web,root\n"


def architecture() -> str:
    """This machine's, as image specs write it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def digest(data: bytes) -> str:
    """As manifests write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """An uncompressed layer; programs are those under bin/."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o755 if name.startswith("bin/") else 0o644
            tar.addfile(info, io.BytesIO(content))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE
            info.linkname = target
            tar.addfile(info)
    return buffer.getvalue()


def busybox_layer() -> bytes:
    """A root file system with busybox, two users and nothing else."""
    files = {
        "bin/busybox": BUSYBOX.read_bytes(),
        "etc/passwd": PASSWD.encode(),
        "etc/group": GROUP.encode(),
        "tmp/.keep": b"",
        "bin/not-a-program": b"\x00\x01\x02\x03",
        "etc/no-execute": b"#!/bin/sh\n",
    }
    return layer(files, {f"bin/{applet}": "busybox" for applet in APPLETS})


class Layout:
    """An OCI image layout under construction."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        self.entries: list[dict[str, Any]] = []

    def blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        """Adds content; returns its descriptor."""
        name = digest(data)
        self.files[f"blobs/sha256/{name.removeprefix('sha256:')}"] = data
        return {"mediaType": media_type, "digest": name, "size": len(data)}

    def manifest(
        self,
        layers: Sequence[bytes],
        config: Mapping[str, Any] | None = None,
        *,
        arch: str = "",
        compress: bool = True,
    ) -> dict[str, Any]:
        """Adds an image of these layers; returns its manifest's descriptor."""
        document = {
            "architecture": arch or architecture(),
            "os": "linux",
            "config": dict(config if config is not None else {"Cmd": ["sh"]}),
            "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
        }
        described = [
            self.blob(LAYER, gzip.compress(data, 1, mtime=0))
            if compress
            else self.blob(PLAIN_LAYER, data)
            for data in layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(CONFIG, encoded(document)),
            "layers": described,
        }
        return self.blob(MANIFEST, encoded(manifest))

    def add(self, descriptor: Mapping[str, Any], name: str = "", **more: Any) -> None:
        """Lists a descriptor in index.json, under a name."""
        annotations = {"org.opencontainers.image.ref.name": name} if name else {}
        self.entries.append({**descriptor, "annotations": annotations, **more})

    def tar(self) -> bytes:
        """The archive."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.entries}
        return tar_of({**self.files, "index.json": encoded(index)})


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A tar of these files, the same bytes each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def encoded(document: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(document, separators=(",", ":")).encode()


def archive(
    reference: str,
    config: Mapping[str, Any] | None = None,
    more_layers: Sequence[bytes] = (),
    *,
    compress: bool = True,
) -> bytes:
    """An OCI archive of busybox, with layers above it."""
    layout = Layout()
    layers = [busybox_layer(), *more_layers]
    layout.add(layout.manifest(layers, config, compress=compress), reference)
    return layout.tar()


def docker_archive(reference: str, layers: Sequence[bytes], config: Mapping[str, Any]) -> bytes:
    """What `docker save` writes, of the years before it wrote an OCI layout too."""
    document = encoded(
        {
            "architecture": architecture(),
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
        }
    )
    config_name = f"{hashlib.sha256(document).hexdigest()}.json"
    names = [f"{index}/layer.tar" for index in range(len(layers))]
    manifest = [{"Config": config_name, "RepoTags": [reference], "Layers": names}]
    files = {config_name: document, "manifest.json": encoded(manifest)}
    return tar_of({**files, **dict(zip(names, layers, strict=True))})
