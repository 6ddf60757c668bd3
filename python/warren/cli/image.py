"""`warrenctl image`: the images on the daemon's host."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from warren.cli.common import Group, Settings, common_options

if TYPE_CHECKING:
    from io import BufferedReader

    from warren.cli.client import Client
    from warren.pb.v1 import node_pb2

__all__ = ["image"]

CHUNK_BYTES: Final = 1 << 20
LOAD_TIMEOUT_S: Final = 600.0


@click.group(cls=Group)
def image() -> None:
    """Load, list and remove images on this host."""


@image.command()
@click.option("--input", "-i", "path", default="-", metavar="FILE", help="Archive; -: stdin.")
@click.option("--tag", default="", metavar="NAME", help="Name for an image that has none.")
@common_options
@click.pass_obj
def load(settings: Settings, path: str, tag: str) -> None:
    """Load images from an archive: an OCI layout or docker save, also compressed."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.errors import WarrenError

    with _opened(path) as archive, Client(settings, LOAD_TIMEOUT_S) as client:
        loaded = _send(client, archive, tag)
    if loaded is None:
        raise WarrenError(
            "internal", "the daemon ended the load without a word; look at its log, and load again"
        )
    images = [views.image(message) for message in loaded]
    if settings.format == "table":
        for each in images:
            click.echo(f"loaded {each.reference}")
    else:
        render.show_list(settings, images, (), lambda _: ())


def _opened(path: str) -> BufferedReader:
    from warren.errors import WarrenError

    if path == "-":
        if sys.stdin.isatty():
            raise click.UsageError("no archive: give --input FILE, or pipe one in")
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return open(path, "rb")
    except OSError as error:
        raise WarrenError("failed", f"cannot read {path}: {error.strerror}") from None


def _send(client: Client, archive: BufferedReader, tag: str) -> list[Any] | None:
    """Stream the archive; what was loaded, None if the daemon never said."""
    from warren.errors import WarrenError

    sent = _Sent(archive, tag)
    loaded = None
    with _LoadBar(client.settings, archive) as show:
        try:
            for progress in client.stream("LoadImage", sent, client.deadline.remaining_s()):
                show(progress.step, progress.received_bytes)
                if progress.step == "done":
                    loaded = list(progress.images)
        except WarrenError:
            # A file that breaks off while it is read ends the call; what it said comes first.
            if sent.failure is not None:
                raise sent.failure from None
            raise
    return loaded


class _Sent:
    """The archive as messages. gRPC reads it in a thread of its own."""

    def __init__(self, archive: BufferedReader, tag: str) -> None:
        self._archive = archive
        self._tag = tag
        self._first = True
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[node_pb2.LoadImageRequest]:
        return self

    def __next__(self) -> node_pb2.LoadImageRequest:
        from warren.errors import WarrenError
        from warren.pb.v1 import node_pb2

        try:
            # What a pipe holds now: waiting for a whole piece would hold back what has come.
            data = self._archive.read1(CHUNK_BYTES)
        except OSError as error:
            name = getattr(self._archive, "name", "the archive")
            self.failure = WarrenError("failed", f"cannot read {name}: {error.strerror}")
            raise self.failure from None
        if not data and not self._first:
            raise StopIteration
        tag, self._tag, self._first = self._tag, "", False
        return node_pb2.LoadImageRequest(data=data, reference=tag)


class _LoadBar:
    """A progress bar on a terminal; nothing elsewhere: the result says it all."""

    def __init__(self, settings: Settings, archive: BufferedReader) -> None:
        import os
        import stat

        status = os.fstat(archive.fileno())
        self._total = status.st_size if stat.S_ISREG(status.st_mode) else None
        self._progress: Any = None
        self._shown = settings.format == "table" and sys.stderr.isatty()

    def __enter__(self) -> Any:
        if not self._shown:
            return lambda *_: None
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            console=Console(stderr=True),
            transient=True,
        )
        self._progress.start()
        task = self._progress.add_task("receiving", total=self._total)

        def show(step: str, received_bytes: int) -> None:
            self._progress.update(task, description=step, completed=received_bytes)

        return show

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


@image.command()
@common_options
@click.pass_obj
def ls(settings: Settings) -> None:
    """List the images on this host."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.pb.v1 import node_pb2

    with Client(settings) as client:
        answer: node_pb2.ListImagesResponse = client.call(
            "ListImages", node_pb2.ListImagesRequest()
        )
    images = sorted((views.image(each) for each in answer.images), key=lambda i: i.reference)
    render.show_list(
        settings,
        images,
        ("IMAGE", "DIGEST", "SIZE"),
        lambda each: (each.reference, each.digest, render.bytes_text(each.size_bytes)),
    )


@image.command("rm")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also while containers on this host use it.")
@common_options
@click.pass_obj
def remove(settings: Settings, images: tuple[str, ...], force: bool) -> None:
    """Remove images from this host."""
    from warren.cli import render
    from warren.cli.client import Client
    from warren.cli.shapes import ImageRemoved
    from warren.pb.v1 import node_pb2

    removed = []
    with Client(settings) as client:
        for reference in images:
            # A repetition could answer that there is no such image: no request id here.
            answer: node_pb2.RemoveImageResponse = client.call(
                "RemoveImage",
                node_pb2.RemoveImageRequest(reference=reference, force=force),
                retry=False,
            )
            removed.append(ImageRemoved(answer.reference))
            if settings.format == "table":
                click.echo(f"removed {answer.reference}")
    if settings.format != "table":
        render.show_list(settings, removed, (), lambda _: ())
