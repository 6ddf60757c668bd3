"""Calls to a cluster: which host is asked, what is tried again, and when that is given up."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from warren.cli import hosts
from warren.errors import PASSING, WarrenError

# After `hosts`, which tells gRPC to be quiet.
import grpc  # isort: skip

from warren import rpc
from warren.pb.v1 import commands_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from warren.cli.common import Settings

__all__ = ["Client", "Deadline"]

CALL_TIMEOUT_S: Final = 60.0
"""How long a command goes on trying where `--timeout` says nothing."""

ELECTION_TIMEOUT_S: Final = 3.0
"""How long a cluster may be without a leader; an election takes less than a second."""

_ATTEMPT_TIMEOUT_S: Final = 15.0
# With other hosts to go to, one that is silent is left sooner: longer with each round of them.
_ATTEMPT_AMONG_SEVERAL_S: Final = 5.0
# A host that was cut off says nothing at all: long enough for another continent, and at first, with
# other hosts to go to, for the next city.
_CONNECT_TIMEOUT_S: Final = 3.0
_CONNECT_AMONG_SEVERAL_S: Final = 1.0
_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_LAST_S: Final = 1.0
# Silence for longer than this makes people wonder.
_QUIET_S: Final = 2.0
_STALE_METADATA: Final = ((rpc.STALE_KEY, "1"),)

# Of no use to ask the same host again; others may have a majority, or manage at all.
_HOPELESS: Final = frozenset({"no_quorum", "worker_only", "not_in_cluster", "member_removed"})
# Another host may do better at once.
_ELSEWHERE: Final = _HOPELESS | {
    "unavailable",
    "no_leader",
    "not_leader",
    "shutting_down",
    "no_answer",
    "outcome_unknown",
}
# The same host may do better in a moment.
_RETRIED: Final = _ELSEWHERE | {"handing_over", "overloaded"}
# These tell nothing of the attempts before; what the state says of a request (`name_taken`) does.
_SETTLES_NOTHING: Final = _RETRIED | {
    *("data_dir", "denied", "internal", "log_damaged", "no_space"),
    *("request_too_old", "unknown_method"),
}
# There may be no leader behind these either.
_LEADERLESS: Final = frozenset({"unavailable", "no_leader", "not_leader", "shutting_down"})


class Deadline:
    """A point in time of the monotonic clock."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end_s = time.monotonic() + timeout_s

    def remaining_s(self) -> float:
        """Seconds left; 0 once it has passed."""
        return max(0.0, self._end_s - time.monotonic())


class _Troubles:
    """What went wrong so far in one call, and whether it is worth going on."""

    def __init__(self, hosts_count: int, unreached: set[int]) -> None:
        self._hosts_count = hosts_count
        self._failed = unreached
        self._hopeless: WarrenError | None = None
        self._no_leader: WarrenError | None = None
        self._leaderless_since_s = 0.0
        self._in_doubt = False

    def final(self, host: int, why: WarrenError) -> WarrenError | None:
        """The failure that the call ends with; None: try again. `host`: whose failure `why` is."""
        self._in_doubt |= why.code == "outcome_unknown"
        if why.code not in _RETRIED:
            return why
        self._failed.add(host)
        # What a manager says of its cluster tells more than that others are none.
        if why.code == "no_quorum" or (why.code in _HOPELESS and self._hopeless is None):
            self._hopeless = why
        # Managers on the other side of a partition may have a majority: each is asked, but once.
        if self._hopeless is not None and len(self._failed) >= self._hosts_count:
            return self._hopeless
        return self._election(why)

    def told(self, why: WarrenError, name: str) -> WarrenError:
        """What is said of a call, named so, that ends with `why`.

        Where an attempt may have taken effect, the last one's failure must not hide that.
        """
        if not self._in_doubt or why.code == "outcome_unknown" or why.code not in _SETTLES_NOTHING:
            return why
        doubt = WarrenError(
            "outcome_unknown",
            "an attempt got no answer, and the request may still take effect: look at the result "
            f"before trying anew; the last attempt: {why.message}",
        )
        doubt.request_id = name
        return doubt

    def _election(self, why: WarrenError) -> WarrenError | None:
        now_s = time.monotonic()
        if why.code not in _LEADERLESS:
            self._no_leader = None
        elif why.code == "no_leader":
            if self._no_leader is None:
                self._leaderless_since_s = now_s
            self._no_leader = why
        waited = now_s - self._leaderless_since_s >= ELECTION_TIMEOUT_S
        return self._no_leader if waited else None


