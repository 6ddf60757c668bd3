"""`warrenctl debug bundle`: everything that support needs, secrets redacted, in one file."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from warren.cli import bundle_file, doctor, views, views_explain, wal_views
from warren.cli.bundle_file import BundleFile
from warren.cli.client import Client
from warren.cli.common import Settings
from warren.cli.members import all_members
from warren.cli.shapes import BundleView
from warren.doctor import local
from warren.doctor.daemon import fetch, listener
from warren.doctor.redact import (
    Redactor,
    arguments_of,
    is_secret_name,
    without_arguments,
    without_values,
)
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, explain_pb2, node_pb2

if TYPE_CHECKING:
    from warren.doctor.daemon import Setup

__all__ = ["collect", "default_name"]

_CALL_TIMEOUT_MS: Final = 10_000
_RETRY_TIMEOUT_MS: Final = 1_000
_PART_TIMEOUT_S: Final = 30.0
_EVENTS_MAX: Final = 1_000
# Checking reads all of it.
_WAL_BYTES_MAX: Final = 512 << 20


def default_name(time_s: float) -> str:
    """`warren-debug-HOST-20310504T030201Z.tar.gz`."""
    host = "".join(c for c in platform.node().split(".")[0] if c.isalnum() or c == "-")
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_s))
    return f"warren-debug-{host or 'host'}-{moment}.tar.gz"


def collect(setup: Setup, socket: Path, output: Path, say: Callable[[str], None]) -> BundleView:
    """Write the bundle. What could not be had stands in its errors.txt, and in `errors`.

    `say` is told what is under way. Raises WarrenError `failed` where the file cannot be written.
    """
    settings = Settings()
    settings.host, settings.format, settings.stale = f"unix://{socket}", "json", True
    settings.timeout_ms = _CALL_TIMEOUT_MS
    pid = listener(socket)
    say("services")
    services, why_none = _attempt(lambda: _services(settings))
    known = [*_secrets(services or []), *local.secrets_of(pid, os.environ)]
    redactor = Redactor(known)
    with BundleFile(output, redactor, int(time.time())) as bundle:
        if redactor.left_out:
            why = f"{redactor.left_out} values of variables are not looked for in other entries"
            bundle.note("redaction", why)
        if services is None:
            bundle.note("services.json", why_none)
            # The others will hardly do better, and each would wait as long.
            settings.timeout_ms = _RETRY_TIMEOUT_MS
        else:
            bundle.add_data("services.json", [_bare(each) for each in services])
        parts = _Parts(setup, socket, settings, pid)
        for name, read in parts.all():
            say(name)
            found, why = _attempt(read)
            if found is None:
                bundle.note(name, why)
            elif isinstance(found, str):
                bundle.add_text(name, found, newest=name.endswith(".log"))
            else:
                bundle.add_data(name, found)
        size_bytes = bundle.finish()
        entries = sorted(bundle.entries, key=lambda each: each.name)
        return BundleView(str(output), size_bytes, True, entries, bundle.errors)


class _Parts:
    """Each entry of the bundle, and what reads it."""

    def __init__(self, setup: Setup, socket: Path, settings: Settings, pid: int | None) -> None:
        self._setup = setup
        self._config = setup.config
        self._socket = socket
        self._settings = settings
        self._pid = pid

    def all(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """In the order in which they are read: what shows the present state first."""
        yield "health.json", lambda: self._fetched("/health")
        yield "ready.json", lambda: self._fetched("/ready")
        yield "metrics.txt", lambda: self._fetched("/metrics")
        yield "daemon.log", lambda: local.log(self._pid)
        yield "cluster.json", self._cluster
        yield "members.json", self._members
        yield "nodes.json", self._nodes
        yield "containers.json", self._containers
        yield "events.json", self._events
        yield "images.json", self._images
        yield "configuration.json", self._configuration
        yield "versions.json", self._versions
        yield "data-directory.json", lambda: local.listing(self._config.data_dir)
        yield "wal.json", self._wal
        yield "doctor.json", lambda: _plain(doctor.report(self._setup, self._socket))

    def _fetched(self, path: str) -> str:
        limit_bytes = bundle_file.ENTRY_BYTES_MAX
        _, body = fetch(self._config.metrics_addr, path, limit_bytes)
        return body.decode(errors="replace")

    @contextmanager
    def _client(self) -> Iterator[Client]:
        with Client(self._settings) as client:
            yield client

    def _cluster(self) -> Any:
        with self._client() as client:
            answer = client.call("GetCluster", api_pb2.GetClusterRequest())
            of_members, joint = all_members(client)
        return _plain(views.cluster(answer, of_members, joint=joint))

    def _members(self) -> Any:
        with self._client() as client:
            return _plain(all_members(client)[0])

    def _nodes(self) -> Any:
        with self._client() as client:
            answer = client.call("ListNodes", api_pb2.ListNodesRequest(with_images=True))
            of_members, _ = all_members(client, answer)
        return [_plain(views.node(each, of_members)) for each in answer.nodes]

    def _containers(self) -> Any:
        with self._client() as client:
            answer = client.call("ListContainers", api_pb2.ListContainersRequest())
        return [_plain(views.container(each)) for each in answer.containers]

    def _events(self) -> Any:
        with self._client() as client:
            request = explain_pb2.ListEventsRequest(count_max=_EVENTS_MAX)
            answer = client.call("ListEvents", request)
        return [_plain(views_explain.event(each)) for each in answer.events]

    def _images(self) -> Any:
        with self._client() as client:
            answer = client.call("ListImages", node_pb2.ListImagesRequest())
        return [_plain(views.image(each)) for each in answer.images]

    def _configuration(self) -> Any:
        if self._setup.trouble:
            raise WarrenError("invalid", self._setup.trouble)
        plain = msgspec.to_builtins(self._config, enc_hook=str)
        return {
            key: {"value": plain[key], "source": source}
            for key, source in self._setup.sources.items()
        }

    def _versions(self) -> Any:
        found = local.versions()
        try:
            with self._client() as client:
                answer = client.call("GetDaemon", node_pb2.GetDaemonRequest())
            found["daemon"] = _plain(views.daemon(answer))
        except WarrenError as error:
            found["daemon"] = error.message
        return found

    def _wal(self) -> Any:
        from warren.core import verify_log

        place = wal_views.locate(str(self._config.data_dir))
        size_bytes = local.wal_bytes(self._config.data_dir)
        if size_bytes > _WAL_BYTES_MAX:
            raise WarrenError(
                "too_large",
                f"not checked, because it has {size_bytes:,} bytes; warrenctl debug wal verify "
                f"{self._config.data_dir} does that",
            )
        return _plain(wal_views.report(place, verify_log(place.wal_dir)))


def _attempt(read: Callable[[], Any]) -> tuple[Any, str]:
    """What `read` gives, or None and why not. One that hangs is left behind."""
    result: list[tuple[Any, str]] = []

    def run() -> None:
        try:
            result.append((read(), ""))
        except Exception as error:  # noqa: BLE001 - one part must not cost the others
            result.append((None, str(error) or type(error).__name__))

    thread = threading.Thread(target=run, name="bundle part", daemon=True)
    thread.start()
    thread.join(_PART_TIMEOUT_S)
    return result[0] if result else (None, f"no answer within {_PART_TIMEOUT_S:g} s")


def _plain(view: Any) -> Any:
    return msgspec.to_builtins(view)


def _services(settings: Settings) -> list[dict[str, Any]]:
    with Client(settings) as client:
        answer = client.call("ListServices", api_pb2.ListServicesRequest())
    return [_plain(views.service(each)) for each in answer.services]


def _secrets(services: list[dict[str, Any]]) -> list[str]:
    """Values of variables of services, first of those that are called like secrets, and what
    their commands are given.
    """
    containers = [each["container"] for each in services]
    pairs = [pair.partition("=") for each in containers for pair in each["env"]]
    pairs.sort(key=lambda pair: not is_secret_name(pair[0]))
    arguments = [word for each in containers for word in arguments_of(each["command"])]
    # Numbers stand in metrics and logs for other things.
    arguments = [word for word in arguments if not word.isdigit()]
    return [*(value for _, _, value in pairs), *arguments]


def _bare(service: dict[str, Any]) -> dict[str, Any]:
    """Without values of variables and arguments of the command: any of them may be a secret."""
    container = service["container"]
    env, command = without_values(container["env"]), without_arguments(container["command"])
    return {**service, "container": {**container, "env": env, "command": command}}
