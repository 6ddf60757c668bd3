"""Waiting for what was asked for to be so, with progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, objects_pb2

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.cli.common import Settings

__all__ = ["Progress", "progress_text", "until", "wait_gone", "wait_running"]

_REOPEN_PAUSE_S: Final = 0.2
_POLL_PAUSE_S: Final = 0.05


class Progress:
    """One changing line on a terminal, a line a change elsewhere; silent for programs."""

    def __init__(self, settings: Settings) -> None:
        self._silent = settings.format != "table"
        self._status: Any = None
        self._last = ""

    def __enter__(self) -> Progress:
        if not self._silent and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status("")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
            if self._last:
                print(self._last, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Show `text` instead of what was said before."""
        if self._silent or text == self._last:
            return
        self._last = text
        if self._status is None:
            print(text, file=sys.stderr, flush=True)
        else:
            from rich.text import Text

            self._status.update(Text(text))


def until(client: Client, missing: Callable[[], str], *, what: str, so_far: str, look: str) -> None:
    """Until `missing()` is empty; meanwhile it says what is still waited for.

    `what`: who is waited for; `so_far`: what has been done already; `look`: the command that shows
    how it went on. Raises WarrenError `timeout` at the client's deadline, `interrupted` on Ctrl-C;
    what does not pass keeps its code, with `so_far` before its sentence.
    """
    why = ""
    try:
        with Progress(client.settings) as progress:
            while client.deadline.remaining_s() > 0:
                try:
                    why = missing()
                except WarrenError as error:
                    # The last look is cut short by the deadline: that is not what failed.
                    if client.deadline.remaining_s() > 0 and not client.passes(error):
                        # Nobody may think that nothing has been done.
                        raise error.worded(
                            f"{so_far}, but waiting for {what} has failed: {error.message}; "
                            f"look again with: {look}",
                        ) from None
                    why = error.message
                if not why:
                    return
                progress.say(f"waiting for {what}: {why}")
                time.sleep(_POLL_PAUSE_S)
    except KeyboardInterrupt:
        raise WarrenError("interrupted", f"not waiting any more; {so_far}: {look}") from None
    raise WarrenError(
        "timeout",
        f"{so_far}, but after {client.deadline.timeout_s:g} s still waiting for {what}: {why}; "
        f"look again with: {look}",
    )


def progress_text(name: str, now: api_pb2.ServiceProgress) -> str:
    """As in `web: 3/5 running, 2 pending: not enough memory`."""
    counts = [f"{now.running}/{now.desired} running"]
    for number, label in ((now.pending, "pending"), (now.failing, "failing")):
        if number:
            counts.append(f"{number} {label}")
    if leaving := now.leaving - now.stranded:
        counts.append(f"{leaving} leaving")
    if now.stranded:
        counts.append(f"{now.stranded} left on nodes that are down or paused")
    reason = f": {now.reason}" if now.reason and now.running < now.desired else ""
    return f"{name}: {', '.join(counts)}{reason}"


def wait_running(
    client: Client, service_id: bytes, spec: objects_pb2.ServiceSpec, version: int
) -> None:
    """Until all containers of `version` (or a later one) run and older ones are gone, but for those
    on nodes that are down, or paused: when such a node is back, or active, they go.

    Where the restart policy lets containers end, those that have ended count too. Raises
    WarrenError `timeout` at the client's deadline, `interrupted` on Ctrl-C: the service stays.
    """

    def done(now: api_pb2.ServiceProgress) -> bool:
        if now.gone:
            raise WarrenError("not_found", f"service {spec.name} was removed meanwhile")
        if now.version < version or now.leaving > now.stranded:
            return False
        return now.running >= now.desired or _all_ended(client, spec, now)

    _wait(client, service_id, spec.name, done, "running")


def wait_gone(client: Client, service_id: bytes, name: str) -> None:
    """Until nothing of a removed service is left. Raises as `wait_running`."""
    _wait(client, service_id, name, lambda now: now.gone, "removed")


def _wait(client: Client, service_id: bytes, name: str, done: Any, goal: str) -> None:
    last = ""
    try:
        with Progress(client.settings) as progress:
            while client.deadline.remaining_s() > 0:
                try:
                    for now in _changes(client, service_id):
                        if not now.gone:
                            last = progress_text(name, now)
                            progress.say(last)
                        if done(now):
                            return
                except WarrenError as error:
                    if error.code == "not_found" and goal == "removed":
                        return
                    # What became of the service tells what became of the change.
                    if error.code == "not_found":
                        raise
                    if not client.passes(error):
                        raise error.worded(f"{error.message}; {_stays(name, goal)}") from None
                    if error.code != "no_answer" or not last:
                        last = error.message
                        progress.say(f"{name}: {last}")
                time.sleep(min(_REOPEN_PAUSE_S, client.deadline.remaining_s()))
    except KeyboardInterrupt:
        raise WarrenError("interrupted", f"not waiting any more; {_stays(name, goal)}") from None
    raise WarrenError(
        "timeout",
        f"service {name} is not {goal} after {client.deadline.timeout_s:g} s ({last}); "
        f"{_stays(name, goal)}",
    )


def _changes(client: Client, service_id: bytes) -> Any:
    request = api_pb2.WatchServiceRequest(service_id=service_id)
    return client.stream("WatchService", request, client.deadline.remaining_s())


def _stays(name: str, goal: str) -> str:
    if goal == "removed":
        return f"the removal goes on: warrenctl service ps --all {name}"
    return f"the service stays and Warren goes on trying: warrenctl service ps {name}"


def _all_ended(client: Client, spec: objects_pb2.ServiceSpec, now: api_pb2.ServiceProgress) -> bool:
    """Whether every slot runs or has completed, where completing is an end."""
    endings = (objects_pb2.RESTART_CONDITION_NONE, objects_pb2.RESTART_CONDITION_ON_FAILURE)
    if spec.container.restart not in endings or now.pending or now.failing:
        return False
    answer: api_pb2.ListSlotsResponse = client.call(
        "ListSlots", api_pb2.ListSlotsRequest(ref=now.service_id.hex())
    )
    good = (objects_pb2.CONTAINER_STATE_RUNNING, objects_pb2.CONTAINER_STATE_COMPLETE)
    return len(answer.slots) >= now.desired and all(
        slot.container.status.state in good for slot in answer.slots
    )