class Client:
    """Calls to the daemons that `--host` names, one at a time. Every call ends by the deadline.

    `local`: the calls concern the host they are made on, so that only a Unix socket will do.

    Raises WarrenError: `unavailable`, `denied` or `invalid` on construction, where no host can be
    used; a refusal's own code later.
    """

    def __init__(
        self, settings: Settings, timeout_s: float = CALL_TIMEOUT_S, *, local: bool = False
    ) -> None:
        self.settings = settings
        self.deadline = Deadline(settings.timeout_s(timeout_s))
        named = hosts.parse(settings.host)
        self._hosts = [host for host in named if host.path] if local else named
        if not self._hosts:
            raise _no_socket()
        self._open: dict[int, hosts.Connection] = {}
        self._unreached: set[int] = set()
        several = len(self._hosts) > 1
        self._connect_s = _CONNECT_AMONG_SEVERAL_S if several else _CONNECT_TIMEOUT_S
        self._name = os.urandom(16)
        self._sequence = 0
        self._reads = 0
        self._at = self._first_reachable()
        # What is asked of one node is asked of the same each time, whoever else answers meanwhile.
        self._node_at = next((n for n, host in enumerate(self._hosts) if host.path), None)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._open.values():
            connection.close()

    def renew(self) -> None:
        """Begin the deadline anew, for those who ask again and again."""
        self.deadline = Deadline(self.deadline.timeout_s)

    def passes(self, why: WarrenError) -> bool:
        """Whether who waits had better ask again: it passes, or the next host may do better."""
        return why.code in PASSING or (len(self._hosts) > 1 and why.code in _ELSEWHERE)

    def request_id(self) -> commands_pb2.RequestId:
        """A new one. Sent again with the same request, it has no second effect."""
        self._sequence += 1
        return commands_pb2.RequestId(client=self._name, sequence=self._sequence)

    def call(
        self,
        method: str,
        request: Message,
        *,
        retry: bool = True,
        attempt_timeout_s: float | None = None,
    ) -> Any:
        """One call of the manager or the node service.

        Repeated, on the next host where there is one, while the daemon is out of reach, busy or in
        doubt: the request must be a read or carry a request id; otherwise `retry` is False. After a
        failure that another host may not have, the next call goes to that one.
        `attempt_timeout_s`: how long one attempt may take, where that is known to be longer.
        """
        size_bytes = request.ByteSize()
        if size_bytes > rpc.MESSAGE_LIMIT_BYTES:
            raise rpc.too_large("the request", size_bytes)
        # What is asked of one node another cannot answer.
        candidates = len(self._hosts) if method in rpc.MANAGER else 1
        troubles = _Troubles(candidates, set(self._unreached))
        name = self._name_of(request)
        started_s = time.monotonic()
        pause_s = _BACKOFF_FIRST_S
        failures = 0
        said = False
        while True:
            limit_s = attempt_timeout_s
            if limit_s is None:
                limit_s = _attempt_s(candidates, failures // candidates)
                if retry:
                    # However little time there is: one that hangs leaves the others their share.
                    left = candidates - failures % candidates
                    limit_s = min(limit_s, self.deadline.remaining_s() / left)
            try:
                return self._attempt(method, request, name, limit_s)
            except WarrenError as error:
                why = error
            final = troubles.final(self._at_of(method), why)
            if not retry:
                self._go_elsewhere(method, why)
                raise why
            if final is not None or self.deadline.remaining_s() <= pause_s:
                raise troubles.told(final or why, name)
            failures += 1
            if candidates > 1 and why.code in _ELSEWHERE:
                self._at = (self._at + 1) % candidates
                if failures % candidates:
                    continue
            if not said and time.monotonic() - started_s > _QUIET_S:
                said = True
                self._say(f"{why.message}; trying for {self.deadline.remaining_s():.0f} s more")
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _BACKOFF_LAST_S)

    def stream(
        self, method: str, request: Message | Iterator[Message], timeout_s: float | None
    ) -> Iterator[Any]:
        """The answers of a streaming call; cancelled when the iterator is closed.

        After a failure that another host may not have, the next call goes to that one.
        """
        name = self._name_of(request)
        try:
            call = self._reached(method).method(method)(
                request, timeout=timeout_s, metadata=self._metadata(name)
            )
            try:
                yield from call
            except grpc.RpcError as error:
                raise _failure(error, method, name) from None
            finally:
                call.cancel()
        except WarrenError as why:
            self._go_elsewhere(method, why)
            raise

    def _go_elsewhere(self, method: str, why: WarrenError) -> None:
        if method in rpc.MANAGER and why.code in _ELSEWHERE:
            self._at = (self._at + 1) % len(self._hosts)

    def _attempt(self, method: str, request: Message, name: str, limit_s: float) -> Any:
        connection = self._reached(method)
        timeout_s = min(limit_s, self.deadline.remaining_s())
        metadata = self._metadata(name)
        try:
            return connection.method(method)(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise _failure(error, method, name) from None

    def _name_of(self, request: Message | Iterator[Message]) -> str:
        """What a request is called in logs: by its own id, or a new one."""
        own = getattr(request, "request", None)
        if isinstance(own, commands_pb2.RequestId) and own.client:
            return rpc.request_id_text(own)
        self._reads += 1
        return f"{self._name.hex()}-r{self._reads}"

    def _metadata(self, name: str) -> tuple[tuple[str, str], ...]:
        named = ((rpc.REQUEST_ID_KEY, name),)
        return (*_STALE_METADATA, *named) if self.settings.stale else named

    def _at_of(self, method: str) -> int:
        if method in rpc.MANAGER:
            return self._at
        if self._node_at is None:
            raise _no_socket()
        return self._node_at

    def _reached(self, method: str) -> hosts.Connection:
        at = self._at_of(method)
        try:
            return self._connection(at)
        except WarrenError as error:
            if len(self._hosts) == 1:
                raise
            # Whatever is in the way, the others may be better.
            raise WarrenError("unavailable", error.message) from None

    def _connection(self, at: int) -> hosts.Connection:
        known = self._open.get(at)
        if known is None:
            timeout_s = min(self._connect_s, self.deadline.remaining_s())
            known = hosts.Connection(self._hosts[at], self.settings, timeout_s)
            self._open[at] = known
            self._unreached.discard(at)
        return known

    def _first_reachable(self) -> int:
        """The first host that answers; where none does, with more patience once more."""
        failures = []
        for number in range(len(self._hosts)):
            try:
                self._connection(number)
            except WarrenError as error:
                failures.append(error)
                self._unreached.add(number)
            else:
                return number
        if len(failures) == 1:
            raise failures[0]
        if self._connect_s < _CONNECT_TIMEOUT_S:
            self._connect_s = _CONNECT_TIMEOUT_S
            return self._first_reachable()
        codes = {error.code for error in failures}
        raise WarrenError(
            codes.pop() if len(codes) == 1 else "unavailable",
            "none of the hosts can be reached: " + "; ".join(error.message for error in failures),
        )

    def _say(self, text: str) -> None:
        if self.settings.format == "table":
            print(text, file=sys.stderr, flush=True)


def _failure(error: grpc.RpcError, method: str, request_name: str) -> WarrenError:
    why = rpc.failure(error, method)
    why.request_id = request_name
    return why


def _no_socket() -> WarrenError:
    return WarrenError(
        "invalid",
        "this is asked of the host that it is typed on; name its daemon's socket: "
        "--host unix:///run/warren/warren.sock",
    )


def _attempt_s(candidates: int, rounds: int) -> float:
    if candidates == 1:
        return _ATTEMPT_TIMEOUT_S
    return min(_ATTEMPT_AMONG_SEVERAL_S * (rounds + 1), _ATTEMPT_TIMEOUT_S)
