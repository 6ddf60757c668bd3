"""One log pipeline for Python's records and the core's: one JSON object a line on stderr.

Who logs never waits: a line is made in the calling thread and put into a bounded queue, from
which one thread writes. When stderr is not read, the queue fills; what does not fit is dropped
and counted, and a line says so once there is room again. Under systemd the lines go to journald
in its own form, and to people in theirs on a terminal. Of what repeats, and of what is too much,
lines are left out and counted (`log_sampling`).

Fields come from `extra=`, or from a bound logger:

    log = get_logger("api").bind(method="CreateService")
    log.info("created", extra={"service_id": service_id})
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from warren.observe.log_levels import ALL, DEFAULT, LevelRow, Levels
from warren.observe.log_lines import (
    LEVELS,
    LINE_BYTES_MAX,
    Encoder,
    bounded_text,
    encode_console,
    encode_journal,
    encode_json,
    level_name,
    level_number,
)
from warren.observe.log_sampling import LeftOut, Sampler
from warren.observe.log_sinks import (
    JOURNAL_SOCKET,
    JournalSink,
    Sink,
    StreamSink,
    is_journal,
)

if TYPE_CHECKING:
    from warren.observe.metrics import Metrics

__all__ = [
    "LEVELS",
    "LINE_BYTES_MAX",
    "BoundLogger",
    "LogPipeline",
    "encode_console",
    "encode_json",
    "get_logger",
    "level_name",
    "level_number",
]

QUEUE_MAX: Final = 4096
BATCH_MAX: Final = 256
# How late an interval may end, or a level that was set for a time.
_TICK_S: Final = 0.25

_GRPC: Final = "grpc._cython.cygrpc"
_ROOT: Final = "warren"
# What the core says that has another name here.
_CORE_LEVELS: Final = {"trace": "debug", "warning": "warn"}
_RECORD_KEYS: Final = frozenset(
    {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}
)


class BoundLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds the same fields to every line."""

    def __init__(self, logger: logging.Logger, fields: Mapping[str, object]) -> None:
        super().__init__(logger, dict(fields))

    def bind(self, **fields: object) -> BoundLogger:
        """The same logger with more fields."""
        return BoundLogger(self.logger, {**(self.extra or {}), **fields})

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Join the bound fields with the line's own, which win."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_logger(component: str) -> BoundLogger:
    """The logger of a component, such as `api`, `session`, `runtime`."""
    return BoundLogger(logging.getLogger(f"{_ROOT}.{component}"), {})


