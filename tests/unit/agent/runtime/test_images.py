"""What is made of what containerd says of its images, without containerd."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support import oci
from warren.agent.runtime.base import RuntimeRefused
from warren.agent.runtime.containerd import api
from warren.agent.runtime.containerd.client import Client, NotFound
from warren.agent.runtime.containerd.images import Images
from warren.agent.runtime.containerd.labels import LABEL_IMAGE
from warren.pb.containerd import containers_pb2, content_pb2, images_pb2, types_pb2
from warren.pb.v1 import objects_pb2

LAYER = oci.layer({"etc/passwd": b"root:x:0:0::/:/bin/sh\n"})


class Containerd:
    """Its content, its images by name, and its containers."""

    def __init__(self) -> None:
        self.layout = oci.Layout()
        self.names: dict[str, dict[str, Any]] = {}
        self.updated_s: dict[str, int] = {}
        self.containers: list[containers_pb2.Container] = []

    async def unary(self, call: api.Call[Any, Any], request: Any) -> Any:
        if call is api.IMAGE_LIST:
            return images_pb2.ListImagesResponse(images=map(self._image, self.names))
        if call is api.IMAGE_GET:
            return images_pb2.GetImageResponse(image=self._image(request.name))
        assert call is api.IMAGE_DELETE
        del self.names[request.name]
        return None

    async def stream(self, call: api.Call[Any, Any], request: Any) -> AsyncGenerator[Any]:
        if call is api.CONTAINER_LIST:
            for container in self.containers:
                yield containers_pb2.ListContainerMessage(container=container)
            return
        data = self.layout.files.get(f"blobs/sha256/{request.digest.removeprefix('sha256:')}")
        if data is None:
            raise NotFound(call.path, cast("Any", None), request.digest)
        yield content_pb2.ReadContentResponse(data=data)

    def _image(self, name: str) -> images_pb2.Image:
        entry = self.names[name]
        target = types_pb2.Descriptor(digest=entry["digest"], size=entry["size"])
        image = images_pb2.Image(name=name, target=target)
        image.updated_at.seconds = self.updated_s.get(name, 0)
        return image


@pytest.fixture
def containerd() -> Containerd:
    return Containerd()


@pytest.fixture
def images(containerd: Containerd, tmp_path: Path) -> Images:
    return Images(cast("Client", containerd), "0b" * 16, tmp_path)


def document(there: Containerd, content: Any) -> dict[str, Any]:
    return there.layout.blob(oci.MANIFEST, oci.encoded(content))


def manifest(there: Containerd, **changes: Any) -> dict[str, Any]:
    """One that can run here, but for `changes`."""
    good = there.layout.manifest([LAYER])
    held = there.layout.files[f"blobs/sha256/{good['digest'].removeprefix('sha256:')}"]
    return document(there, {**json.loads(held), **changes})


def odd_images(there: Containerd) -> dict[str, dict[str, Any]]:
    """Images that others may have stored: each has something that no image may have."""
    good = there.layout.manifest([LAYER])
    return {
        "a user that is a number": there.layout.manifest([LAYER], {"User": 5}),
        "a command that is no list": there.layout.manifest([LAYER], {"Cmd": "sh -c x"}),
        "a config that is a list": manifest(there, config=[{}]),
        "an inner config that is a list": manifest(
            there,
            config=document(
                there,
                {
                    "architecture": oci.architecture(),
                    "os": "linux",
                    "config": ["sh"],
                    "rootfs": {"diff_ids": [oci.digest(LAYER)]},
                },
            ),
        ),
        "a size that is none": manifest(
            there, layers=[{"mediaType": oci.LAYER, "digest": oci.digest(LAYER), "size": "big"}]
        ),
        "a platform that is a string": document(
            there, {"manifests": [{**good, "platform": "linux"}]}
        ),
        "an entry without a digest": document(there, {"manifests": [{"size": 3}]}),
        "an entry with a size that is none": document(
            there, {"manifests": [{**good, "size": [1]}]}
        ),
        "a size below zero": document(there, {"manifests": [{**good, "size": -(1 << 62)}]}),
        "no JSON": there.layout.blob(oci.MANIFEST, b"{"),
        "no text": there.layout.blob(oci.MANIFEST, b"\xff\xff"),
        "nested too deeply": there.layout.blob(oci.MANIFEST, b"[" * 100_000),
        "a list": there.layout.blob(oci.MANIFEST, b"[]"),
    }


ODD = sorted(odd_images(Containerd()))


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_image_of_others_hides_no_other_one(
    containerd: Containerd, images: Images, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    containerd.names = {
        "docker.io/library/odd:1": odd_images(containerd)[odd],
        "docker.io/library/web:1": containerd.layout.manifest([LAYER]),
    }
    with caplog.at_level(logging.WARNING, "warren.runtime"):
        for _ in range(2):
            assert [image.reference for image in await images.list()] == ["docker.io/library/web:1"]
    (said,) = caplog.messages
    assert "docker.io/library/odd:1" in said
    with pytest.raises(RuntimeRefused, match="odd:1 cannot be used"):
        await images.resolve(objects_pb2.ContainerSpec(image="docker.io/library/odd:1"))


async def test_a_load_leaves_older_images_that_run_or_are_to(
    containerd: Containerd, images: Images
) -> None:
    old = {
        name: containerd.layout.manifest([LAYER], {"Cmd": [name]})
        for name in ("runs", "waits", "unused")
    }
    containerd.names = {f"docker.io/library/web@{old[name]['digest']}": old[name] for name in old}
    containerd.names["docker.io/library/web:1"] = containerd.layout.manifest([LAYER])
    labels = {LABEL_IMAGE: old["runs"]["digest"]}
    containerd.containers = [containers_pb2.Container(id="0a" * 16, labels=labels)]
    images.assigned = lambda: {old["waits"]["digest"]}  # between two attempts: no container of it
    await images._prune(set())
    assert sorted(containerd.names) == sorted(
        ["docker.io/library/web:1"]
        + [f"docker.io/library/web@{old[name]['digest']}" for name in ("runs", "waits")]
    )


async def test_null_in_an_image_s_config_says_nothing(
    containerd: Containerd, images: Images
) -> None:
    containerd.names = {
        "docker.io/library/web:1": containerd.layout.manifest(
            [LAYER], {"User": None, "Cmd": ["sh"], "WorkingDir": None, "Env": None}
        )
    }
    found = await images.resolve(objects_pb2.ContainerSpec(image="docker.io/library/web:1"))
    assert (found.config.user, found.config.cmd, found.config.working_dir) == ("", ["sh"], "")


async def test_what_is_to_run_here_comes_first_then_the_newest(
    containerd: Containerd, images: Images
) -> None:
    for number, name in enumerate("abcd"):
        containerd.names[name] = manifest(containerd, annotations={"n": name})
        containerd.updated_s[name] = number
    images.assigned = lambda: {containerd.names["b"]["digest"]}
    assert [image.reference for image in await images.by_need()] == ["b", "d", "c", "a"]
    assert [image.reference for image in await images.list()] == ["a", "b", "c", "d"]
