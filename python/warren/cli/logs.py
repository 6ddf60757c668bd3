"""`warrenctl service logs`: the lines of all containers of a service, as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, read_options, until_ctrl_c
from warren.cli.params import Parsed

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.errors import WarrenError
    from warren.pb.v1 import node_pb2, objects_pb2

__all__ = ["logs"]

LIST_PAUSE_S: Final = 1.0
"""How often a follower looks for containers that have come since."""

_QUEUE_MAX: Final = 256
_REOPEN_PAUSE_S: Final = 0.5
# Lines that have come are not printed while containers are looked for.
_LOOK_TIMEOUT_S: Final = 5.0
# A daemon that opens its log answers these for a moment.
_STARTING: Final = frozenset({"worker_only", "not_in_cluster"})
# A line without an end is given out in pieces of this size.
_LINE_BYTES_MAX: Final = 1 << 20
_COLORS: Final = ("cyan", "yellow", "green", "magenta", "blue", "red")


@click.command(cls=Command)
@click.argument("service")
@click.option("--follow", "-f", is_flag=True, help="Go on with lines as they are written.")
@click.option(
    "--tail", "-n", type=Parsed("n", parse.count), help="Only the last N of each container."
)
@click.option("--since", metavar="TIME", help="Only since a time (RFC 3339) or an age, as in 10m.")
@click.option("--timestamps", "-t", is_flag=True, help="Show when each line was written.")
@read_options
@click.pass_obj
def logs(
    settings: Settings,
    service: str,
    follow: bool,
    tail: int | None,
    since: str | None,
    timestamps: bool,
) -> None:
    """Show what the containers of a service wrote.

    Lines from standard error go to standard error.
    """
    import time

    from warren.cli.client import Client
    from warren.pb.v1 import node_pb2

    request = node_pb2.LogsRequest(follow=follow, tail=-1 if tail is None else tail)
    if since is not None:
        try:
            request.since_ms = parse.since_ms(since, int(time.time() * 1000))
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--since") from None
    with Client(settings) as client:
        follower = _Follower(client, service, request)
        printer = _Printer(settings, timestamps)
        if follow:
            with until_ctrl_c(settings):
                printer.show(follower.lines())
        else:
            printer.show(follower.once())


Lines = Iterator[tuple["objects_pb2.Container", "node_pb2.LogLine"]]


class _Follower:
    """The log lines of a service's containers, those included that come while it is read.

    Streams are read in threads, one for each batch of new containers, that end with the process.
    """

    def __init__(self, client: Client, service: str, request: node_pb2.LogsRequest) -> None:
        import queue

        self._client = client
        self._service = service
        self._request = request
        self._seen: dict[bytes, objects_pb2.Container] = {}
        # Lines, the failure of a stream, and None after its last line.
        self._arrived: queue.Queue[Any] = queue.Queue(_QUEUE_MAX)

    def once(self) -> Lines:
        """What has been written so far. The timeout is for each answer, not for reading them."""
        import queue

        from warren import rpc

        fresh = self._fresh()
        if not fresh:
            return
        self._start(fresh)
        while True:
            try:
                item = self._arrived.get(timeout=self._client.deadline.timeout_s)
            except queue.Empty:
                raise rpc.no_answer() from None
            if item is None:
                return
            yield _line_of(item)

    def lines(self) -> Lines:
        """What has been and will be written; ends when the service is gone."""
        from warren.errors import WarrenError

        listed, trouble = False, ""
        while True:
            self._client.renew()
            try:
                # What is there already goes on meanwhile: nothing waits for a manager.
                fresh = self._fresh(retry=not listed)
                listed, trouble = True, ""
            except WarrenError as error:
                if not listed:
                    raise
                if error.code == "not_found":
                    return
                if not _goes_on(error):
                    raise
                if error.message != trouble:
                    click.echo(f"{error.message}; trying on", err=True)
                fresh, trouble = [], error.message
            if fresh:
                self._start(fresh)
                self._request.since_ms = 0
                self._request.tail = -1
            yield from self._until_pause()

    def _fresh(self, *, retry: bool = True) -> list[bytes]:
        """Containers on the daemon's node that were not there the last time."""
        from warren.pb.v1 import api_pb2, node_pb2

        limit_s = None if retry else _LOOK_TIMEOUT_S
        daemon: node_pb2.GetDaemonResponse = self._client.call(
            "GetDaemon", node_pb2.GetDaemonRequest(), retry=retry, attempt_timeout_s=limit_s
        )
        answer: api_pb2.ListSlotsResponse = self._client.call(
            "ListSlots",
            api_pb2.ListSlotsRequest(ref=self._service, all=True),
            retry=retry,
            attempt_timeout_s=limit_s,
        )
        fresh = []
        for slot in answer.slots:
            record = slot.container
            if not record.id or record.id in self._seen:
                continue
            self._seen[record.id] = record
            if record.node_id == daemon.node_id:
                fresh.append(record.id)
            else:
                click.echo(
                    f"{_label(record)} is on node {slot.node_name}: "
                    "its log is read there, with warrenctl on that host",
                    err=True,
                )
        return fresh

    def _start(self, containers: list[bytes]) -> None:
        """Have their lines arrive."""
        import threading

        from warren.pb.v1 import node_pb2

        request = node_pb2.LogsRequest()
        request.CopyFrom(self._request)
        request.container_ids.extend(containers)
        threading.Thread(target=self._pump, args=(request,), daemon=True).start()

    def _pump(self, wanted: node_pb2.LogsRequest) -> None:
        import time

        from warren.errors import WarrenError

        places = _Places()
        while True:
            try:
                for chunk in self._client.stream("Logs", places.request(wanted), None):
                    for line in filter(places.is_new, chunk.lines):
                        self._arrived.put((self._seen[line.container_id], line))
            except WarrenError as error:
                if not wanted.follow or not _goes_on(error):
                    self._arrived.put(error)
                    return
            if not wanted.follow:
                self._arrived.put(None)
                return
            time.sleep(_REOPEN_PAUSE_S)

    def _until_pause(self) -> Lines:
        """What arrives until it is time to look for new containers again."""
        import queue
        import time

        end_s = time.monotonic() + LIST_PAUSE_S
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                yield _line_of(self._arrived.get(timeout=left_s))
            except queue.Empty:
                return