class LogPipeline(logging.Handler):
    """Takes records, writes lines to `fd`. `install` makes it the process's log.

    `console`: for people, or not; None: on a terminal, and journald's own form where `fd` is its
    stream by `env`. `clock` gives seconds since the epoch, for lines that are not Python's own
    records.
    """

    def __init__(
        self,
        *,
        level: str = "info",
        fd: int | None = None,
        console: bool | None = None,
        queue_max: int = QUEUE_MAX,
        clock: Callable[[], float] = time.time,
        env: Mapping[str, str] = os.environ,
        journal: Path = JOURNAL_SOCKET,
    ) -> None:
        super().__init__()
        self._encode, self._sink = _destination(
            sys.stderr.fileno() if fd is None else fd, console, env, journal
        )
        self._clock = clock
        self._levels = Levels(level)
        self._levels_lock = threading.RLock()
        self._sampler = Sampler()
        self._listener: Callable[[bool], None] | None = None
        # A SimpleQueue, because its `put` may be entered again: a destructor that the garbage
        # collector runs in the middle of one may log too.
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queue_max = queue_max
        self._dropped = 0
        self._dropped_told = 0
        self._written = 0
        self._writer = threading.Thread(target=self._write_lines, name="warren-log", daemon=True)
        self._writer.start()

    def install(self) -> None:
        """Send Warren's records from its level on, and other libraries' warnings, here."""
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(logging.WARNING)
        self._apply_levels({})
        logging.captureWarnings(True)
        logging.getLogger(_GRPC).addFilter(_is_news)

    @property
    def log_level(self) -> str:
        """The name of the level from which lines are written, where a component has none."""
        return self._levels.level(ALL)

    @property
    def configured_level(self) -> str:
        """The one that `default` goes back to."""
        return self._levels.configured

    def set_level(self, name: str) -> None:
        """Another level is configured; what components have of their own stays.

        ValueError when it is none of LEVELS.
        """
        with self._levels_lock:
            self._levels.configure(name)
            self._apply_levels(self._levels.own())

    def set_component_level(self, component: str, level: str, for_s: float = 0.0) -> None:
        """Give a component, or `all`, a level of its own; see `Levels.set`. UnknownError."""
        with self._levels_lock:
            before = self._levels.own()
            self._levels.set(component, level, for_s)
            self._apply_levels(before)
        until = f" for {for_s:.0f} s" if for_s > 0 and level != DEFAULT else ""
        self._say("info", f"the log level of {component} is {level}{until}, as asked", {})

    def level_rows(self) -> list[LevelRow]:
        """The level of each component, `all` first."""
        return self._levels.rows()

    def _apply_levels(self, before: Mapping[str, str]) -> None:
        """Tell Python's loggers, so that what is not written is not made; `before`: as it was."""
        own = self._levels.own()
        logging.getLogger(_ROOT).setLevel(self._levels.threshold(ALL))
        for component in (before.keys() | own.keys()) - {ALL}:
            level = LEVELS[own[component]] if component in own else logging.NOTSET
            logging.getLogger(f"{_ROOT}.{component}").setLevel(level)
        if self._listener is not None:
            self._listener(self._levels.any_debug)

    def on_verbosity(self, listener: Callable[[bool], None]) -> None:
        """Tell `listener`, now and at each change of levels, whether lines of debug are wanted.

        Of any component: for the core, which makes none otherwise. From any thread; in place of the
        listener before.
        """
        self._listener = listener
        listener(self._levels.any_debug)

    def declare(self, metrics: Metrics) -> None:
        """Export the queue's depth and what was written, left out and dropped."""
        metrics.gauge_function(
            "warren_log_queue_depth", "Log lines waiting to be written.", self._queue.qsize
        )
        metrics.counter_function(
            "warren_log_lines_total", "Log lines written.", lambda: self._written
        )
        metrics.counter_function(
            "warren_log_dropped_total",
            "Log lines dropped because stderr was not read fast enough or failed.",
            lambda: self._dropped,
        )
        metrics.counter_table(
            "warren_log_suppressed_total",
            "Log lines left out because they repeated, or were too many of a component.",
            ("component", "reason"),
            lambda: self._sampler.suppressed,
        )

    @property
    def dropped(self) -> int:
        """Lines dropped so far."""
        return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        """Take one of Python's records; called by `logging`."""
        try:
            fields = {k: v for k, v in record.__dict__.items() if k not in _RECORD_KEYS}
            component = record.name.removeprefix(f"{_ROOT}.")
            level, message = level_name(record.levelno), _message(record)
            constant = bool(record.args) and record.msg != "%s"
            text = record.msg if constant else message
            if not self._sampler.admit(level, component, text, fields, constant=constant):
                return
            self._add_exception(record, component, fields)
            line = self._encode(level, record.created, component, message, fields)
        except Exception:  # noqa: BLE001 - logging must not raise
            self.handleError(record)
            return
        self._put(line)

    def emit_core(
        self,
        level: str,
        component: str,
        message: str,
        fields_json: bytes,
        time_ms: int | None = None,
    ) -> None:
        """Take a line from the core. `fields_json` is a JSON object, or empty.

        `time_ms`: when the core said it, since the epoch. It may be taken much later, by a loop
        that was held up: just then the line is needed. None: now.
        """
        known = _CORE_LEVELS.get(level, level)
        name = known if known in LEVELS else "error"
        if LEVELS[name] < self._levels.threshold(component):
            return
        try:
            fields = msgspec.json.decode(fields_json or b"{}", type=dict[str, Any])
        except msgspec.DecodeError:
            fields = {"fields": fields_json.decode("utf-8", "backslashreplace")}
        if self._sampler.admit(name, component, message, fields, constant=False):
            seconds = self._clock() if time_ms is None else time_ms / 1000
            self._put(self._encode(name, seconds, component, message, fields))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count a record that could not be made a line; the default would print to stderr."""
        self._dropped += 1

    def _add_exception(
        self, record: logging.LogRecord, component: str, fields: dict[str, object]
    ) -> None:
        if not record.exc_info or record.exc_info[1] is None:
            return
        error = record.exc_info[1]
        fields.setdefault("error", f"{type(error).__name__}: {bounded_text(error)}")
        if self._levels.threshold(component) <= logging.DEBUG:
            fields["traceback"] = "".join(traceback.format_exception(error))

    def _put(self, line: bytes) -> None:
        if self._queue.qsize() >= self._queue_max:
            self._dropped += 1
        else:
            self._queue.put(line)

    def _say(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """A line of the log about itself."""
        self._put(self._encode(level, self._clock(), "log", message, fields))

    # The thread that writes

    def _write_lines(self) -> None:
        tick_s = 0.0
        while True:
            lines = self._wait()
            self._write([line for line in lines if line is not None])
            ending = bool(lines) and lines[-1] is None
            if ending or time.monotonic() >= tick_s:
                tick_s = time.monotonic() + _TICK_S
                self._end_intervals(everything=ending)
            if ending:
                self._sink.close()
                return

    def _wait(self) -> list[bytes | None]:
        """What is queued; nothing, where a level or an interval may have ended meanwhile."""
        timed = self._levels.ending or self._sampler.busy
        lines: list[bytes | None] = []
        try:
            lines.append(self._queue.get(timeout=_TICK_S if timed else None))
            while len(lines) < BATCH_MAX and lines[-1] is not None:
                lines.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return lines

    def _end_intervals(self, *, everything: bool) -> None:
        with self._levels_lock:
            before = self._levels.own()
            over = self._levels.expire()
            if over:
                self._apply_levels(before)
        for component in over:
            level = self._levels.level(component)
            self._say("info", f"the log level of {component} is {level} again", {})
        self._write([self._told(each) for each in self._sampler.collect(everything=everything)])

    def _told(self, left: LeftOut) -> bytes:
        what = f"like this: {left.text}" if left.text else "of many kinds"
        return self._encode(
            left.level,
            self._clock(),
            left.component,
            f"{left.missing} more {what}",
            {**left.fields, "left_out": left.missing},
        )

    def _write(self, lines: list[bytes]) -> None:
        told = self._tell_dropped()
        if not told and not lines:
            return
        written = max(0, self._sink.write([*told, *lines]) - len(told))
        self._written += written
        self._dropped += len(lines) - written

    def _tell_dropped(self) -> list[bytes]:
        missed = self._dropped - self._dropped_told
        if not missed:
            return []
        self._dropped_told += missed
        text = f"{missed} log lines were dropped here: stderr was not read fast enough"
        return [self._encode("warn", self._clock(), "log", text, {"dropped": missed})]

    def close(self, timeout_ms: int = 1000) -> None:
        """Write what is queued, for at most `timeout_ms`. Also called when Python exits."""
        if self._writer.is_alive():
            self._queue.put(None)
            self._writer.join(timeout_ms / 1000)
        super().close()


def _destination(
    fd: int, console: bool | None, env: Mapping[str, str], journal: Path
) -> tuple[Encoder, Sink]:
    if console is None and is_journal(env, fd):
        return encode_journal, JournalSink(journal)
    if os.isatty(fd) if console is None else console:
        return encode_console, StreamSink(fd)
    return encode_json, StreamSink(fd)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - logging must not raise
        return f"{bounded_text(record.msg)} {bounded_text(record.args)}"


def _is_news(record: logging.LogRecord) -> bool:
    """Not that an answer met nobody any more: its caller has gone, and knows it."""
    return "ExecuteBatchError" not in record.getMessage()