class _Places:
    """How far each container's log has been read: a stream that broke goes on from there."""

    def __init__(self) -> None:
        # The time of the last line, and how many of that time there were.
        self._last: dict[bytes, tuple[int, int]] = {}
        self._again: dict[bytes, tuple[int, int]] = {}

    def request(self, wanted: node_pb2.LogsRequest) -> node_pb2.LogsRequest:
        """What to ask for: all that is wanted, or what came after it was read in part."""
        from warren.pb.v1 import node_pb2

        self._again = dict(self._last)
        if not self._last:
            return wanted
        rest = node_pb2.LogsRequest()
        rest.CopyFrom(wanted)
        rest.tail = -1
        rest.since_ms = min(time_ns for time_ns, _ in self._last.values()) // 1_000_000
        return rest

    def is_new(self, line: node_pb2.LogLine) -> bool:
        """Whether a line was not there before the stream broke; it counts as read then."""
        key, time_ns = line.container_id, line.time_ns
        again_ns, again = self._again.get(key, (0, 0))
        if time_ns < again_ns:
            return False
        if time_ns == again_ns and again:
            self._again[key] = (again_ns, again - 1)
            return False
        # From here on all are: the clock may step back.
        self._again.pop(key, None)
        last_ns, count = self._last.get(key, (0, 0))
        self._last[key] = (time_ns, count + 1 if time_ns == last_ns else 1)
        return True


def _goes_on(error: WarrenError) -> bool:
    """Whether who follows has only to wait: the log itself is on this host."""
    from warren.errors import PASSING

    return error.code in PASSING or error.code in _STARTING


def _line_of(item: Any) -> Any:
    if isinstance(item, Exception):
        raise item
    return item


def _label(record: objects_pb2.Container) -> str:
    # A global service has no slot numbers: the node makes the difference.
    return f"{record.service_name}.{record.slot or record.node_id.hex()[:12]}"


class _Printer:
    """Joins the pieces of long lines and prints whole ones."""

    def __init__(self, settings: Settings, timestamps: bool) -> None:
        import os

        self._settings = settings
        self._timestamps = timestamps
        self._colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._pieces: dict[tuple[bytes, bool], bytes] = {}
        self._last: dict[tuple[bytes, bool], tuple[Any, Any]] = {}

    def show(self, lines: Lines) -> None:
        """Print these, and in the end what never got its own end."""
        for record, line in lines:
            self.take(record, line)
        for key, text in self._pieces.items():
            self._print(*self._last[key], text)
        self._pieces.clear()

    def take(self, record: objects_pb2.Container, line: node_pb2.LogLine) -> None:
        key = (line.container_id, line.stderr)
        text = self._pieces.pop(key, b"") + line.line
        if line.partial and len(text) < _LINE_BYTES_MAX:
            self._pieces[key] = text
            self._last[key] = (record, line)
            return
        self._print(record, line, text)

    def _print(self, record: Any, line: Any, text: bytes) -> None:
        if self._settings.format != "table":
            self._print_data(record, line, text)
            return
        label = _label(record)
        if self._colored:
            label = click.style(label, fg=_COLORS[record.slot % len(_COLORS)])
        stamp = f"{_time(line.time_ns)} " if self._timestamps else ""
        out = sys.stderr if line.stderr else sys.stdout
        # Bytes: what a container writes is not always text.
        out.buffer.write(f"{label} | {stamp}".encode() + text + b"\n")
        out.buffer.flush()

    def _print_data(self, record: Any, line: Any, text: bytes) -> None:
        import msgspec

        from warren.cli.shapes import LogLineView

        view = LogLineView(
            service=record.service_name,
            slot=record.slot,
            container_id=record.id.hex(),
            time=_time(line.time_ns),
            stream="stderr" if line.stderr else "stdout",
            line=text.decode(errors="replace"),
        )
        if self._settings.format == "json":
            click.echo(msgspec.json.encode(view))
            return
        import yaml

        fields = msgspec.to_builtins(view)
        click.echo(yaml.safe_dump(fields, sort_keys=False, explicit_start=True), nl=False)


def _time(time_ns: int) -> str:
    from datetime import UTC, datetime

    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"
